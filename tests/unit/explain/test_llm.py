import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from mistudio.errors import ConfigError, InputError
from mistudio.explain.config import LlmExplainerConfig
from mistudio.explain.endpoint import Endpoint, EndpointConfig
from mistudio.explain.judge import AnswerToken, Reply
from mistudio.explain.llm import (
    ContrastiveExplainer,
    MaxActivatingExplainer,
    TokenActivationPairsExplainer,
)
from mistudio.explain.llm_answers import expected_numbers, find_numbers, find_object, is_complete
from mistudio.explain.llm_local import LocalModelConfig
from mistudio.explain.llm_open import judge_config, open_judge
from mistudio.explain.prompts import (
    choose_marks,
    firing_places,
    marked_text,
    pick_active,
    pick_inactive,
    prompt_digest,
    strengths,
)
from mistudio.explain.records import Evidence, Example, Explanation
from tests.support.oracle import WORDS, planted_cases, planted_words
from tests.support.scripted_server import Answer, Fault, ScriptedServer
from tests.support.tiny import tiny_llama

NUM_FEATURES = 5


class Reader:
    """Explains by the words that it finds between marks, or before the highest numbers."""

    def chat(self, _system: str, prompt: str) -> Answer:
        answers = []
        for place, section in enumerate(re.split(r"^Feature \d+\n", prompt, flags=re.MULTILINE)[1:], start=1):
            found = re.findall(r"<< (w\d+)>>", section) or re.findall(r'" (w\d+)" (?:[1-9]|10)\b', section)
            text = f"one of: {', '.join(sorted(set(found)))}"
            answers.append(json.dumps({"feature": place, "explanation": text, "label": f"{len(set(found))} words"}))
        return Answer("\n".join(answers))

    def losses(self, text: str) -> list[tuple[str, float]]:
        raise NotImplementedError

    def embed(self, text: str) -> list[float]:
        raise NotImplementedError


class Says(Reader):
    """Answers every prompt with the same words."""

    def __init__(self, text: str) -> None:
        self.text = text

    def chat(self, _system: str, _prompt: str) -> Answer:
        return Answer(self.text)


def evidence(num_examples: int = 30) -> list[Evidence]:
    return [
        Evidence(case.explanation.feature, case.examples, 0.05, 1.15, promoted=(" then",))
        for case in planted_cases(NUM_FEATURES, num_examples)
    ]


def dead(feature: int = 99) -> Evidence:
    silent = [example for example in evidence()[0].examples if not example.is_active]
    return Evidence(feature, tuple(silent), 0.0, 0.0)


def run(
    server: ScriptedServer,
    features: Sequence[Evidence],
    kind: type = MaxActivatingExplainer,
    answers: Path | None = None,
    shown: dict[str, int] | None = None,
    **settings: object,
) -> dict[int, Explanation]:
    config = EndpointConfig.model_validate({"base_url": server.url, "model": "reader", "backoff_s": 0.001, **settings})
    with Endpoint(config, answers) as judge:
        made = list(kind(judge, LlmExplainerConfig(**(shown or {})), seed=3).explain(features))
    assert len({one.feature for one in made}) == len(made)
    return {one.feature: one for one in made}


@pytest.mark.parametrize("kind", [MaxActivatingExplainer, ContrastiveExplainer, TokenActivationPairsExplainer])
def test_an_explainer_shows_what_the_feature_fires_on_and_records_what_it_showed(kind: type) -> None:
    features = evidence()
    with ScriptedServer(Reader()) as server:
        made = run(server, features, kind, shown={"num_active": 20, "num_inactive": 2})
    assert sorted(made) == list(range(NUM_FEATURES))
    for feature, words in enumerate(planted_words(NUM_FEATURES)):
        own, seen = made[feature], features[feature]
        assert (own.status, own.explainer, own.model, own.seed) == ("explained", kind.name, "reader", 3)
        assert own.text == f"one of: {', '.join(WORDS[word].strip() for word in words)}"
        assert own.label == "8 words"
        asked = next(one for one in server.asked if prompt_digest_of(one.body) == own.prompt)
        lines = [re.findall(r"w\d{3}", line) for line in asked.prompt.split("\n")]
        shown = {one.document for one in seen.examples if [t.strip() for t in one.tokens] in [x[:32] for x in lines]}
        assert set(own.documents) == shown
        assert sum(len(words) >= 32 for words in lines) == (22 if kind is ContrastiveExplainer else 20)


def prompt_digest_of(body: dict[str, list[dict[str, str]]]) -> str:
    system, user = (message["content"] for message in body["messages"])
    return prompt_digest(system, user)


