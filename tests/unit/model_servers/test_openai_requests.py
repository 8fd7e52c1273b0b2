"""OpenAI's requests: what means something here is read, what changes nothing is left, all else is refused by name."""

from typing import Any

import pytest
from pydantic import ValidationError

from mistudio.steer.requests import GenerationRequest
from model_servers.base.problems import Problem, Refused, problem_of_fields
from model_servers.steer.openai.requests import ChatRequest, CompletionRequest
from model_servers.steer.parsing import generation_request

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
COMPLETION = {"model": "m", "prompt": "hello"}


def of(kind: type[CompletionRequest] | type[ChatRequest], body: dict[str, Any]) -> list[GenerationRequest]:
    parsed = kind.model_validate(body)
    return [generation_request(fields, parsed.renamed()) for fields in parsed.requests()]


def problem_with(kind: type[CompletionRequest] | type[ChatRequest], body: dict[str, Any]) -> Problem:
    try:
        found = of(kind, body)
    except ValidationError as error:
        return problem_of_fields(error)
    except Refused as error:
        return error.problem
    raise AssertionError(found)


def test_a_completion_has_16_tokens_where_nothing_is_said_as_openai_has_it() -> None:
    (request,) = of(CompletionRequest, COMPLETION)
    assert request == GenerationRequest(prompt="hello", max_tokens=16)


def test_a_chat_goes_on_as_long_as_the_server_allows() -> None:
    (request,) = of(ChatRequest, CHAT)
    assert request == GenerationRequest(messages=[{"role": "user", "content": "hello"}])


def test_all_that_is_said_reaches_the_engine() -> None:
    body = COMPLETION | {
        "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "n": 3, "stop": "x", "seed": 4,
        "logit_bias": {"12": -100}, "logprobs": 2, "ignore_eos": True,
        "steering": {"edits": [{"op": "scale", "feature": 3, "factor": 2}], "watch": [3], "compare": True},
    }  # fmt: skip
    (request,) = of(CompletionRequest, body)
    assert request.sampling.model_dump() == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 4, "logit_bias": {12: -100.0},
    }  # fmt: skip
    assert (request.max_tokens, request.n, request.stop, request.logprobs, request.ignore_eos) == (
        7,
        3,
        ("x",),
        2,
        True,
    )
    assert request.steering is not None
    assert request.steering.compare
    assert request.steering.edits[0].op == "scale"


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a", ["a"]),
        ("", [""]),
        ([1, 2], [(1, 2)]),
        (["a", "b"], ["a", "b"]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
def test_prompts_are_texts_or_tokens_one_or_several(prompt: Any, read: list[Any]) -> None:
    assert [request.prompt for request in of(CompletionRequest, {"model": "m", "prompt": prompt})] == read


@pytest.mark.parametrize(
    "prompt", [None, [], [[]], [1.5], [True], ["a", 1], [1, "a"], [-1], [2**31], {"a": 1}, 5, ["a"] * 129]
)
def test_other_prompts_are_refused_in_a_few_words(prompt: Any) -> None:
    problem = problem_with(CompletionRequest, {"model": "m", "prompt": prompt})
    assert problem.param == "prompt"
    assert len(problem.message) < 250


def test_a_prompt_of_which_every_token_is_wrong_is_refused_in_a_few_words() -> None:
    problem = problem_with(CompletionRequest, {"model": "m", "prompt": ["x", *range(200_000)]})
    assert len(problem.message) < 250


@pytest.mark.parametrize(
    ("seed", "same"), [(0, 0), (2**31 - 1, 2**31 - 1), (2**31, 0), (-1, 2**31 - 1), (2**63 - 1, 2**31 - 1)]
)
def test_seeds_of_64_bits_are_folded(seed: int, same: int) -> None:
    assert of(CompletionRequest, COMPLETION | {"seed": seed})[0].sampling.seed == same


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**90, "5", 1.0, True])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    assert problem_with(CompletionRequest, COMPLETION | {"seed": seed}).param == "seed"


@pytest.mark.parametrize("content", ["hello", [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]])
def test_a_message_is_a_text_or_parts_of_one(content: Any) -> None:
    (request,) = of(ChatRequest, {"model": "m", "messages": [{"role": "user", "content": content}]})
    assert request.messages is not None
    assert request.messages[0].content == "hello"


