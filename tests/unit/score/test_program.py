"""Program scores against naive ones, their intervals and controls; the score step; sampled examples; the summary."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from mistudio.artifacts import Artifact, open_input
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import ConfigError, DamagedArtifact, InputError
from mistudio.explain import ExplainConfig, explain, read_explanations
from mistudio.explain.firings import Firings
from mistudio.explain.material import open_material
from mistudio.explain.programs import Branch, Context, Member, Program
from mistudio.explain.records import Explanation
from mistudio.explain.tokens import Tokens
from mistudio.sae import load_autoencoder
from mistudio.score import ScoreConfig, read_scores, score
from mistudio.score import scoring as step_module
from mistudio.score.bootstrap import draw_counts
from mistudio.score.config import ExamplesConfig
from mistudio.score.program import Judged, ProgramScorer
from mistudio.score.records import Score
from mistudio.score.sampling import ExampleSampler
from mistudio.score.summary import summarise
from tests.support.texts import tokens_of
from tests.support.tiny import tiny_bert
from tests.support.tiny_run import CPU, TinyRun

NUM_TOKENS = 3000


def scorer_of(values: NDArray[np.float32], resamples: int = 200, documents: int = 20) -> ProgramScorer:
    """A scorer of one feature with these activations."""
    words = " ".join("abcdefghij"[place % 10] for place in range(NUM_TOKENS // documents))
    tokens = tokens_of([words] * documents)
    rows = np.flatnonzero(values)
    firings = Firings(len(tokens), np.array([0, len(rows)]), rows.astype(np.int32), values[rows])
    return ProgramScorer(Context(tokens), firings, np.array([10.0], dtype=np.float32), 0.2, resamples)


def judged(predicted: NDArray[np.float32]) -> Judged:
    rows = np.flatnonzero(predicted)
    return Judged(rows, predicted[rows])


@pytest.fixture(scope="module")
def values() -> NDArray[np.float32]:
    draw = np.random.default_rng(0)
    return np.where(draw.random(NUM_TOKENS) < 0.2, draw.random(NUM_TOKENS) * 10, 0).astype(np.float32)


@pytest.fixture(scope="module")
def predicted(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Predictions of a few levels that are partly right."""
    draw = np.random.default_rng(1)
    guess = np.where(draw.random(NUM_TOKENS) < 0.7, values, draw.random(NUM_TOKENS) * 10)
    return np.where(guess > 3, np.ceil(guess), 0).astype(np.float32)


def test_figures_are_those_of_scikit_learn(values: NDArray[np.float32], predicted: NDArray[np.float32]) -> None:
    found = {figure.metric: figure.value for figure in scorer_of(values).score(judged(predicted), 0)}
    predicted_positive = predicted > 0
    for suffix, fires in (("", values > 2), ("_any", values > 0)):
        expected = {
            "f1": f1_score(fires, predicted_positive),
            "precision": precision_score(fires, predicted_positive),
            "recall": recall_score(fires, predicted_positive),
            "balanced_accuracy": balanced_accuracy_score(fires, predicted_positive),
            "auroc": roc_auc_score(fires, predicted),
            "fires": fires.sum(),
        }
        for metric, value in expected.items():
            assert found[metric + suffix] == pytest.approx(value, abs=1e-9), metric + suffix
    assert found["correlation"] == pytest.approx(np.corrcoef(values, predicted)[0, 1], abs=1e-6)


def test_auroc_of_many_levels_is_close(values: NDArray[np.float32]) -> None:
    noisy = np.maximum(values + np.random.default_rng(2).normal(0, 3, NUM_TOKENS), 0).astype(np.float32)
    found = {figure.metric: figure.value for figure in scorer_of(values).score(judged(noisy), 0)}
    assert found["auroc"] == pytest.approx(roc_auc_score(values > 2, noisy), abs=0.005)


def test_intervals_come_from_drawing_documents_again(
    values: NDArray[np.float32], predicted: NDArray[np.float32]
) -> None:
    scorer = scorer_of(values, resamples=400)
    figures = {figure.metric: figure for figure in scorer.score(judged(predicted), 0)}
    draw, document_N = np.random.default_rng(5), scorer.context.tokens.document_N
    naive = []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(document_N == each) for each in draw.integers(20, size=20)])
        naive.append(
            (f1_score(values[rows] > 2, predicted[rows] > 0), np.corrcoef(values[rows], predicted[rows])[0, 1])
        )
    for metric, column in (("f1", 0), ("correlation", 1)):
        figure = figures[metric]
        assert figure.low < figure.value < figure.high
        ends = np.percentile([each[column] for each in naive], [2.5, 97.5])
        assert (figure.low, figure.high) == pytest.approx(tuple(ends), abs=0.006)