def test_the_contrast_is_shown_unmarked_and_its_documents_count_as_seen() -> None:
    (feature, *_) = evidence()
    with ScriptedServer(Reader()) as server:
        made = run(server, [feature], ContrastiveExplainer, shown={"num_active": 3, "num_inactive": 4})
    lines = server.asked[0].prompt.split("\n")
    assert sum("<<" in line for line in lines) == 3
    without = [line for line in lines if line.startswith("NOT ")]
    assert len(without) == 4
    assert not any("<<" in line for line in without)
    by_text = {"".join(one.tokens): one.document for one in feature.examples}
    assert {by_text[json.loads(line.removeprefix("NOT "))] for line in without} <= set(made[0].documents)


def test_several_features_share_a_prompt_and_one_left_out_fails_alone() -> None:
    class Forgetful(Reader):
        def chat(self, system: str, prompt: str) -> Answer:
            lines = super().chat(system, prompt).text.split("\n")
            return Answer("\n".join(line for line in lines if '"feature": 2' not in line))

    with ScriptedServer(Forgetful()) as server:
        made = run(server, evidence(), shown={"features_per_prompt": 3})
    assert len(server.asked) == 2
    assert [made[feature].status for feature in range(5)] == ["explained", "failed", "explained", "explained", "failed"]
    assert made[2].text.startswith("one of: w016")
    assert made[1].text == "the answer holds no JSON object with an explanation"


def test_a_feature_that_never_fires_is_explained_as_dead_without_asking() -> None:
    with ScriptedServer(Reader()) as server:
        made = run(server, [dead(7), *evidence(), dead(8)])
    assert made[7].status == made[8].status == "dead"
    assert made[7].text == "It never fires."
    assert len(server.asked) == NUM_FEATURES


def test_one_that_fires_but_not_in_the_examples_is_a_failure_that_says_so() -> None:
    with ScriptedServer(Reader()) as server:
        made = run(server, [dead(7)._replace(density=1e-6)])
    assert (made[7].status, made[7].text) == ("failed", "There is no example of it firing to show.")
    assert not server.asked


def test_fewer_examples_than_asked_for_are_enough() -> None:
    (feature, *_) = evidence(num_examples=2)
    with ScriptedServer(Reader()) as server:
        assert run(server, [feature], shown={"num_active": 50})[0].status == "explained"


def test_an_answer_cut_off_twice_is_a_failed_explanation_and_once_is_not() -> None:
    features = evidence()

    def script(prompt: str, attempt: int) -> Fault | None:
        return Fault("length") if attempt == 0 or "<< w000>>" in prompt else None

    with ScriptedServer(Reader(), script) as server:
        made = run(server, features)
    statuses = [made[feature].status for feature in range(NUM_FEATURES)]
    assert statuses == ["failed", "explained", "explained", "explained", "explained"]
    assert "cut off at 512 tokens" in made[0].text
    assert len(server.asked) == 2 * NUM_FEATURES


def test_rubbish_for_some_features_fails_those_alone() -> None:
    class Moody(Reader):
        def chat(self, system: str, prompt: str) -> Answer:
            return Answer("As a language model...") if "<< w000>>" in prompt else super().chat(system, prompt)

    features = evidence()
    with ScriptedServer(Moody()) as server:
        made = run(server, features)
    assert [made[feature].status for feature in range(5)] == ["failed"] + ["explained"] * 4
    assert made[0].text == "the answer holds no JSON object with an explanation"


@pytest.mark.parametrize("answer", ["I cannot help with that.", "", '{"explanation": ""}', '{"text": "x"', "[1, 2]"])
def test_an_endpoint_that_answers_nothing_but_rubbish_ends_the_run_with_its_words(answer: str) -> None:
    with (
        ScriptedServer(Says(answer)) as server,
        pytest.raises(InputError, match="no usable answer to any of 5") as error,
    ):
        run(server, evidence())
    assert repr(answer) in str(error.value) or not answer
    assert "program explainer" in str(error.value)


def test_a_spent_budget_leaves_failures_and_a_second_run_asks_only_for_them(tmp_path: Path) -> None:
    features = evidence()
    with ScriptedServer(Reader()) as server:
        first = run(server, features, answers=tmp_path, token_budget=3500, concurrency=1)
        statuses = [one.status for one in first.values()]
        assert 0 < statuses.count("explained") < NUM_FEATURES
        assert {one.text for one in first.values() if one.status == "failed"} == {"budget reached (3,500 tokens)"}
        num_first = len(server.asked)
        second = run(server, features, answers=tmp_path)
        assert {one.status for one in second.values()} == {"explained"}
        assert len(server.asked) == NUM_FEATURES
        assert num_first == statuses.count("explained")
        assert all(second[feature] == one for feature, one in first.items() if one.status == "explained")


