"""Trials within a budget, and further ones on demand: together they are what trying everything at once gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from mistudio import steps
from mistudio.artifacts import Artifact
from mistudio.errors import ConfigError, InputError
from mistudio.evaluate import evaluate
from mistudio.exchange import export_features
from mistudio.features import FEATURES, FeatureSet, fullest_trials
from mistudio.find.config import FindConfig, MoreConfig
from mistudio.find.more import find_more
from mistudio.find.step import find_features
from mistudio.find.worth import buy, order_of_worth
from mistudio.report import report
from mistudio.sae import TopKConfig, new_autoencoder
from mistudio.steps import STEPS
from tests.support.tiny import WIDTH
from tests.support.tiny_run import CPU, TinyRun, publish_sae

NUM_FEATURES = 64
SETTINGS = FindConfig(
    contexts=4,
    context_before=5,
    context_after=3,
    lens_tokens=3,
    sampled_contexts=2,
    random_contexts=2,
    hard_negatives=0,
    sample_tokens=1024,
    neighbours=3,
    map=False,
    attribution_steps=3,
)
EFFECTS = ("ablation", "ablation_elsewhere", "ablation_control")


@pytest.fixture(scope="module")
def sae(llama: TinyRun) -> Artifact:
    made = new_autoencoder(TopKConfig(width=NUM_FEATURES, k=4), WIDTH)
    made.for_training().initialise(torch.zeros(1, WIDTH), torch.Generator().manual_seed(3))
    with torch.no_grad():
        made.b_enc[:2] = -1e4
    return publish_sae(llama.store, made, llama.activations)


def found(llama: TinyRun, sae: Artifact, tflop: float | None) -> Artifact:
    config = FindConfig(**{**SETTINGS.model_dump(), "causal_tflop": tflop})
    return find_features(llama.store, sae, llama.source, CPU, config).artifact


@pytest.fixture(scope="module")
def everything(llama: TinyRun, sae: Artifact) -> Artifact:
    return found(llama, sae, None)


@pytest.fixture(scope="module")
def some(llama: TinyRun, sae: Artifact) -> Artifact:
    return found(llama, sae, 2e-4)


def tried(features: FeatureSet) -> list[int]:
    return np.flatnonzero(features.column("tried").to_numpy(zero_copy_only=False)).tolist()


def same(one: Any, other: Any) -> None:
    np.testing.assert_allclose(np.array(one, dtype=float), np.array(other, dtype=float), atol=1e-4)


def test_a_budget_buys_the_features_that_are_worth_most(everything: Artifact, some: Artifact) -> None:
    whole, part = FeatureSet(everything), FeatureSet(some)
    columns = [whole.column(name).to_numpy(zero_copy_only=False) for name in ("count", "density", "coherence")]
    order_K = order_of_worth(*columns)
    chosen = tried(part)
    assert 5 < len(chosen) < 40
    assert set(chosen) == set(order_K[: len(chosen)].tolist())
    assert tried(whole) == sorted(order_K.tolist())
    summary = some.manifest.summary
    assert summary["features_tried"] == len(chosen)
    assert summary["features_not_tried"] == len(order_K) - len(chosen)
    assert summary["features"] == NUM_FEATURES == len(order_K) + int(str(summary["silent_features"]))
    assert some.manifest.config["causal_tflop"] == 2e-4


def test_features_in_the_budget_have_the_figures_of_a_search_that_tries_all(
    everything: Artifact, some: Artifact
) -> None:
    whole, part = FeatureSet(everything), FeatureSet(some)
    for feature in range(NUM_FEATURES):
        one, other = part.row(feature), whole.row(feature)
        traced = [row for row in part.contexts(feature) if row["gradient"] is not None]
        if not one["tried"]:
            assert not traced
            assert [one[name] for name in EFFECTS] == [None] * 3
            continue
        same([one[name] for name in EFFECTS], [other[name] for name in EFFECTS])
        (context,) = traced
        (expected,) = (row for row in whole.contexts(feature) if row["gradient"] is not None)
        same(context["integrated"], expected["integrated"])


def more(llama: TinyRun, features: Artifact, base: Artifact | None = None, **settings: Any) -> Artifact:
    return find_more(llama.store, features, llama.source, CPU, MoreConfig(**settings), base).artifact


def test_what_is_tried_later_reads_as_if_find_had_tried_it(
    llama: TinyRun, everything: Artifact, some: Artifact
) -> None:
    first = more(llama, some, causal_tflop=1e-4)
    beyond = int(str(first.manifest.summary["features_beyond_budget"]))
    assert beyond == first.manifest.summary["features_not_tried"] > 0
    second = more(llama, some, first)
    late, whole = FeatureSet(some, trials=second), FeatureSet(everything)
    assert tried(late) == tried(whole)
    new = int(str(first.manifest.summary["features_new"])), int(str(second.manifest.summary["features_new"]))
    assert second.manifest.summary["features_tried"] == sum(new)
    assert new[1] == beyond
    assert second.manifest.summary["features_not_tried"] == 0
    for name in EFFECTS:
        same(late.column(name).to_numpy(zero_copy_only=False), whole.column(name).to_numpy(zero_copy_only=False))
    for one, other in zip(late.stream(), whole.stream(), strict=True):
        assert one.row.keys() == other.row.keys()
        assert one.feature == other.feature
        same([one.row[name] for name in EFFECTS], [other.row[name] for name in EFFECTS])
        for ours, theirs in zip(one.contexts, other.contexts, strict=True):
            assert (ours["gradient"] is None) == (theirs["gradient"] is None)
            assert ours["tokens"] == theirs["tokens"]
            if ours["gradient"] is not None:
                same(ours["gradient"], theirs["gradient"])
    assert find_more(llama.store, some, llama.source, CPU, None, second) == (second, True)  # nothing is left


def test_named_features_are_tried_without_a_budget(llama: TinyRun, some: Artifact) -> None:
    left = [number for number in range(2, NUM_FEATURES) if number not in tried(FeatureSet(some))]
    left = [number for number in left if FeatureSet(some).column("count")[number].as_py()]
    named = more(llama, some, only=f"0,{left[0]},{left[-1]}")
    assert tried(FeatureSet(some, trials=named)) == sorted([*tried(FeatureSet(some)), left[0], left[-1]])
    rows = named.manifest.summary["features_tried"]
    assert rows == 2  # the first feature never fires
    with pytest.raises(InputError, match="there are features 0 to 63"):
        more(llama, some, only="64")
    with pytest.raises(ConfigError, match="only has"):
        more(llama, some, only="nice")


def test_where_nothing_is_left_to_try_that_is_said_and_no_feature_is_added(
    llama: TinyRun, everything: Artifact, some: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mistudio")
    nothing = more(llama, everything)
    there = len(tried(FeatureSet(everything)))
    assert f"Nothing to add: all {there} features that fire were tried." in caplog.text
    counts = [nothing.manifest.summary[f"features_{name}"] for name in ("tried", "new", "beyond_budget", "not_tried")]
    assert counts == [0, 0, 0, 0]
    one, other = FeatureSet(everything, trials=nothing), FeatureSet(everything)
    same([one.row(5)[name] for name in EFFECTS], [other.row(5)[name] for name in EFFECTS])
    assert str(one.contexts(5)) == str(other.contexts(5))  # where NaN equals NaN
    known, left = tried(FeatureSet(some)), tried(FeatureSet(everything))
    new = next(number for number in left if number not in known)
    named = more(llama, some, only=f"{known[0]},{new}")
    assert "1 of 2 selected features that fire was tried already." in caplog.text
    assert named.manifest.summary["features_not_tried"] == len(left) - len(known) - 1
    more(llama, some, only=f"{known[0]}")
    assert "Nothing to add: all 1 selected features that fire were tried." in caplog.text


def test_trials_of_other_settings_or_features_are_not_added_to(
    llama: TinyRun, everything: Artifact, some: Artifact
) -> None:
    base = more(llama, some, causal_tflop=1e-4, ablation_contexts=1)
    with pytest.raises(InputError, match="other settings"):
        more(llama, some, base)
    with pytest.raises(InputError, match="is of features/"):
        FeatureSet(everything, trials=base)


def test_the_step_adds_to_the_newest_trials_and_the_report_shows_them(
    llama: TinyRun, sae: Artifact, some: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mistudio")
    given: dict[str, Any] = {
        "features": some.uri,
        "model": str(llama.source.path),
        "device": "cpu",
        "store": llama.store.url,
    }
    given["ablation_contexts"] = 2  # unlike the other trials here
    first = steps.run_step("find_more", **given, only="30-60", causal_tflop=1.0).artifact
    more(llama, some, only="30-33", ablation_contexts=2)  # newer, and of fewer features
    second = steps.run_step("find_more", **given).artifact
    num_tried = first.manifest.summary["features_tried"]
    assert f"Kept {num_tried} of {num_tried} from {first.uri}." in caplog.text
    # Where the first has tried all that is left, there is nothing to add, and it is given back.
    assert second.digest == first.digest or second.manifest.inputs["base"].digest == first.digest
    evaluation = evaluate(llama.store, sae, llama.source, CPU).artifact
    page = report(llama.store, some, evaluation, trials=second).artifact
    assert page.manifest.inputs["trials"].digest == second.digest


def left_by(features: Artifact) -> list[int]:
    whole = FeatureSet(features)
    there = pc.and_(pc.invert(whole.column("tried")), pc.greater(whole.column("count"), 0))
    return np.flatnonzero(there.to_numpy(zero_copy_only=False)).tolist()


def test_the_trials_that_are_shown_have_finds_settings_and_hold_most(
    llama: TinyRun, sae: Artifact, tmp_path: Path
) -> None:
    features = found(llama, sae, 1.5e-4)
    step, *left = STEPS["report"], *left_by(features)
    given = {"features": features.uri, "store": llama.store.url}
    assert steps.with_newest(step, given)["trials"] is None
    assert more(llama, features, only=str(left[0]), ablation_contexts=1) is not None
    assert fullest_trials(llama.store, features) is None
    most = more(llama, features, only=",".join(map(str, left[:5])))
    few = more(llama, features, only=str(left[7]))
    other = more(llama, features, only=",".join(map(str, left)), ablation_contexts=3)
    assert steps.with_newest(step, given)["trials"] == most.uri
    assert steps.with_newest(step, {**given, "trials": few.uri})["trials"] == few.uri
    for refuse in (
        lambda: report(llama.store, features, evaluate(llama.store, sae, llama.source, CPU).artifact, trials=other),
        lambda: export_features(llama.store, features, tmp_path / "no", "jsonl", trials=other),
    ):
        with pytest.raises(InputError, match="ablation_contexts 3 in place of 2"):
            refuse()


def test_none_is_none_also_where_one_would_be_chosen(llama: TinyRun, sae: Artifact) -> None:
    features = found(llama, sae, 1.2e-4)
    left = left_by(features)
    given = {"features": features.uri, "model": str(llama.source.path), "device": "cpu", "store": llama.store.url}
    steps.run_step("find_more", **given, only=str(left[0]))
    anew = steps.run_step("find_more", **given, only=str(left[1]), base="none").artifact
    assert "base" not in anew.manifest.inputs
    assert anew.manifest.summary["features_tried"] == 1
    evaluation = evaluate(llama.store, sae, llama.source, CPU).artifact
    asked = {"features": features.uri, "evaluation": evaluation.uri, "store": llama.store.url, "trials": "none"}
    page = steps.run_step("report", **steps.with_newest(STEPS["report"], asked)).artifact
    assert "trials" not in page.manifest.inputs


def test_what_was_tried_later_is_exported_where_effects_have_a_place(
    llama: TinyRun, some: Artifact, tmp_path: Path
) -> None:
    later = more(llama, some, causal_tflop=1e-4)
    export_features(llama.store, some, tmp_path / "parquet", "parquet", trials=later)
    export_features(llama.store, some, tmp_path / "jsonl", "jsonl", trials=later)
    rows = [json.loads(line) for line in (tmp_path / "jsonl" / "features.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "parquet" / "features.parquet")
    assert table.schema.names == list(FEATURES.names)
    expected = FeatureSet(some, trials=later)
    assert [row["feature"] for row in rows if row["tried"]] == tried(expected) != tried(FeatureSet(some))
    for name in EFFECTS:
        assert [row[name] for row in rows] == table[name].to_pylist() == expected.column(name).to_pylist()
    assert [path.name for path in (tmp_path / "jsonl").iterdir()] == ["features.jsonl"]
    with pytest.raises(ConfigError, match="neuronpedia has no place for trials"):
        export_features(llama.store, some, tmp_path / "tree", "neuronpedia", trials=later)


def test_a_budget_that_buys_nothing_is_refused(llama: TinyRun, some: Artifact) -> None:
    with pytest.raises(ConfigError, match="causal_tflop 0 buys no trial: the first feature, .* Give as much or more"):
        more(llama, some, causal_tflop=0.0)


def test_other_settings_for_what_find_has_tried_are_answered_with_what_to_do(llama: TinyRun, some: Artifact) -> None:
    known = tried(FeatureSet(some))[0]
    with pytest.raises(InputError, match=r"tried by find with other settings: .* has ablation_contexts 2, not 3\."):
        more(llama, some, only=str(known), ablation_contexts=3)


def test_a_budget_reaches_features_in_their_order_and_no_further() -> None:
    order_K, feature_P = np.array([3, 1, 2]), np.array([1, 1, 2, 3])
    flop_P = np.array([2e12, 1e12, 1e12, 4e12])
    assert buy(order_K, feature_P, flop_P, None).features.tolist() == [3, 1, 2]
    bought = buy(order_K, feature_P, flop_P, 7.0)
    assert (bought.features.tolist(), bought.left_out, bought.flop) == ([3, 1], 1, 7e12)
    assert buy(order_K, feature_P, flop_P, 3.9).features.tolist() == []


def test_coherent_features_come_first_and_dense_ones_last() -> None:
    count_F, density_F = np.array([5, 500, 0, 50, 5, 9]), np.array([0.005, 0.5, 0, 0.05, 0.005, 0.009])
    coherence_F = np.array([0.2, 0.9, 0.9, 0.8, np.nan, 0.8], dtype=np.float32)
    assert order_of_worth(count_F, density_F, coherence_F).tolist() == [3, 5, 0, 4, 1]


def test_null_effects_stay_null_where_features_were_not_tried(some: Artifact) -> None:
    untried = pc.invert(FeatureSet(some).column("tried"))
    assert FeatureSet(some).column("ablation").filter(untried).null_count == pc.sum(untried).as_py()


def test_a_search_says_before_it_starts_what_it_costs(
    llama: TinyRun, sae: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = FindConfig(**{**SETTINGS.model_dump(), "causal_tflop": 1e-4, "lens_tokens": 2})
    find_features(llama.store, sae, llama.source, CPU, config)
    said = [record.getMessage() for record in caplog.records]
    first = next(place for place, text in enumerate(said) if text.startswith("Find what 64 features do"))
    assert "trying features in the model is at most 100 MFLOP" in said[first]
    assert said[first].count(" s (") == 1  # of the encoding alone: what trials take is said by the loaded model
    (trials,) = (text for text in said[first:] if " of 61 features " in text)
    assert " of 61 features in the model: its passes take about 1 s (" in trials
