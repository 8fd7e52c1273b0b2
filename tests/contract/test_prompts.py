"""A prompt that changes raises the version of who asks it, or scores and explanations of the old one would be found.

``prompt_digests.json`` holds the sha256 of what each explainer and scorer asks about a few fixed examples, by name and
version. ``python -m tests.contract.test_prompts`` adds those of new names and versions, and changes none that is there.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from mistudio.explain.config import EXPLAINERS, ExplainConfig, LlmExplainerConfig
from mistudio.explain.judge import BUDGET_REACHED, Judge, Reply, Request, Spending
from mistudio.explain.records import Evidence, Example
from mistudio.score.config import (
    SCORERS,
    IntruderConfig,
    JudgeConfig,
    ScoreConfig,
    SimulationConfig,
)
from mistudio.score.intervention import InterventionScorer
from mistudio.score.records import Case, Scorer
from tests.support.oracle import planted_cases
from tests.support.steered import Written

KNOWN = Path(__file__).with_name("prompt_digests.json")
ASKERS = [
    f"{kind} {name}"
    for kind, methods in (("explainer", EXPLAINERS.built_in), ("scorer", SCORERS.built_in))
    for name, method in methods.items()
    if method.needs_judge
]
# Written out, so that another default, which recipes hold, needs no new version.
EXPLAIN = ExplainConfig(
    llm=LlmExplainerConfig(num_active=8, num_inactive=4, num_promoted=2, features_per_prompt=1, answer_tokens=100)
)
SCORE = ScoreConfig(
    judged=JudgeConfig(num_active=6, num_inactive=6, per_prompt=3, alternatives=5),
    simulation=SimulationConfig(num_examples=4),
    intruder=IntruderConfig(choices=4),
)


class Recorder(Judge):
    """Keeps what it is asked, and answers that there is no money left."""

    def __init__(self) -> None:
        self.model, self.spending = "recorder", Spending()
        self.asked: list[Request] = []

    def ask(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for request in requests:
            self.asked.append(request)
            yield Reply(failure=BUDGET_REACHED)


def cases() -> list[Case]:
    """Two features; the texts of the second hold what marks tokens in those of the first."""
    plain, marked = planted_cases(2, 12)
    shown = tuple(
        one._replace(tokens=(*one.tokens[:-1], " << 1"), values=(*one.values[:-1], 0.0)) for one in marked.examples
    )
    return [
        plain._replace(examples=tuple(map(_near_miss, plain.examples))),
        marked._replace(examples=shown),
    ]


def _near_miss(example: Example) -> Example:
    return example if example.is_active or example.sequence % 4 else example._replace(kind="hard_negative")


def asked_by(asker: str) -> list[Request]:
    """All that it asks about the examples."""
    kind, name = asker.split()
    judge = Recorder()
    if kind == "explainer":
        features = [
            Evidence(case.explanation.feature, case.examples, 0.05, 1.15, promoted=(" then", "\n")) for case in cases()
        ]
        list(EXPLAINERS.new(name, EXPLAIN, judge, 0).explain(features))
    else:
        list(_scorer(name, judge).score(cases()))
    return judge.asked


def _scorer(name: str, judge: Judge) -> Scorer:
    if name == "intervention":
        return InterventionScorer(judge, Written(num_prompts=3), SCORE.resamples)
    return SCORERS.new(name, SCORE, judge, 0)


def key_of(asker: str) -> str:
    kind, name = asker.split()
    method = (EXPLAINERS if kind == "explainer" else SCORERS).built_in[name]
    return f"{asker}/{method.version}"


def digest_of(asker: str) -> str:
    shown = [[type(request).__name__, *request] for request in asked_by(asker)]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


@pytest.mark.parametrize("asker", ASKERS)
def test_a_prompt_that_changed_has_a_new_version(asker: str) -> None:
    known = json.loads(KNOWN.read_bytes())
    assert key_of(asker) in known, f"{key_of(asker)} is new: run python -m tests.contract.test_prompts"
    assert digest_of(asker) == known[key_of(asker)], (
        f"{asker} asks something else than before: raise its version in config.py, then run "
        "python -m tests.contract.test_prompts"
    )


def test_what_is_rendered_covers_every_form_of_a_prompt() -> None:
    text = {asker: "\n".join(map(str, asked_by(asker))) for asker in ASKERS}
    assert all("<<" in text[f"explainer {name}"] for name in ("max-activating", "contrastive"))
    assert "(Here the marks are [[ and ]].)" in text["explainer max-activating"]
    assert "NOT " in text["explainer contrastive"]
    assert all("likelier to go on" in text[asker] for asker in ASKERS if asker.startswith("explainer"))
    assert "stand between [[ and ]]" in text["scorer fuzzing"]
    assert "B: " in text["scorer intervention"]
    assert len(set(map(digest_of, ASKERS))) == len(ASKERS)


if __name__ == "__main__":
    found = json.loads(KNOWN.read_bytes()) if KNOWN.exists() else {}
    new = {key_of(asker): digest_of(asker) for asker in ASKERS if key_of(asker) not in found}
    KNOWN.write_text(json.dumps(dict(sorted((found | new).items())), indent=1) + "\n")