@pytest.mark.parametrize(
    "answer",
    [
        '{"explanation": "verbs", "label": "verbs"}',
        'Sure!\n```json\n{"explanation": "verbs", "label": "verbs"}\n```\nHope it helps.',
        '<think>{"explanation": "no"}</think> {"explanation": "verbs", "label": "verbs"}',
        'Set {a} and [b]: {"feature": 1, "explanation": "verbs", "label": "verbs"} {"explanation": "other"}',
    ],
)
def test_json_is_found_whatever_stands_around_it(answer: str) -> None:
    found = find_object(answer, ["explanation"])
    assert found is not None
    assert (found["explanation"], found["label"]) == ("verbs", "verbs")


@pytest.mark.parametrize(
    "answer", ["", "verbs", '{"explanation": "ver', '{"label": "x"}', '["explanation"]', "{" * 5000]
)
def test_what_is_no_answer_is_not_taken_for_one(answer: str) -> None:
    assert find_object(answer, ["explanation"]) is None


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("[1, 0, 1]", [1, 0, 1]),
        ("Answers: [1,0,1].", [1, 0, 1]),
        ('{"answers": [true, false, true]}', [1, 0, 1]),
        ("of [1, 2] I choose\n[1, 0, 1]", [1, 0, 1]),
        ("[1, 0]", None),
        ("[1, 0, 1, 0]", None),
        ('["1", "0", "1"]', None),
        ("[1, 0, NaN]", None),
        ("1 0 1", None),
        ("[1, 0, 1", None),
    ],
)
def test_lists_of_numbers_are_taken_only_at_the_right_length(answer: str, found: list[float] | None) -> None:
    assert find_numbers(Reply(text=answer), 3) == found


def test_expected_numbers_weigh_what_the_judge_considered() -> None:
    tokens = (
        AnswerToken("Here: [", ()),
        AnswerToken("1", (("1", -0.2231), ("0", -1.6094))),
        AnswerToken(", ", ()),
        AnswerToken("0]", (("0]", -0.6931), ("1]", -1.3863), ("x", -1.3863))),
    )
    reply = Reply(text="Here: [1, 0]", tokens=tokens)
    assert expected_numbers(reply, 2, 0, 1) == pytest.approx([0.8, 1 / 3], abs=1e-3)
    assert expected_numbers(reply._replace(tokens=None), 2, 0, 1) is None
    assert expected_numbers(reply._replace(tokens=tokens[1:]), 2, 0, 1) is None  # they do not spell the answer


def test_a_number_of_several_tokens_has_its_own_value() -> None:
    tokens = (
        AnswerToken("[", ()),
        AnswerToken("1", (("1", -0.1), ("5", -3.0))),
        AnswerToken("0", ()),
        AnswerToken("]", ()),
    )
    assert expected_numbers(Reply(text="[10]", tokens=tokens), 1, 0, 10) == [10]


@pytest.mark.parametrize(("text", "whole"), [("[1", False), ("x [1]", True), ("<think>[1]", False), ("{}", True)])
def test_an_answer_is_complete_once_it_holds_whole_json(text: str, whole: bool) -> None:
    assert is_complete(text) is whole


def example(values: Sequence[float], kind: str = "sampled", document: int = 0) -> Example:
    tokens = tuple(f" t{place}" for place in range(len(values)))
    return Example(kind, tokens, tuple(values), 0, document, 0, 0, "")


def test_marks_are_ones_that_the_texts_do_not_use() -> None:
    assert choose_marks(["plain"]) == ("<<", ">>")
    assert choose_marks(["x << 3", "plain"]) == ("[[", "]]")
    assert choose_marks(["a[b[0]]", "x >> 1"]) == ("⟪", "⟫")


def test_tokens_side_by_side_share_marks() -> None:
    assert marked_text(example([0, 1, 1, 0, 1]), [1, 2, 4], ("<<", ">>")) == " t0<< t1 t2>> t3<< t4>>"


def test_strengths_are_whole_numbers_to_ten_and_what_fires_is_not_zero() -> None:
    assert strengths(example([0, 0.001, 5, 10, 12]), 10) == [0, 1, 5, 10, 10]


def test_a_token_of_unknown_activation_is_not_marked_and_hides_no_other() -> None:
    one = example([math.nan, 0.0, 2.0, 0.1])
    assert firing_places(one) == [2]
    assert strengths(one, 2.0) == [0, 0, 10, 1]
    assert pick_active([one, example([1.0])], 1) == [one]


