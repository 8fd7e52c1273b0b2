import json
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest

from mistudio.errors import InputError
from mistudio.explain.endpoint import Endpoint, EndpointConfig
from mistudio.explain.records import Example
from mistudio.score.config import SCORERS as TABLE
from mistudio.score.config import JudgeConfig, ScoreConfig
from mistudio.score.detection import DetectionScorer
from mistudio.score.embedding import EmbeddingScorer
from mistudio.score.fuzzing import FuzzingScorer
from mistudio.score.intruder import IntruderScorer
from mistudio.score.judging import JudgeScorer
from mistudio.score.records import Case, Score
from mistudio.score.simulation import SimulationScorer
from mistudio.score.surprisal import SurprisalScorer
from tests.support.oracle import Direct, Oracle, numbers, planted_cases
from tests.support.scripted_server import Answer, Fault, Script, ScriptedServer

SCORERS: list[type[JudgeScorer]] = [
    DetectionScorer,
    FuzzingScorer,
    SimulationScorer,
    SurprisalScorer,
    EmbeddingScorer,
    IntruderScorer,
]
TALKERS = [DetectionScorer, FuzzingScorer, SimulationScorer, IntruderScorer]
CONFIG = ScoreConfig(judged=JudgeConfig(num_active=10, num_inactive=10), resamples=50)


class Asked(Oracle):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def chat(self, system: str, prompt: str) -> Answer:
        self.prompts.append(prompt)
        return super().chat(system, prompt)


def scores(
    scorer: type[JudgeScorer], cases: Sequence[Case], oracle: Oracle | None = None, **changes: object
) -> list[Score]:
    config = CONFIG.model_copy(update={"judged": CONFIG.judged.model_copy(update=changes)})
    return list(TABLE.new(scorer.name, config, Direct(oracle), 0).score(cases))


def over_http(
    scorer: type[JudgeScorer], cases: Sequence[Case], script: Script, oracle: Oracle | None = None
) -> tuple[list[Score], ScriptedServer]:
    with ScriptedServer(oracle or Oracle(), script) as server:
        config = EndpointConfig(base_url=server.url, model="oracle", backoff_s=0.001)
        with Endpoint(config) as judge:
            return list(TABLE.new(scorer.name, CONFIG, judge, 0).score(cases)), server


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_flawed_connection_changes_no_score(scorer: type[JudgeScorer]) -> None:
    cases = planted_cases(3, 12)
    faults = ["status", "reset", "garbage", "half", "hollow"]

    def script(prompt: str, attempt: int) -> Fault | None:
        number = sum(map(ord, prompt))
        return Fault(faults[number % 5], 429) if attempt == 0 and number % 2 else None

    got, server = over_http(scorer, cases, script)
    assert got == scores(scorer, cases)
    assert any(asked.outcome != "answered" for asked in server.asked)


@pytest.mark.parametrize("scorer", SCORERS)
def test_every_explanation_gets_every_figure_and_none_is_left_out(scorer: type[JudgeScorer]) -> None:
    cases = planted_cases(5, 12)
    cases[0] = cases[0]._replace(explanation=cases[0].explanation.model_copy(update={"status": "dead", "text": ""}))
    cases[2] = cases[2]._replace(examples=tuple(one for one in cases[2].examples if not one.is_active))
    cases[4] = cases[4]._replace(examples=())
    got = scores(scorer, cases)
    assert sorted((one.feature, one.metric) for one in got) == sorted((f, m) for f in range(5) for m in scorer.metrics)
    for score in got:
        assert math.isnan(score.value) == (score.feature in (0, 2, 4))
        assert (score.num_examples > 0) == (score.feature in (1, 3))
        assert (score.explainer, score.scorer) == ("oracle", scorer.name)