def test_an_interval_spans_every_draw(values: NDArray[np.float32], predicted: NDArray[np.float32]) -> None:
    scorer = scorer_of(values, resamples=3)
    weights_RN = draw_counts(20, 3, 0)[:, scorer.context.tokens.document_N]
    drawn_R = [f1_score(values > 2, predicted > 0, sample_weight=weight_N) for weight_N in weights_RN]
    (figure,) = (each for each in scorer.score(judged(predicted), 0) if each.metric == "f1")
    assert (figure.low, figure.high) == pytest.approx(tuple(np.quantile(drawn_R, [0.025, 0.975])))


def test_without_draws_there_is_no_interval(values: NDArray[np.float32], predicted: NDArray[np.float32]) -> None:
    for figure in scorer_of(values, resamples=0).score(judged(predicted), 0):
        assert np.isfinite(figure.value)
        assert np.isnan([figure.low, figure.high]).all()


def test_a_feature_that_never_fires_has_no_score_and_silence_scores_nothing(values: NDArray[np.float32]) -> None:
    never = scorer_of(np.zeros(NUM_TOKENS, dtype=np.float32))
    prediction = judged(np.where(values > 2, 1, 0).astype(np.float32))
    assert all(np.isnan(figure.value) for figure in never.score(prediction, 0))
    silent = {each.metric: each.value for each in scorer_of(values).score(judged(np.zeros_like(values)), 0)}
    assert (silent["f1"], silent["precision"], silent["recall"], silent["correlation"]) == (0, 0, 0, 0)
    assert (silent["balanced_accuracy"], silent["auroc"]) == (0.5, 0.5)


def test_the_right_program_is_perfect_and_one_that_says_the_opposite_is_not() -> None:
    fires = np.arange(NUM_TOKENS) % 150 % 10 == 3
    scorer = scorer_of(np.where(fires, 8, 0).astype(np.float32))
    letter = int(scorer.context.tokens.id_N[3])
    for negated, expected in ((False, 1.0), (True, 0.0)):
        condition = Member(column="current", tokens=(letter,), negated=negated)
        program = Program(branches=(Branch(conditions=(condition,), value=8.0),))
        found = {each.metric: each.value for each in scorer.score(scorer.run(program), 0)}
        for metric in ("f1", "balanced_accuracy", "auroc", "f1_any"):
            assert found[metric] == pytest.approx(expected, abs=0.01)
        assert found["correlation"] == pytest.approx(2 * expected - 1)


# The step.

EXPLAIN = ExplainConfig(max_tokens=100_000)
CONFIG = ScoreConfig(resamples=50, block_features=20)


@pytest.fixture(scope="module")
def explanations(llama: TinyRun, features: Artifact) -> Artifact:
    return explain(llama.store, features, llama.source, CPU, EXPLAIN).artifact


@pytest.fixture(scope="module")
def scores(llama: TinyRun, explanations: Artifact) -> Artifact:
    return score(llama.store, explanations, llama.source, CPU, CONFIG).artifact


def test_every_program_token_set_and_control_has_every_figure(scores: Artifact) -> None:
    rows = list(read_scores(scores))
    kinds = {(row.explainer, row.scorer) for row in rows}
    assert kinds == {("program", "program"), ("token-set", "program"), ("program", "program-shuffled")}
    for explainer in ("program", "token-set"):
        own = [row for row in rows if (row.explainer, row.scorer) == (explainer, "program")]
        assert {row.feature for row in own} == set(range(64))
        assert len(own) == 64 * 13


def test_scores_are_those_of_the_programs_on_held_out_tokens(
    llama: TinyRun, features: Artifact, explanations: Artifact, scores: Artifact
) -> None:
    material = open_material(llama.store, features, llama.source, CPU)
    tokens, firings = material.read("heldout", 10**9, 0, material.strings())
    context, maxima = Context(tokens), material.maxima()
    rows = {
        (row.feature, row.metric): row.value for row in read_scores(scores) if row.scorer == "program" == row.explainer
    }
    for explanation in read_explanations(explanations):
        feature = explanation.feature
        if explanation.program is None:
            assert np.isnan(rows[feature, "f1"])
            continue
        predicted_positive = Program.from_json(explanation.program).predict(context) > 0
        fires = firings.dense(feature) > 0.2 * maxima[feature]
        if fires.any():
            assert rows[feature, "f1"] == pytest.approx(f1_score(fires, predicted_positive), abs=1e-6)