def test_active_examples_are_the_strongest_and_a_spread_of_the_others() -> None:
    examples = [example([value])._replace(sequence=value) for value in range(100)] * 2
    picked = [one.values[0] for one in pick_active(examples, 10)]
    assert picked[:5] == [99, 98, 97, 96, 95]
    assert picked[5] == 94
    assert picked[-1] == 1
    assert len(set(picked)) == 10


def test_inactive_examples_are_near_misses_by_half_and_others_fill_up() -> None:
    examples = [example([0.0], kind, number) for number, kind in enumerate(["hard_negative"] * 3 + ["random"] * 20)]
    assert [one.kind for one in pick_inactive(examples, 4)].count("hard_negative") == 2
    assert [one.kind for one in pick_inactive(examples, 10)].count("hard_negative") == 3
    assert [one.kind for one in pick_inactive(examples[:5], 5)].count("hard_negative") == 3


def test_without_a_language_model_the_message_says_how_to_name_one_and_what_needs_none() -> None:
    assert judge_config("", "") is None
    with pytest.raises(ConfigError, match="max-activating needs a language model") as error:
        open_judge(None, "max-activating")
    assert all(part in str(error.value) for part in ("http://", "MISTUDIO_LLM_API_KEY", "program explainer"))


def test_an_address_makes_an_endpoint_and_a_model_alone_a_local_one() -> None:
    assert judge_config("http://h/v1", "m", 1000) == EndpointConfig(
        base_url="http://h/v1", model="m", token_budget=1000
    )
    assert judge_config("", "folder") == LocalModelConfig(model="folder")
    assert judge_config("", "folder", settings={"batch_size": 2}) == LocalModelConfig(model="folder", batch_size=2)
    with pytest.raises(ConfigError, match="no name of a model"):
        judge_config("http://h/v1", "")
    with pytest.raises(ConfigError, match="but no model"):
        judge_config("", "", settings={"concurrency": 1})
    with pytest.raises(ConfigError, match="token_budget, for which"):
        judge_config("http://h/v1", "m", settings={"token_budget": 5})


# Every setting with another value, by whether answers, or which of them there are, depend on it.
ANSWERS_DEPEND_ON = {
    "model": "other",
    "embedding_model": "other",
    "max_output_tokens": 9,
    "thinking_tokens": 9,
    "temperature": None,
    "seed": 1,
    "logprobs": False,
    "token_budget": 1000,  # a larger one has to give another artifact, or no run could go on
}
ANSWERS_DO_NOT = {
    "base_url": "http://other/v1",
    "concurrency": 1,
    "timeout_s": 1,
    "retries": 0,
    "backoff_s": 9,
    "max_wait_s": 9,
    "give_up_after": 1,
    "limit_field": "max_completion_tokens",  # another name for the same limit
    "usd_per_million_in": 9,
    "usd_per_million_out": 9,
}


@pytest.mark.parametrize("name", EndpointConfig.model_fields)
def test_the_recipe_of_an_endpoint_holds_what_changes_answers_and_nothing_else(name: str) -> None:
    given = {"base_url": "http://h/v1", "model": "m"}
    plain = EndpointConfig.model_validate(given).settings()
    changed = EndpointConfig.model_validate(given | {name: {**ANSWERS_DEPEND_ON, **ANSWERS_DO_NOT}[name]}).settings()
    assert (changed != plain) is (name in ANSWERS_DEPEND_ON)
    assert not any("http" in str(value) for value in changed.values())


def test_a_model_that_embeds_too_may_be_named_or_not() -> None:
    given = {"base_url": "http://h/v1", "model": "m"}
    assert EndpointConfig(**given).settings() == EndpointConfig(**given, embedding_model="m").settings()


@pytest.mark.parametrize("name", LocalModelConfig.model_fields)
def test_the_recipe_of_a_local_model_holds_what_changes_answers_and_nothing_else(name: str, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "a")
    tiny_llama(tmp_path / "b", seed=1)
    given = {"model": str(tmp_path / "a"), "subject": {"device": "cpu"}}
    others: dict[str, object] = {
        "model": str(tmp_path / "b"),
        "subject": {"device": "cpu", "dtype": "bfloat16"},
        "max_output_tokens": 9,
        "thinking_tokens": 9,
        "batch_size": 1,
    }
    plain, changed = (LocalModelConfig.model_validate(given | more).settings() for more in ({}, {name: others[name]}))
    assert (changed != plain) is (name != "batch_size")
    assert not any(str(tmp_path) in str(value) for value in changed.values())