@pytest.mark.parametrize("scorer", TALKERS)
def test_answers_that_cannot_be_read_count_as_wrong_and_as_failures(scorer: type[JudgeScorer]) -> None:
    class Moody(Oracle):
        def chat(self, system: str, prompt: str) -> Answer:
            return Answer("I would rather not.") if sum(map(ord, prompt)) % 2 else super().chat(system, prompt)

    cases = planted_cases(4, 40)
    perfect, moody = (scores(scorer, cases, oracle) for oracle in (Oracle(), Moody()))
    for right, wrong in zip(perfect, moody, strict=True):
        assert wrong.num_examples == right.num_examples
        assert 0 < wrong.num_failures < wrong.num_examples
        assert wrong.value < right.value - 0.1
        assert right.num_failures == 0
        if wrong.metric == "accuracy":
            assert wrong.value == pytest.approx(1 - wrong.num_failures / wrong.num_examples)


def test_failures_are_wrong_for_both_classes() -> None:
    """Half of the prompts fail, so half of the answers are right, whatever the class."""

    class Every(Oracle):
        asked = 0

        def chat(self, system: str, prompt: str) -> Answer:
            self.asked += 1
            return Answer("?") if self.asked % 2 else super().chat(system, prompt)

    for scorer in (DetectionScorer, FuzzingScorer):
        for score in scores(scorer, planted_cases(1, 200), Every(), num_active=200, num_inactive=200):
            assert score.num_failures == score.num_examples / 2
            # Both of a pair are judged in a quarter of the pairs; in the others a failure ranks as badly as it can.
            assert score.value == pytest.approx(0.5 if score.metric == "balanced_accuracy" else 0.25, abs=0.03)


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_judge_that_answers_nothing_usable_ends_the_run(scorer: type[JudgeScorer]) -> None:
    def script(_prompt: str, _attempt: int) -> Fault:
        return Fault("status", 400, message="not here")

    with pytest.raises(InputError, match=r"oracle gave no usable answer .* not here"):
        over_http(scorer, planted_cases(3, 12), script)


def test_a_judge_that_only_talks_ends_the_run_with_its_words() -> None:
    class Chatty(Oracle):
        def chat(self, _system: str, _prompt: str) -> Answer:
            return Answer("What a nice text!")

    with pytest.raises(InputError, match="What a nice text!"):
        scores(DetectionScorer, planted_cases(3, 12), Chatty())


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_order_of_cases_and_their_neighbours_change_no_score(scorer: type[JudgeScorer]) -> None:
    cases = planted_cases(4, 12)
    whole, backwards, alone = scores(scorer, cases), scores(scorer, cases[::-1]), scores(scorer, cases[2:3])
    assert sorted(whole) == sorted(backwards)
    assert [score for score in whole if score.feature == 2] == alone


def test_detection_hides_what_it_asks_for() -> None:
    oracle = Asked()
    (case,) = planted_cases(1, 12)
    scores(DetectionScorer, [case], oracle)
    assert len(oracle.prompts) == 4  # 20 texts, 5 a prompt
    assert not any("<<" in prompt for prompt in oracle.prompts)
    shown = [json.loads(text) for prompt in oracle.prompts for text in re.findall(r'^Text \d: (".*")$', prompt, re.M)]
    kinds = {"".join(example.tokens): example.is_active for example in case.examples}
    assert sorted(kinds[text] for text in shown) == [False] * 10 + [True] * 10
    assert len(set(shown)) == 20


def test_fuzzing_shows_each_text_once_rightly_and_once_wrongly_marked() -> None:
    oracle = Asked()
    (case,) = planted_cases(1, 12)
    scores(FuzzingScorer, [case], oracle)
    active = {"".join(one.tokens): one for one in case.examples if one.is_active}
    marked: dict[str, list[set[int]]] = {text: [] for text in active}
    for prompt in oracle.prompts:
        for line in re.findall(r'^Text \d: (".*")$', prompt, re.M):
            text = json.loads(line)
            plain = text.replace("<<", "").replace(">>", "")
            inside = [match.span() for match in re.finditer(r"<<.*?>>", text)]
            marked[plain].append({text[: start + 1].count("w") for start, _ in inside})
    used = {text: marks for text, marks in marked.items() if marks}
    assert len(used) == 10
    for text, (one, other) in used.items():
        own = {place for place, value in enumerate(active[text].values) if value > 0}
        # Runs of marked tokens begin at a firing token in one version, and only at silent ones in the other.
        assert sorted([one <= own, other <= own]) == [False, True]
        assert not one & other


