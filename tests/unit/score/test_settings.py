"""Which settings reach which scorer, and what recipes hold of them."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from pydantic import BaseModel

from mistudio.artifacts import Artifact
from mistudio.errors import InputError
from mistudio.explain import ExplainConfig, JudgeSource, explain
from mistudio.explain import registry as registry_module
from mistudio.score import ScoreConfig, read_scores, score
from mistudio.score.config import PROGRAM, SCORERS
from mistudio.score.intervention import InterventionScorer
from mistudio.score.records import Case, Score, Scorer
from tests.support.oracle import Direct, Oracle, planted_cases
from tests.support.scripted_server import Answer
from tests.support.steered import Written
from tests.support.tiny import tiny_llama
from tests.support.tiny_run import CPU, TinyRun

ASKERS = [name for name in SCORERS.built_in if name != PROGRAM]


class Erring(Oracle):
    """Wrong about half of the prompts and half of the texts, so that documents differ."""

    def chat(self, system: str, prompt: str) -> Answer:
        if '{"continuation"' in system:
            return Answer(json.dumps({"continuation": "AB"[sum(map(ord, prompt)) % 2]}))
        return Answer("no") if sum(map(ord, prompt)) % 2 else super().chat(system, prompt)

    def losses(self, text: str) -> list[tuple[str, float]]:
        return [(piece, value * (1 + sum(map(ord, text)) % 7)) for piece, value in super().losses(text)]

    def embed(self, text: str) -> list[float]:
        return [float(sum(map(ord, text)) % 5), 1.0, *super().embed(text)]


def scores(name: str, resamples: int) -> list[Score]:
    config = ScoreConfig(resamples=resamples)
    return list(_scorer(name, config).score(planted_cases(3, 40)))


def _scorer(name: str, config: ScoreConfig) -> Scorer:
    if name == "intervention":
        return InterventionScorer(Direct(Erring()), Written(num_prompts=20), config.resamples)
    return SCORERS.new(name, config, Direct(Erring()), 0)


def recipe(*scorers: str, **settings: object) -> dict[str, object]:
    config = ScoreConfig.model_validate({"scorers": scorers, **settings})
    return SCORERS.recipe(config.scorers, config, ["scorers"])


@pytest.mark.parametrize("name", ASKERS)
def test_the_number_of_resamples_moves_the_intervals_and_not_the_figures(name: str) -> None:
    few, many = scores(name, 20), scores(name, 400)
    assert all(math.isfinite(one.low) for one in few)
    assert [one.value for one in few] == [one.value for one in many]
    assert [(one.low, one.high) for one in few] != [(one.low, one.high) for one in many]


@pytest.fixture(scope="module")
def explanations(llama: TinyRun, features: Artifact) -> Artifact:
    return explain(llama.store, features, llama.source, CPU, ExplainConfig(max_tokens=100_000)).artifact


def test_the_number_of_resamples_moves_the_intervals_of_programs_too(llama: TinyRun, explanations: Artifact) -> None:
    few, many = (
        list(read_scores(score(llama.store, explanations, llama.source, CPU, ScoreConfig(resamples=number)).artifact))
        for number in (20, 100)
    )
    assert [one.metric for one in few] == [one.metric for one in many]
    assert all(one.value == two.value or math.isnan(one.value) for one, two in zip(few, many, strict=True))
    moved = [one.low != two.low for one, two in zip(few, many, strict=True) if math.isfinite(one.low)]
    assert sum(moved) > len(moved) / 2


def test_scores_of_programs_are_found_whatever_the_settings_of_others(llama: TinyRun, explanations: Artifact) -> None:
    made = score(llama.store, explanations, llama.source, CPU, ScoreConfig(resamples=20)).artifact
    others = ScoreConfig.model_validate(
        {"resamples": 20, "judged": {"num_active": 2}, "steering": {"target_kl": 3}, "examples": {"strata": 2}}
    )
    judge = JudgeSource({"model": "unused"}, Direct)
    assert score(llama.store, explanations, llama.source, CPU, others, judge=judge).found
    assert made.manifest.config == {
        "scorers": ["program"],
        "versions": {"program": 1},
        "resamples": 20,
        "max_tokens": 200_000,
        "block_features": 128,
        "plugins": {},
        "judge": None,
    }


def test_a_scorers_own_settings_are_in_its_recipe_and_in_no_others() -> None:
    for name, field, changed in (
        ("simulation", "simulation", {"num_examples": 4}),
        ("intruder", "intruder", {"choices": 3}),
        ("intervention", "steering", {"target_kl": 2.0}),
        ("detection", "judged", {"per_prompt": 2}),
    ):
        assert recipe(name, **{field: changed}) != recipe(name)
        assert recipe(PROGRAM, **{field: changed}) == recipe(PROGRAM)
    assert recipe("detection", intruder={"choices": 3}) == recipe("detection")


@pytest.mark.parametrize("name", SCORERS.built_in)
def test_another_version_of_a_scorer_is_another_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, method = recipe(name), SCORERS.built_in[name]
    monkeypatch.setitem(SCORERS.built_in, name, replace(method, version=method.version + 1))
    assert recipe(name) != before


def test_intervention_runs_the_model_that_was_captured_and_names_it(
    llama: TinyRun, explanations: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = ScoreConfig.model_validate(
        {"scorers": ["intervention"], "steering": {"num_prompts": 1, "new_tokens": 1, "search_steps": 1}}
    )
    judge = JudgeSource({"model": "erring"}, lambda: _Opened(Direct(Erring())))
    made = score(llama.store, explanations, llama.source, CPU, config, judge=judge).artifact
    assert made.manifest.inputs["subject"].digest == llama.source.digest
    assert (made.manifest.config["subject_dtype"], made.manifest.config["quantization"]) == ("float32", "none")
    assert made.manifest.config["steering"]["target_kl"] == 1.0
    other = tiny_llama(tmp_path_factory.mktemp("other"), seed=5)  # the same tokenizer, other weights
    assert other.tokenizer_digest == llama.source.tokenizer_digest
    with pytest.raises(InputError, match="was captured from"):
        score(llama.store, explanations, other, CPU, config, judge=judge)


class _Opened:
    """A judge for a ``with`` block."""

    def __init__(self, judge: Direct) -> None:
        self.judge = judge

    def __enter__(self) -> Direct:
        return self.judge

    def __exit__(self, *_error: object) -> None:
        pass


class LengthConfig(BaseModel):
    scale: float = 1.0


class Length:
    """A scorer of another package with settings of its own, and one of the step's."""

    name = "length"
    needs_judge = False
    takes = ("resamples",)
    config_class = LengthConfig

    def __init__(self, judge: object, seed: int, config: LengthConfig, resamples: int) -> None:
        self.config, self.resamples = config, resamples

    def score(self, cases: Iterable[Case]) -> Iterator[Score]:
        for case in cases:
            value = self.config.scale * len(case.examples)
            yield Score(case.explanation.feature, "program", self.name, "length", value, 0, self.resamples, 1)


class LengthEntry:
    name, value = "length", "somewhere:Length"

    def load(self) -> type[Length]:
        return Length


def test_a_scorer_of_another_package_has_settings_of_its_own(
    llama: TinyRun, explanations: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [LengthEntry()])
    config = ScoreConfig(scorers=("length",), resamples=30, plugins={"length": {"scale": 0.5}})
    made = score(llama.store, explanations, llama.source, CPU, config).artifact
    assert made.manifest.config["plugins"] == {"length": {"scale": 0.5}}
    assert {row.high for row in read_scores(made)} == {30}
    assert max(row.value for row in read_scores(made)) == 40  # of 80 examples
