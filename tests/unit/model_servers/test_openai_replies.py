"""OpenAI's answers: the same content whole and in parts, as the official client's types have it."""

from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mistudio.steer.requests import (
    Changed,
    Comparison,
    Delta,
    Done,
    Event,
    Finished,
    GenerationRequest,
    TokenLogprob,
    Usage,
)
from model_servers.steer.answers import Answer, Outcome
from model_servers.steer.openai.choices import ChatShape, CompletionShape
from model_servers.steer.openai.replies import Reply
from model_servers.steer.openai.streaming import StreamedChoices

INF = float("inf")
TOKENS = (
    TokenLogprob(
        "th", 5, -0.5, (116, 104), (TokenLogprob("th", 5, -0.5, (116, 104)), TokenLogprob("a", 6, -2.0, (97,)))
    ),
    TokenLogprob(
        "é", 7, -INF, (195, 169), (TokenLogprob("\ufffd", 8, -INF, (195,)), TokenLogprob("\ufffd", 9, -3.0, (169,)))
    ),
)
DELTAS = (Delta(0, "th", (5,), TOKENS[:1], ((0.5, 0.0),)), Delta(0, "é", (7,), TOKENS[1:], ((1.5, 2.0),)))
FINISHED = Finished(0, "content_filter", "feature 12 above 3.0")
COMPARISON = Comparison(
    "plain", "stop", (Changed("changed", "plain", "thé"),), (0.25, INF), 3.0, 2.0, ((0.0, 0.0),), {"resid_post.1": 0.5}
)
DONE = Done(Usage(4, 2), COMPARISON)
REQUEST = GenerationRequest(
    prompt="x", logprobs=2, steering={"watch": [1, 2], "compare": True, "edits": [{"op": "ablate", "feature": 1}]}
)


def outcome(request: GenerationRequest = REQUEST) -> Outcome:
    answer = Answer()
    for delta in DELTAS:
        answer.add(delta)
    answer.finished = FINISHED
    return Outcome([answer for _ in range(request.n)], DONE.usage, DONE.comparison)


def streamed(shape: Any, events: list[tuple[int, Event]], requests: list[GenerationRequest]) -> list[dict[str, Any]]:
    choices = StreamedChoices(shape, requests)
    return [*choices.openings(), *(choice for part, event in events for choice in choices.of(part, event))]


def test_a_completion_has_text_and_logprobs_in_lists() -> None:
    whole = Reply(CompletionShape(), "m", [REQUEST]).whole([outcome()])
    Completion.model_validate(whole, strict=True)
    (choice,) = whole["choices"]
    assert choice["text"] == "thé"
    assert choice["logprobs"] == {
        "tokens": ["th", "é"],
        "token_logprobs": [-0.5, -9999.0],
        "top_logprobs": [{"th": -0.5, "a": -2.0}, {"\ufffd": -3.0}],
        "text_offset": [0, 2],
    }
    assert whole["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def test_a_chat_has_a_message_and_logprobs_by_token() -> None:
    whole = Reply(ChatShape(), "m", [REQUEST]).whole([outcome()])
    ChatCompletion.model_validate(whole, strict=True)
    (choice,) = whole["choices"]
    assert choice["message"] == {"role": "assistant", "content": "thé", "refusal": None}
    first, second = choice["logprobs"]["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("th", -0.5, [116, 104])
    assert [each["token"] for each in first["top_logprobs"]] == ["th", "a"]
    assert second["logprob"] == -9999.0


def test_why_an_answer_ended_is_there_with_what_ended_it() -> None:
    (choice,) = Reply(ChatShape(), "m", [REQUEST]).whole([outcome()])["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("content_filter", "feature 12 above 3.0")


def test_watched_activations_and_the_comparison_are_in_the_choice() -> None:
    (choice,) = Reply(CompletionShape(), "m", [REQUEST]).whole([outcome()])["choices"]
    assert choice["steering"]["watched"] == [[0.5, 0.0], [1.5, 2.0]]
    comparison = choice["steering"]["comparison"]
    assert comparison["plain_text"] == "plain"
    assert comparison["kl"] == [0.25, None]  # JSON has no infinity
    assert comparison["diff"] == [{"kind": "changed", "plain": "plain", "steered": "thé"}]


def test_a_request_without_steering_and_logprobs_has_neither() -> None:
    plain = GenerationRequest(prompt="x")
    done = Outcome([Answer("th", finished=Finished(0, "stop"))], Usage(1, 1))
    (choice,) = Reply(CompletionShape(), "m", [plain]).whole([done])["choices"]
    assert choice == {"index": 0, "text": "th", "logprobs": None, "finish_reason": "stop"}


def test_what_is_streamed_adds_up_to_the_whole() -> None:
    parts = streamed(CompletionShape(), [(0, DELTAS[0]), (0, DELTAS[1]), (0, FINISHED), (0, DONE)], [REQUEST])
    (whole,) = Reply(CompletionShape(), "m", [REQUEST]).whole([outcome()])["choices"]
    assert "".join(part["text"] for part in parts) == whole["text"]
    for name, values in whole["logprobs"].items():
        assert [each for part in parts if part["logprobs"] for each in part["logprobs"][name]] == values
    assert [row for part in parts for row in part["steering"]["watched"]] == whole["steering"]["watched"]
    assert parts[-1]["steering"]["comparison"] == whole["steering"]["comparison"]
    assert [part["finish_reason"] for part in parts] == [None, None, "content_filter"]


def test_a_streamed_chat_begins_with_the_role_and_ends_with_the_reason() -> None:
    parts = streamed(ChatShape(), [(0, DELTAS[0]), (0, FINISHED), (0, DONE)], [REQUEST])
    for part in parts:
        head = {"id": "c", "created": 1, "model": "m", "object": "chat.completion.chunk"}
        ChatCompletionChunk.model_validate({**head, "choices": [part]}, strict=True)
    assert [part["delta"] for part in parts] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "th"},
        {},
    ]


def test_a_choice_that_is_compared_ends_with_the_comparison_and_others_at_once() -> None:
    plain = GenerationRequest(prompt="x")
    choices = StreamedChoices(ChatShape(), [plain, REQUEST])
    assert [each["index"] for each in choices.of(0, FINISHED)] == [0]
    assert list(choices.of(1, FINISHED)) == []
    (closing,) = choices.of(1, DONE)
    assert (closing["index"], closing["finish_reason"]) == (1, "content_filter")


def test_choices_of_several_prompts_are_counted_through() -> None:
    two = GenerationRequest(prompt="x", n=2)
    whole = Reply(CompletionShape(), "m", [two, two]).whole([outcome(two), outcome(two)])
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    (part,) = StreamedChoices(CompletionShape(), [two, two]).of(1, Delta(1, "x", (1,)))
    assert part["index"] == 3


def test_a_part_without_text_or_figures_is_not_sent() -> None:
    assert list(StreamedChoices(CompletionShape(), [REQUEST]).of(0, Delta(0, "", (5,)))) == []