def test_no_document_is_both_explained_from_and_scored_on(
    llama: TinyRun, explanations: Artifact, scores: Artifact
) -> None:
    train = set(json.loads(explanations.file("explanations.json").read_bytes())["searched"]["documents"])
    heldout = set(json.loads(scores.file("scores.json").read_bytes())["heldout"]["documents"])
    assert train
    assert heldout
    assert not train & heldout
    assert heldout <= set(TokenCorpus(llama.corpus).documents("heldout").tolist())


def test_explanations_that_saw_held_out_documents_are_refused(
    llama: TinyRun, explanations: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    heldout = int(TokenCorpus(llama.corpus).documents("heldout")[0])

    def spoilt(artifact: Artifact, *name: str) -> list[Explanation]:
        rows = list(read_explanations(artifact, *name))
        return [*rows[:-1], rows[-1].model_copy(update={"documents": (heldout,)})]

    monkeypatch.setattr(step_module, "read_explanations", spoilt)
    with pytest.raises(DamagedArtifact, match=f"held out, such as {heldout}"):
        score(llama.store, explanations, llama.source, CPU, CONFIG, seed=8)


def test_shuffled_programs_are_all_of_other_features(explanations: Artifact) -> None:
    programs = list(read_explanations(explanations))
    shuffled = list(step_module._shuffled(lambda: programs, 0))
    own = {each.feature: each.program for each in programs}
    assert len(shuffled) == sum(each.program is not None for each in programs)
    assert sorted(str(each.program) for each in shuffled) == sorted(str(p) for p in own.values() if p is not None)
    places = {each.feature: each for each in shuffled}
    assert all(places[feature].program != program for feature, program in own.items() if program is not None)


def test_scores_are_found_again_and_a_cut_run_goes_on(
    llama: TinyRun, explanations: Artifact, scores: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert score(llama.store, explanations, llama.source, CPU, CONFIG).found
    run, seen, allowed = ProgramScorer.run, [], 90

    def counting(self: ProgramScorer, program: Program) -> Judged:
        if len(seen) == allowed:
            raise KeyboardInterrupt
        seen.append(program)
        return run(self, program)

    monkeypatch.setattr(ProgramScorer, "run", counting)
    config = CONFIG.model_copy(update={"max_tokens": 150_000})
    with pytest.raises(KeyboardInterrupt):
        score(llama.store, explanations, llama.source, CPU, config)
    seen.clear()
    allowed = 10_000
    resumed = score(llama.store, explanations, llama.source, CPU, config).artifact
    num_programs = sum(each.program is not None for each in read_explanations(explanations))
    assert len(seen) == 128 + num_programs - 84  # blocks of 20, 20, 20, 4 and 20 were finished
    assert resumed.file("scores.parquet").read_bytes() == scores.file("scores.parquet").read_bytes()


def test_explanations_are_held_a_few_blocks_at_a_time(
    llama: TinyRun, explanations: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = [0]
    most: list[int] = []

    def gone() -> None:
        alive[0] -= 1

    def watched(artifact: Artifact, *name: str) -> Iterator[Explanation]:
        for each in read_explanations(artifact, *name):
            alive[0] += 1
            most.append(alive[0])
            weakref.finalize(each, gone)
            yield each

    monkeypatch.setattr(step_module, "read_explanations", watched)
    monkeypatch.setattr(step_module, "_BLOCKS_AT_ONCE", 2)
    config = CONFIG.model_copy(update={"block_features": 4, "max_tokens": 160_000})
    score(llama.store, explanations, llama.source, CPU, config)
    assert len(most) > 4 * 64
    assert max(most) <= 2 * 2 * 4 + 1


def test_a_scorer_without_its_language_model_says_what_to_do(llama: TinyRun, explanations: Artifact) -> None:
    for name, message in (
        ("detection", "detection needs a language model"),
        ("guess", "no scorer 'guess': use program"),
    ):
        with pytest.raises(ConfigError, match=message):
            score(llama.store, explanations, llama.source, CPU, CONFIG.model_copy(update={"scorers": (name,)}))


def test_another_tokenizer_is_refused(llama: TinyRun, explanations: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not that of folder:other"):
        score(llama.store, explanations, tiny_bert(tmp_path / "other"), CPU, CONFIG)


# Sampled examples.


@pytest.fixture(scope="module")
def heldout(llama: TinyRun, features: Artifact) -> tuple[Tokens, Firings, NDArray[np.int32]]:
    material = open_material(llama.store, features, llama.source, CPU)
    tokens, firings = material.read("heldout", 10**9, 0, material.strings())
    return tokens, firings, material.found.nearest("decoder", 5)


def test_sampled_examples_show_held_out_text_with_its_activations(
    heldout: tuple[Tokens, Firings, NDArray[np.int32]],
) -> None:
    tokens, firings, neighbours_Fn = heldout
    sampler = ExampleSampler(
        tokens,
        firings,
        neighbours_Fn,
        ExamplesConfig(before=5, after=3, num_active=10, num_random=4, num_hard_negatives=4),
    )
    place = {
        key: row for row, key in enumerate(zip(tokens.sequence_N.tolist(), tokens.position_N.tolist(), strict=True))
    }
    kinds = set()
    for feature in range(64):
        value_N = firings.dense(feature)
        case = sampler.case(Explanation(feature=feature, explainer="program"))
        assert len(case.examples) <= 18
        for example in case.examples:
            kinds.add(example.kind)
            row = place[example.sequence, example.position]
            first = row - example.peak
            here = range(first, first + len(example.tokens))
            assert [tokens.strings[tokens.id_N[each]] for each in here] == list(example.tokens)
            assert set(tokens.sequence_N[list(here)].tolist()) == {example.sequence}
            np.testing.assert_allclose(value_N[list(here)], example.values, rtol=1e-6)
            assert example.is_active == (example.kind == "sampled")
            assert example.kind != "sampled" or example.values[example.peak] > 0
    assert kinds == {"sampled", "random", "hard_negative"}


def decoder(llama: TinyRun, features: Artifact) -> NDArray[np.float32]:
    sae = load_autoencoder(open_input(llama.store, features.manifest.inputs["sae"], "sae"))
    directions_FD: NDArray[np.float32] = sae.W_dec.detach().numpy()
    return directions_FD


def test_hard_examples_are_those_in_which_neighbours_fire(
    llama: TinyRun, features: Artifact, heldout: tuple[Tokens, Firings, NDArray[np.int32]]
) -> None:
    tokens, firings, neighbours_Fn = heldout
    config = ExamplesConfig(neighbours=2, before=5, after=3)
    sampler = ExampleSampler(tokens, firings, neighbours_Fn, config)
    decoder_FD = decoder(llama, features)
    unit = decoder_FD / np.linalg.norm(decoder_FD, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(64)
    place = {
        key: row for row, key in enumerate(zip(tokens.sequence_N.tolist(), tokens.position_N.tolist(), strict=True))
    }
    found = 0
    for feature in range(20, 30):
        nearest = np.argsort(-cosine[feature])[:2]
        for example in sampler.case(Explanation(feature=feature, explainer="program")).examples:
            if example.kind == "hard_negative":
                found += 1
                row = place[example.sequence, example.position]
                assert any(firings.dense(int(other))[row] > 0 for other in nearest)
    assert found


def test_active_examples_are_spread_over_the_quantiles_and_repeat(
    heldout: tuple[Tokens, Firings, NDArray[np.int32]],
) -> None:
    tokens, firings, neighbours_Fn = heldout
    sampler = ExampleSampler(tokens, firings, neighbours_Fn, ExamplesConfig(num_active=20, strata=5))
    feature = int(np.argmax(np.diff(firings.start_F)))
    case = sampler.case(Explanation(feature=feature, explainer="program"))
    values = [example.values[example.peak] for example in case.examples if example.kind == "sampled"]
    edges = np.quantile(firings.of(feature)[1], [0.2, 0.4, 0.6, 0.8])
    assert np.bincount(np.searchsorted(edges, values), minlength=5).tolist() == pytest.approx([4] * 5, abs=1)
    assert sampler.case(case.explanation) == case


# The summary.


def test_the_summary_counts_what_failed_and_judges_the_criterion() -> None:
    def made(feature: int, value: float, explainer: str = "program") -> Score:
        return Score(feature, explainer, "program", "f1", value, 0, 1, 100, 100 if np.isnan(value) else 0)

    explanations = [Explanation(feature=number, explainer="program") for number in range(99)]
    explanations.append(Explanation(feature=99, explainer="program", status="dead"))
    count, density = np.r_[np.ones(90), np.zeros(10)].astype(int), np.r_[np.full(5, 0.5), np.full(95, 0.01)]
    scores = [made(number, 0.9 if number < 51 else 0.3) for number in range(98)] + [made(98, np.nan), made(99, np.nan)]
    scores += [made(number, 0.75 if number < 10 else 0.85, "token-set") for number in range(51)]
    found = summarise(scores, explanations, count, density)
    headlines = found["headlines"]
    assert (headlines["interpretable"], headlines["explained"]) == (51, 99)
    assert (headlines["dead"], headlines["dense"], headlines["context_gains"]) == (10, 5, 10)
    assert found["criterion"]["holds"]
    assert sum(found["histogram"]["features"]) == 98
    assert found["histogram"]["undefined"] == 2
    assert {"explainer": "program", "scorer": "program", "failures": 200, "examples": 10_000} in found["failures"]
    fewer = summarise(scores[1:], explanations, count, density)["criterion"]
    assert (fewer["interpretable"], fewer["holds"]) == (50, False)
    dying = summarise(scores, explanations, np.r_[np.ones(80), np.zeros(20)].astype(int), density)["criterion"]
    assert (dying["dead_fraction"], dying["holds"]) == (0.2, False)


def test_the_summary_of_four_features_to_the_last_figure() -> None:
    nan, names = float("nan"), ("f1", "f1_any", "balanced_accuracy", "auroc", "correlation")
    rows = [Score(0, "program", "program", name, 0.8 + place / 100, 0, 1, 10, 1) for place, name in enumerate(names)]
    rows += [
        Score(1, "program", "program", "f1", 0.4, 0, 1, 20, 2),
        Score(2, "program", "program", "f1", nan, 0, 1, 5, 0),
    ]
    rows += [Score(number, "token-set", "program", "f1", 0.7, 0, 1, 10, 0) for number in (0, 1)]
    rows += [Score(0, "program", "program-shuffled", "f1", 0.1, 0, 1, 10, 0)]
    rows += [Score(0, "llm", "detection", name, 0.5, 0, 1, 6, 3) for name in ("balanced_accuracy", "auroc")]
    told = [Explanation(feature=0, explainer="program"), Explanation(feature=0, explainer="llm", status="failed")]
    found = summarise(rows, told, np.array([5, 1, 2, 0]), np.array([0.2, 0.1, 0.01, 0.0]))
    assert found["headlines"] == {
        "features": 4,
        "interpretable": 1,
        "interpretable_any": 1,
        "interpretable_token_sets": 0,
        "context_gains": 1,
        "program_f1": pytest.approx(0.6),
        "program_balanced_accuracy": 0.82,
        "program_auroc": 0.83,
        "program_correlation": 0.84,
        "shuffled_f1": 0.1,
        "explained": 1,
        "dead": 1,
        "dense": 1,
    }
    assert found["criterion"] == {
        "interpretable": 1,
        "interpretable_more_than": 50,
        "dead_fraction": 0.25,
        "dead_fraction_below": 0.2,
        "holds": False,
    }
    assert found["histogram"]["edges"] == pytest.approx(np.linspace(0, 1, 21))
    assert {place: num for place, num in enumerate(found["histogram"]["features"]) if num} == {8: 1, 16: 1}
    assert found["histogram"]["undefined"] == 1
    means = {(each["explainer"], each["scorer"], each["metric"]): each for each in found["means"]}
    assert list(means) == sorted(means)
    assert len(means) == 9
    assert (means["program", "program", "f1"]["value"], means["program", "program", "f1"]["features"]) == (0.6, 3)
    assert found["failures"] == [
        {"explainer": "llm", "scorer": "detection", "failures": 6, "examples": 12},
        {"explainer": "program", "scorer": "program", "failures": 3, "examples": 35},
        {"explainer": "program", "scorer": "program-shuffled", "failures": 0, "examples": 10},
        {"explainer": "token-set", "scorer": "program", "failures": 0, "examples": 20},
    ]


def test_a_summary_without_scores_says_nothing_of_what_was_not_measured() -> None:
    found = summarise([], [], np.array([1, 0]), np.array([0.5, 0.0]))
    assert found["headlines"] == {"features": 2, "explained": 0, "dead": 1, "dense": 1}
    assert found.keys() == {"headlines", "histogram", "means", "failures"}
    assert (found["means"], found["failures"], sum(found["histogram"]["features"])) == ([], [], 0)