def test_fuzzing_uses_marks_that_code_does_not() -> None:
    oracle = Asked()
    (case,) = planted_cases(1, 12)
    shifting = [
        one._replace(tokens=(*one.tokens[:-1], " w399 << w399"), values=(*one.values[:-1], 0.0))
        for one in case.examples
    ]
    (accuracy, _area) = scores(FuzzingScorer, [case._replace(examples=tuple(shifting))], oracle)
    assert all("[[" in prompt for prompt in oracle.prompts)
    assert accuracy.value == 1


def test_a_feature_that_fires_on_every_token_of_its_texts_cannot_be_fuzzed() -> None:
    (case,) = planted_cases(1, 12)
    full = tuple(one._replace(values=(1.0,) * len(one.tokens)) for one in case.examples)
    assert all(math.isnan(score.value) for score in scores(FuzzingScorer, [case._replace(examples=full)]))


def test_simulation_uses_the_mean_of_what_the_judge_considered() -> None:
    class Wavering(Oracle):
        """Says 0 throughout, but considers 9 where the explanation fits."""

        def chat(self, system: str, prompt: str) -> Answer:
            sure = super().chat(system, prompt)
            rated = json.loads(sure.text)
            plain = numbers([0] * len(rated))
            chances = [
                (text, [("0", -0.1), ("9", -1.0 if rated[place // 2] else -6.0)] if place % 2 else others)
                for place, (text, others) in enumerate(plain.tokens)
            ]
            return Answer(plain.text, chances)

    cases = planted_cases(3, 12)
    assert min(score.value for score in scores(SimulationScorer, cases, Wavering())) > 0.95

    class Mute(Wavering):
        def chat(self, system: str, prompt: str) -> Answer:
            return super().chat(system, prompt)._replace(tokens=None)

    assert [score.value for score in scores(SimulationScorer, cases, Mute())] == [0.0] * 3


def test_without_log_probabilities_there_is_accuracy_and_no_area() -> None:
    class Mute(Oracle):
        def chat(self, system: str, prompt: str) -> Answer:
            return super().chat(system, prompt)._replace(tokens=None)

    accuracy, area = scores(DetectionScorer, planted_cases(1, 12), Mute())
    assert (accuracy.value, area.metric) == (1.0, "auroc")
    assert math.isnan(area.value)


@pytest.mark.parametrize("answer", ["[1, 0]", "[2, 3, 4, 5, 6]", "[1, 0, 1, 0, 1, 0]", "yes", ""])
def test_lists_of_another_length_or_range_are_failures(answer: str) -> None:
    class Odd(Oracle):
        asked = 0

        def chat(self, system: str, prompt: str) -> Answer:
            self.asked += 1
            return Answer(answer) if self.asked > 1 else super().chat(system, prompt)

    accuracy, _ = scores(DetectionScorer, planted_cases(1, 12), Odd())
    assert accuracy.num_failures == 15
    assert accuracy.num_examples == 20


@pytest.mark.parametrize(
    ("answer", "fails"),
    [('{"intruder": 9}', True), ('{"intruder": "two"}', True), ("9", True), ("3.", False), ("[2]", False)],
)
def test_an_intruder_that_is_none_of_the_texts_is_a_failure(answer: str, fails: bool) -> None:
    class Odd(Oracle):
        asked = 0

        def chat(self, system: str, prompt: str) -> Answer:
            self.asked += 1
            return Answer(answer) if self.asked > 1 else super().chat(system, prompt)

    (accuracy,) = scores(IntruderScorer, planted_cases(1, 12), Odd())
    assert accuracy.num_failures == (9 if fails else 0)


def test_a_missing_loss_or_vector_ranks_as_wrong_as_it_can() -> None:
    class Partial(Oracle):
        def embed(self, text: str) -> list[float]:
            odd = text.startswith(" ") and sum(map(ord, text)) % 2
            return [0.0] * 400 if odd else super().embed(text)

    def script(prompt: str, _attempt: int) -> Fault | None:
        return Fault("status", 400) if sum(map(ord, prompt)) % 3 == 0 else None

    cases = planted_cases(4, 30)
    by_vector = scores(EmbeddingScorer, cases, Partial())
    by_loss, _ = over_http(SurprisalScorer, cases, script)
    for score in by_vector + by_loss:
        assert 0 < score.num_failures < score.num_examples
        assert score.value < 0.8


def test_what_the_budget_did_not_last_for_has_no_score_and_no_other_is_touched() -> None:
    cases = planted_cases(6, 12)
    with ScriptedServer(Oracle()) as server:
        config = EndpointConfig(base_url=server.url, model="oracle", concurrency=1, token_budget=4500)
        with Endpoint(config) as judge:
            got = list(TABLE.new("detection", CONFIG, judge, 0).score(cases))
    whole = scores(DetectionScorer, cases)
    unscored = [score for score in got if math.isnan(score.value)]
    assert 0 < len(unscored) < len(got)
    assert all(score.num_failures > 0 for score in unscored)
    assert [one for one in got if one not in unscored] == whole[: len(got) - len(unscored)]


def test_intervals_come_from_documents() -> None:
    class Unsure(Oracle):
        def chat(self, system: str, prompt: str) -> Answer:
            return numbers(
                [int(value) ^ int(n % 4 == 0) for n, value in enumerate(json.loads(super().chat(system, prompt).text))]
            )

    (case,) = planted_cases(1, 12)
    accuracy, _ = scores(DetectionScorer, [case], Unsure())
    assert accuracy.low < accuracy.value < accuracy.high
    one_document = tuple(one._replace(document=0) for one in case.examples)
    alone, _ = scores(DetectionScorer, [case._replace(examples=one_document)], Unsure())
    assert math.isnan(alone.low)
    assert alone.value == accuracy.value


def test_examples_are_drawn_a_bounded_number_of_cases_ahead() -> None:
    drawn = 0

    def stream() -> object:
        nonlocal drawn
        for case in planted_cases(40, 6):
            drawn += 1
            yield case

    with ScriptedServer(Oracle()) as server:
        config = EndpointConfig(base_url=server.url, model="oracle", concurrency=2)
        with Endpoint(config) as judge:
            rows = TABLE.new("detection", CONFIG, judge, 0).score(stream())
            next(rows)
            assert drawn <= 8
            rows.close()


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_token_of_unknown_activation_is_neither_marked_nor_counted(scorer: type[JudgeScorer]) -> None:
    cases = planted_cases(2, 12)
    unknown = [
        case._replace(
            examples=tuple(
                one._replace(tokens=("<s>", *one.tokens), values=(math.nan, *one.values)) for one in case.examples
            )
        )
        for case in cases
    ]
    assert all(score.value > 0.95 for score in scores(scorer, unknown))


def test_weakly_active_tokens_are_not_marked() -> None:
    oracle = Asked()
    (case,) = planted_cases(1, 12)
    faint = [_with_faint_tokens(one) for one in case.examples]
    accuracy, _ = scores(FuzzingScorer, [case._replace(examples=tuple(faint))], oracle)
    assert accuracy.value == 1


def _with_faint_tokens(example: Example) -> Example:
    """A tenth of the strongest activation on two silent tokens, if it is active at all."""
    values = np.array(example.values)
    values[np.flatnonzero(values == 0)[:2]] = 0.1 * values.max()
    return example._replace(values=tuple(values.tolist()))
