"""The commands that a dashboard names are ones that there are."""

import pytest

from mistudio.report.commands import missing_commands
from mistudio.steps import STEPS
from tests.support.fake_meaning import publish_meaningful_run


def test_no_trial_is_offered_where_find_was_to_make_none(store, monkeypatch):
    features, _, scores = publish_meaningful_run(store, 3)
    monkeypatch.setitem(features.manifest.config, "ablation_contexts", 0)
    assert "try" in missing_commands(features, scores)  # attributions are left
    monkeypatch.setitem(features.manifest.config, "attribution_contexts", 0)
    assert missing_commands(features, scores).keys() == {"explain", "score"}


@pytest.mark.parametrize("what", ["try", "explain", "score"])
def test_a_command_of_the_page_is_a_step_with_these_options(what, store):
    features, _, scores = publish_meaningful_run(store, 3)
    words = missing_commands(features, scores)[what].split()
    (step,) = (each for each in STEPS.values() if each.command == words[1])
    known = {each.name for each in step.inputs} | {leaf.name for leaf in step.options}
    assert {word.removeprefix("--") for word in words if word.startswith("--")} <= known
