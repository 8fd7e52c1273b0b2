"""The step steer_evaluate on a tiny model: what it publishes, goes on with, and refuses."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mistudio import steps
from mistudio.artifacts import Artifact, Line
from mistudio.corpus.reader import TokenCorpus
from mistudio.directions.example_files import Files
from mistudio.errors import ConfigError, CorpusError, InputError
from mistudio.explain import ExplainConfig, explain
from mistudio.instrument import open_session
from mistudio.instrument.compiled import Nameable, compile_edits
from mistudio.instrument.edits import Add, Edits
from mistudio.instrument.engine import Engine
from mistudio.steer.evaluate import evaluating
from mistudio.steer.evaluate.bench import Bench, Setting
from mistudio.steer.evaluate.config import SteerEvaluateConfig, TextsConfig
from mistudio.steer.evaluate.records import ABOUT_NAME, EFFECTS, PAGE_NAME, PRESETS, TEXTS, TRIED
from mistudio.steer.evaluate.step import steer_evaluate
from mistudio.steer.evaluate.windows import read_windows
from mistudio.steer.preset_use import edits_of_preset, parts_of
from mistudio.steer.presets import read_preset
from tests.support.found import NUM_SILENT, found_features
from tests.support.labelled_texts import labelled, write_lines
from tests.support.tiny_run import CPU, TinyRun, llama_run

TEXTS_SHORT = {"num_prompts": 6, "prompt_tokens": 4, "new_tokens": 8, "num_windows": 24, "num_rows": 8}
SHORT = {"only": "3-20", "num_features": 2, "factors": (-1.0, 0.5, 2.0), "shown": 2, "texts": TEXTS_SHORT}


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return llama_run(tmp_path_factory)


@pytest.fixture(scope="session")
def features(llama: TinyRun) -> Artifact:
    return found_features(llama)


@pytest.fixture(scope="session")
def explanations(llama: TinyRun, features: Artifact) -> Artifact:
    return explain(llama.store, features, llama.source, CPU, ExplainConfig(only="3-20", max_tokens=1000)).artifact


def evaluated(run: TinyRun, found: Artifact, **settings: Any) -> Artifact:
    others = {name: settings.pop(name) for name in ("explanations", "files", "seed") if name in settings}
    config = SteerEvaluateConfig.model_validate({**SHORT, **settings})
    return steer_evaluate(run.store, found, run.source, CPU, config, **others).artifact


def rows(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(artifact.file(name)).to_pylist()
    return found


@pytest.fixture(scope="session")
def made(llama: TinyRun, features: Artifact, explanations: Artifact) -> Artifact:
    return evaluated(llama, features, explanations=explanations)


def test_every_strength_and_control_is_a_row_with_its_push(made: Artifact) -> None:
    tried = rows(made, TRIED.name)
    for feature in {row["feature"] for row in tried}:
        own = [row for row in tried if row["feature"] == feature]
        assert [row["strength"] for row in own if row["method"] == "feature"] == [-1.0, 0.0, 0.5, 2.0]
        assert sum(row["method"] == "ablated" for row in own) == 1
        assert all(row["texts"] == TEXTS_SHORT["num_prompts"] for row in own)
        by_strength = {row["strength"]: row for row in own if row["method"] == "feature"}
        assert by_strength[0.0]["kl"] == 0
        assert by_strength[0.0]["perplexity_ratio"] == pytest.approx(1)
        assert 0 < by_strength[0.5]["kl"] < by_strength[2.0]["kl"]
        assert by_strength[2.0]["dose"] == pytest.approx(4 * by_strength[0.5]["dose"], rel=1e-4)


def test_controls_push_as_hard_as_the_best_strength(made: Artifact) -> None:
    about = json.loads(made.file(ABOUT_NAME).read_bytes())
    tried = rows(made, TRIED.name)
    usable = [one for one in about["features"] if one["best_strength"] is not None]
    assert usable
    for one in usable:
        own = {row["method"]: row for row in tried if row["feature"] == one["feature"]}
        assert {"difference_of_means", "random_direction", "other_feature", "prompt_examples"} <= own.keys()
        for method in ("difference_of_means", "random_direction", "other_feature"):
            assert own[method]["kl"] == pytest.approx(one["target_kl"], rel=0.03)
        assert own["prompt_examples"]["kl"] > 0
        assert own["prompt_examples"]["dose"] is None


def test_the_range_for_use_is_around_nothing_and_says_its_unit(made: Artifact) -> None:
    about = json.loads(made.file(ABOUT_NAME).read_bytes())
    tried = rows(made, TRIED.name)
    for one in about["features"]:
        ships = one["ship_range"]
        assert ships["unit"] == "feature_max"
        assert ships["low"] <= 0 <= ships["high"]
        for row in tried:
            if row["feature"] == one["feature"] and row["method"] == "feature":
                assert row["in_range"] == (ships["low"] <= row["strength"] <= ships["high"])
                if row["in_range"]:
                    assert row["perplexity_ratio"] <= 1.5


def test_each_usable_feature_comes_as_a_preset_with_its_range_as_factors(made: Artifact, llama: TinyRun) -> None:
    about = json.loads(made.file(ABOUT_NAME).read_bytes())
    usable = [one for one in about["features"] if one["best_strength"] is not None]
    assert len(made.paths(f"{PRESETS}/")) == len(usable) > 0
    for one in usable:
        file = made.file(f"{PRESETS}/feature-{one['feature']}.json")
        preset = read_preset(file.read_bytes(), file.name)
        assert preset.ship_range is not None
        low, high = (factor * one["best_strength"] for factor in preset.ship_range)
        assert (low, high) == pytest.approx((one["ship_range"]["low"], one["ship_range"]["high"]))
        with open_session(Line(llama.store, made).sae, llama.source, CPU) as session:
            nameable = Nameable(session, maxima=[lambda _latent: 1.0])
            (edit,) = edits_of_preset(preset, parts_of(nameable)).edits
        assert isinstance(edit, Add)
        assert (edit.feature, edit.strength, edit.unit) == (one["feature"], one["best_strength"], "feature_max")


def test_candidates_have_both_effects_and_those_with_the_largest_are_tried(made: Artifact) -> None:
    effects = rows(made, EFFECTS.name)
    assert [row["feature"] for row in effects] == list(range(3, 21))
    assert all(0 <= row["output_score"] <= row["probability"] <= 1 for row in effects)
    best = sorted(effects, key=lambda row: -row["delta_confidence"])[:2]
    assert {row["feature"] for row in effects if row["chosen"]} == {row["feature"] for row in best}
    assert {row["feature"] for row in rows(made, TRIED.name)} == {row["feature"] for row in best}


def test_texts_are_those_behind_held_out_beginnings(made: Artifact, llama: TinyRun) -> None:
    texts = rows(made, TEXTS.name)
    heldout = set(TokenCorpus(llama.corpus).documents("heldout").tolist())
    assert {row["document"] for row in texts} <= heldout
    assert all(row["text"] for row in texts)
    assert len({row["text"] for row in texts if row["method"] == "feature"}) > 2


def test_programs_judge_where_features_are_explained(made: Artifact) -> None:
    described = [row["described"] for row in rows(made, TRIED.name)]
    assert any(value is not None for value in described)
    assert all(value is None or 0 <= value <= 1 for value in described)


def test_the_page_shows_every_feature_and_the_summary_its_means(made: Artifact) -> None:
    page = made.file(PAGE_NAME).read_text()
    about = json.loads(made.file(ABOUT_NAME).read_bytes())
    assert all(f"## Feature {one['feature']}" in page for one in about["features"])
    summary = made.manifest.summary
    assert summary["candidates"] == 18
    assert summary["features"] == 2
    assert 0 <= summary["control.random_direction_rate"] <= 1


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    llama: TinyRun, features: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluated(llama, features, seed=1)
    contents = {path: whole.file(path).read_bytes() for path in whole.paths()}
    tried: list[int] = []
    run = evaluating.Trial.run

    def dies_at_the_second(self: evaluating.Trial, other: int | None) -> Any:
        tried.append(self.feature)
        if len(tried) == 2:
            raise KeyboardInterrupt
        return run(self, other)

    monkeypatch.setattr(evaluating.Trial, "run", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluated(llama, features, shown=1, seed=1)
    resumed = evaluated(llama, features, shown=1, seed=1)
    assert len(tried) == 3
    assert tried[0] not in tried[1:]
    for path in (EFFECTS.name, TRIED.name, ABOUT_NAME):
        assert resumed.file(path).read_bytes() == contents[path]


def test_labelled_examples_choose_features_and_judge_texts(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    files = Files.read(write_lines(tmp_path / "examples.jsonl", labelled(40)))
    made = evaluated(llama, features, only=None, num_candidates=6, files=files)
    assert made.manifest.summary["labels_auroc"] > 0.9
    tried = rows(made, TRIED.name)
    assert all(0 <= row["labelled_low"] <= row["labelled"] <= row["labelled_high"] <= 1 for row in tried)
    assert "examples" in made.manifest.inputs


def test_features_can_be_chosen_by_what_an_equal_push_does(llama: TinyRun, features: Artifact) -> None:
    effects = rows(evaluated(llama, features, only="3-8", choose_by="push_gain", num_features=1), EFFECTS.name)
    gain = {row["feature"]: row["push_gain"] for row in effects}
    assert all(value is not None and math.isfinite(value) for value in gain.values())
    (best,) = (row["feature"] for row in effects if row["chosen"])
    assert gain[best] == max(gain.values())


def test_at_a_push_that_is_set_the_feature_stands_beside_its_controls(llama: TinyRun, features: Artifact) -> None:
    tried = rows(evaluated(llama, features, only="5", target_kl=0.05), TRIED.name)
    pushed = {row["method"]: row["kl"] for row in tried if row["method"] in ("feature_at_push", "random_direction")}
    assert pushed == pytest.approx({"feature_at_push": 0.05, "random_direction": 0.05}, rel=0.03)


def test_what_cannot_be_evaluated_is_refused(llama: TinyRun, features: Artifact, explanations: Artifact) -> None:
    with pytest.raises(InputError, match="never fires|ever fires"):
        evaluated(llama, features, only=f"0-{NUM_SILENT - 1}")
    with pytest.raises(CorpusError, match="ask for shorter texts"):
        evaluated(llama, features, texts={**TEXTS_SHORT, "new_tokens": 100})
    others = found_features(llama, seed=1)
    with pytest.raises(InputError):
        evaluated(llama, others, explanations=explanations)
    with pytest.raises(ValueError, match="which is there anyway"):
        SteerEvaluateConfig(factors=(0.0, 1.0))
    with pytest.raises(ConfigError, match="choose_by"):
        steps.run_step("steer_evaluate", features=features.uri, choose_by="luck", store=llama.store.url)


@contextmanager
def bench_of(run: TinyRun, features: Artifact) -> Iterator[Bench]:
    config = TextsConfig.model_validate({**TEXTS_SHORT, "temperature": 0})
    with open_session(Line(run.store, features).sae, run.source, CPU) as session, Engine(session, 4) as engine:
        yield Bench(session, engine, read_windows(TokenCorpus(run.corpus), config, 0), config)


def test_a_vector_moves_predictions_as_the_engine_says(llama: TinyRun, features: Artifact) -> None:
    with bench_of(llama, features) as bench:
        nameable = Nameable(bench.session)
        edits = compile_edits(Edits(edits=(Add(feature=7, strength=1.5),)), nameable)
        by_engine = bench.moved(Setting(edits))
        by_vector = bench.divergence.of(1.5 * bench.placed.sae.W_dec[7].float())
        assert by_engine.kl > 0
        assert by_vector.kl == pytest.approx(by_engine.kl, rel=1e-3)
        assert by_vector.dose == pytest.approx(by_engine.dose, rel=1e-3)


def test_texts_are_read_as_the_model_alone_reads_them(llama: TinyRun, features: Artifact) -> None:
    with bench_of(llama, features) as bench:
        window = bench.windows.natural[0]
        (losses,) = bench.reader.losses([window.prompt], [window.following])
        ids = torch.tensor([[*bench.windows.prefix, *window.prompt, *window.following]])
        with torch.no_grad():
            logprob_TV = bench.session.subject.model(ids).logits[0].log_softmax(dim=-1)
        count = len(window.following)
        expected = -logprob_TV[-count - 1 : -1].gather(1, ids[0, -count:, None])[:, 0]
        np.testing.assert_allclose(losses, expected.numpy(), rtol=1e-4)
        (reading,) = bench.session.read([bench.session.subject.tokenizer.decode(window.following)], latents=[7])
        if list(reading.tokens.token_ids) == list(window.following):
            strongest = bench.reader.strongest([window.following], 7)
            assert strongest[0] == pytest.approx(float(reading.value_TL.max()), rel=1e-4)


def test_strengths_share_their_random_numbers_so_that_nothing_added_changes_nothing(
    llama: TinyRun, features: Artifact
) -> None:
    with bench_of(llama, features) as bench:
        edits = compile_edits(Edits(edits=(Add(feature=7, strength=0.0),)), Nameable(bench.session))
        bench.config = TextsConfig.model_validate(TEXTS_SHORT)
        plain, with_nothing = bench.write([Setting(), Setting(edits)])
        assert plain == with_nothing == bench.unsteered