def test_an_answer_of_ours_may_be_sent_back_as_the_client_holds_it() -> None:
    answered = {"role": "assistant", "content": "hi", "refusal": None, "annotations": None, "tool_calls": None}
    (request,) = of(ChatRequest, CHAT | {"messages": [*CHAT["messages"], answered]})
    assert request.messages is not None
    assert len(request.messages) == 2


@pytest.mark.parametrize(
    "harmless",
    [
        {"user": "me"}, {"frequency_penalty": 0}, {"presence_penalty": 0.0}, {"n": None}, {"tools": []},
        {"tool_choice": "auto"}, {"response_format": {"type": "text"}}, {"metadata": {"a": "b"}}, {"store": False},
        {"service_tier": "auto"}, {"parallel_tool_calls": True}, {"modalities": ["text"]}, {"stop": None},
        {"stream": False}, {"logprobs": False}, {"max_tokens": 3, "max_completion_tokens": 3}, {"verbosity": "medium"},
    ],
)  # fmt: skip
def test_what_changes_nothing_is_read(harmless: dict[str, Any]) -> None:
    body = {name: value for name, value in harmless.items() if "max" not in name}
    assert of(ChatRequest, CHAT | body) == of(ChatRequest, CHAT)
    assert of(ChatRequest, CHAT | harmless)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]), ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}), ("frequency_penalty", 0.1), ("presence_penalty", -1),
        ("functions", [{"name": "f"}]), ("modalities", ["audio"]), ("audio", {"voice": "x"}), ("store", True),
        ("reasoning_effort", "high"), ("verbosity", "low"), ("service_tier", "flex"), ("web_search_options", {"a": 1}),
        ("prediction", {"type": "content"}),
    ],
)  # fmt: skip
def test_what_a_chat_cannot_honour_is_refused_by_name(name: str, value: Any) -> None:
    problem = problem_with(ChatRequest, CHAT | {name: value})
    assert (problem.status, problem.param) == (400, name)
    assert name in problem.message


@pytest.mark.parametrize(
    ("name", "value"),
    [("echo", True), ("suffix", "end"), ("best_of", 3), ("presence_penalty", 1), ("messages", []), ("logprobs", 21)],
)
def test_what_a_completion_cannot_honour_is_refused_by_name(name: str, value: Any) -> None:
    problem = problem_with(CompletionRequest, COMPLETION | {name: value})
    assert problem.status == 400
    assert name in problem.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"top_p": 2}, "top_p"),
        ({"temperature": "1"}, "temperature"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"five": 1}}, "logit_bias.five"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [*CHAT["messages"], {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": "a", "name": "me"}]}, "messages[0].name"),
        ({"steering": {"edits": [{"op": "add", "feature": 1}]}}, "steering.edits[0].strength"),
        ({"steering": {"edits": [{"op": "clamp", "feature": -1, "value": 1}]}}, "steering.edits[0].feature"),
        ({"steering": {"edits": [{"op": "melt"}]}}, "steering.edits[0]"),
        ({"steering": {"watch": ["x"]}}, "steering.watch[0]"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": [1]}, "stop"),
        ({"unknown": 1}, "unknown"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage"),
    ],
)
def test_a_problem_names_the_field_by_its_place(body: dict[str, Any], param: str) -> None:
    problem = problem_with(ChatRequest, CHAT | body)
    assert problem.param == param
    assert problem.status == 400


@pytest.mark.parametrize(
    "body",
    [
        {"stream_options": {"include_usage": True}},
        {"top_logprobs": 2},
        {"max_tokens": 3, "max_completion_tokens": 4},
    ],
)
def test_fields_that_do_not_go_together_are_named_in_words(body: dict[str, Any]) -> None:
    assert next(iter(body)) in problem_with(ChatRequest, CHAT | body).message


@pytest.mark.parametrize(
    "where",
    ["generated", {"window": [1, 5]}, {"positions": [-1, 2]}, {"roles": ["user"], "exclude": {"positions": [0]}}],
)
@pytest.mark.parametrize("kind", [CompletionRequest, ChatRequest])
def test_an_edit_says_where_by_a_word_or_in_full(kind: type[CompletionRequest] | type[ChatRequest], where: Any) -> None:
    edit = {"op": "add", "feature": 1, "strength": 1.0, "where": where}
    body = (COMPLETION if kind is CompletionRequest else CHAT) | {"steering": {"edits": [edit], "watch": [1]}}
    (request,) = of(kind, body)
    assert request.steering is not None
    said = request.steering.edits[0].where.model_dump(mode="json", exclude_defaults=True)
    assert said == ({"tokens": where} if isinstance(where, str) else where)
