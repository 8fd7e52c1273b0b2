"""The checks of `make kubeflow-check` hold: one test a check. Those that take long are among the proofs."""

import pytest

from checks.outcome import Check
from checks.programs import predictor_problems, predictors
from checks.registry import CHECKS
from tests.support.manifests import needs_rendering
from tests.support.served import tiny_store

LONG = ("checkov", "predictors", "tracking", "object store", "jobs")


@pytest.mark.parametrize("check", [check for check in CHECKS if check.name not in LONG], ids=lambda check: check.name)
def test_a_check_holds(check: Check) -> None:
    holds(check)


@pytest.mark.proof
@pytest.mark.parametrize("check", [check for check in CHECKS if check.name in LONG], ids=lambda check: check.name)
def test_a_long_check_holds(check: Check) -> None:
    holds(check)


def holds(check: Check) -> None:
    outcome = check.run()
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert not outcome.problems
    assert outcome.seen[0] != "0", "there was nothing to look at"


def test_the_predictor_with_most_arguments_starts_as_its_manifest_says(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    needs_rendering()
    most = predictors()[0]
    assert any("--audit-log" in word for word in most.content["args"])
    tiny = tiny_store(tmp_path_factory)
    assert list(predictor_problems(most, str(tiny.source.path), str(tiny.store.root), str(tiny.sae.uri))) == []
