import gzip
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistudio.instrument.messages import Message
from mistudio.monitor.records import Sample
from mistudio.monitor.traffic.unread import Unread
from mistudio.plain_text import has_surrogates
from tests.support.logged_events import exchange, stream

HELLO = {"role": "user", "content": "Hello"}


def samples(request: Any = None, response: Any = None, **settings: Any) -> list[tuple[Any, int | None]]:
    """Contents, with chats as pairs; nothing may be left unread."""
    found = exchange(request, response, settings)
    assert not found.problems
    assert found.exchange is not None
    return [(plain(each), each.reply_from) for each in found.exchange.samples]


def plain(sample: Sample) -> Any:
    content = sample.content
    return (
        content
        if isinstance(content, str)
        else tuple((each.role, each.content) if isinstance(each, Message) else each for each in content)
    )


def problems(request: Any = None, response: Any = None, **settings: Any) -> dict[str, int]:
    return {str(reason): count for reason, count in exchange(request, response, settings).problems.items()}


def choice(index: int, text: str) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": "stop", "logprobs": None}


def said(index: int, text: str | None, **more: Any) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", "content": text, **more}, "finish_reason": "stop"}


class TestOpenAI:
    def test_a_completion_is_the_prompt_with_its_answer(self) -> None:
        asked, answered = {"model": "m", "prompt": "Once"}, {"choices": [choice(0, " upon")]}
        assert samples(asked, answered) == [("Once upon", 4)]

    def test_several_prompts_have_several_answers_each(self) -> None:
        asked = {"model": "m", "prompt": ["a", "b"], "n": 2}
        answered = {"choices": [choice(3, "4"), choice(0, "1"), choice(1, "2"), choice(2, "3")]}
        assert sorted(samples(asked, answered)) == [("a1", 1), ("a2", 1), ("b3", 1), ("b4", 1)]

    def test_an_answer_that_echoes_its_prompt_is_not_taken_twice(self) -> None:
        answered = {"choices": [choice(0, "Once upon")]}
        assert samples({"model": "m", "prompt": "Once", "echo": True}, answered) == [("Once upon", 4)]
        assert samples({"model": "m", "prompt": "Once"}, answered) == [("OnceOnce upon", 4)]

    def test_token_ids_and_a_text_are_samples_of_their_own(self) -> None:
        asked = {"model": "m", "prompt": [[1, 2], [3]]}
        answered = {"choices": [choice(0, "a"), choice(1, "b")]}
        assert samples(asked, answered) == [("a", 0), ("b", 0), ((1, 2), None), ((3,), None)]
        assert samples({"model": "m", "prompt": [1, 2]}) == [((1, 2), None)]

    def test_token_ids_with_their_answers_ids_are_one(self) -> None:
        answered = {"choices": [{"index": 0, "text": "a", "token_ids": [7, 8]}]}
        assert samples({"model": "m", "prompt": [1, 2]}, answered) == [((1, 2, 7, 8), 2)]

    def test_a_chat_ends_with_the_answer(self) -> None:
        asked = {"model": "m", "messages": [{"role": "system", "content": "Be kind."}, HELLO]}
        found = samples(asked, {"choices": [said(0, "Hi"), said(1, "Hey")]})
        before = (("system", "Be kind."), ("user", "Hello"))
        assert found == [((*before, ("assistant", "Hi")), 2), ((*before, ("assistant", "Hey")), 2)]

    def test_an_answer_without_a_word_leaves_its_prompt(self) -> None:
        asked = {"model": "m", "prompt": "Once", "n": 2}
        assert samples(asked, {"choices": [choice(0, ""), choice(1, "")]}) == [("Once", None)]
        assert samples(asked, {"choices": [choice(0, ""), choice(1, " upon")]}) == [("Once upon", 4)]
        assert samples(asked, stream({"choices": [choice(0, "")]})) == [("Once", None)]

    def test_parts_that_are_text_are_read_and_others_counted(self) -> None:
        parts = [{"type": "text", "text": "See "}, {"type": "image_url", "image_url": {"url": "data:"}}]
        asked = {"model": "m", "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "this"}]}]}
        found = exchange(asked)
        assert found.exchange is not None
        assert plain(found.exchange.samples[0]) == (("user", "See this"),)
        assert found.problems == {Unread.NOT_TEXT_PART: 1}

    def test_calls_of_tools_are_counted_and_the_chat_keeps_its_turns(self) -> None:
        calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        chat = [HELLO, {"role": "assistant", "content": None, "tool_calls": calls}, {"role": "tool", "content": "7"}]
        found = exchange({"model": "m", "messages": chat}, {"choices": [said(0, None, tool_calls=calls * 2)]})
        assert found.exchange is not None
        assert plain(found.exchange.samples[0]) == (("user", "Hello"), ("assistant", ""), ("tool", "7"))
        assert found.problems == {Unread.TOOL_CALL: 3}

    def test_embeddings_are_their_inputs_alone(self) -> None:
        answered = {"object": "list", "data": [{"embedding": [0.1]}]}
        assert samples({"model": "m", "input": ["a", "b"]}, answered) == [("a", None), ("b", None)]
        assert samples({"model": "m", "input": "a"}, answered) == [("a", None)]
        assert samples({"model": "m", "input": [[1, 2]]}, answered) == [((1, 2), None)]

    def test_the_responses_api_is_a_chat(self) -> None:
        items = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}]
        answered = {"object": "response", "output": [{"type": "reasoning", "summary": []}, *items]}
        chat = (("user", "Hello"), ("assistant", "Hi"))
        assert samples({"model": "m", "input": "Hello"}, answered) == [(chat, 1)]
        asked = {"model": "m", "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]}
        assert samples({**asked, "instructions": "Be kind."}, answered) == [((("system", "Be kind."), *chat), 2)]


class TestKServe:
    @pytest.mark.parametrize(
        ("instance", "content"),
        [
            ("Once", "Once"),
            ({"text": "Once"}, "Once"),
            ({"prompt": "Once", "max_tokens": 4}, "Once"),
            ({"messages": [HELLO]}, (("user", "Hello"),)),
            ({"input_ids": [1, 2]}, (1, 2)),
            ([1, 2], (1, 2)),
        ],
    )
    def test_instances_of_v1(self, instance: Any, content: Any) -> None:
        assert samples({"instances": [instance]}) == [(content, None)]

    @pytest.mark.parametrize(
        "prediction",
        [
            " upon",
            {"generated_text": " upon"},
            {"generated_text": "Once upon"},
            [{"generated_text": "Once upon"}],
            {"choices": [{"text": " upon", "finish_reason": "stop"}]},
        ],
    )
    def test_predictions_of_v1(self, prediction: Any) -> None:
        assert samples({"instances": ["Once"]}, {"predictions": [prediction]}) == [("Once upon", 4)]

    def test_tensors_of_v2(self) -> None:
        texts = {"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": [["a"], ["b"]]}
        answered = {"outputs": [{"name": "text_output", "shape": [2], "datatype": "BYTES", "data": ["1", "2"]}]}
        assert samples({"inputs": [texts]}, answered) == [("a1", 1), ("b2", 1)]
        assert samples({"inputs": [{**texts, "name": "whatever"}]}) == [("a", None), ("b", None)]

    def test_rows_of_token_ids_lose_their_padding(self) -> None:
        ids = {"name": "input_ids", "shape": [2, 3], "datatype": "INT64", "data": [1, 2, 0, 3, 4, 5]}
        mask = {"name": "attention_mask", "shape": [2, 3], "datatype": "INT64", "data": [[1, 1, 0], [1, 1, 1]]}
        assert samples({"inputs": [ids, mask]}) == [((1, 2), None), ((3, 4, 5), None)]
        assert samples({"inputs": [ids]}) == [((1, 2, 0), None), ((3, 4, 5), None)]

    def test_binary_tensors_follow_the_json(self) -> None:
        elements = b"".join(struct.pack("<I", len(each)) + each for each in (b"Once", "né".encode()))
        tensors = [
            {"name": "n", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": 8}},
            {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(elements)}},
        ]
        body = json.dumps({"inputs": tensors}).encode() + struct.pack("<q", 7) + elements
        assert samples(body) == [("Once", None), ("né", None)]
        ids = {"name": "input_ids", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": 8}}
        assert samples(json.dumps({"inputs": [ids]}).encode() + struct.pack("<ii", 5, 6)) == [((5, 6), None)]

    def test_requests_to_miStudios_own_models(self) -> None:
        data = [json.dumps({"messages": [HELLO]}), json.dumps({"prompt": "Once"})]
        tensor = {"name": "request", "shape": [2], "datatype": "BYTES", "data": data}
        assert samples({"inputs": [tensor]}) == [((("user", "Hello"),), None), ("Once", None)]

    def test_servers_of_text_generation(self) -> None:
        assert samples({"inputs": "Once", "parameters": {}}, [{"generated_text": " upon"}]) == [("Once upon", 4)]
        assert samples({"text_input": "Once"}, {"text_output": "Once upon"}) == [("Once upon", 4)]

    def test_fields_that_a_model_calls_otherwise(self) -> None:
        names = {"text": ["frage"], "reply": ["antwort"], "ids": ["marken"]}
        asked, answered = {"instances": [{"frage": "Wo?", "text": "no"}]}, {"predictions": [{"antwort": " Da."}]}
        assert samples(asked, answered, fields=names) == [("Wo? Da.", 3)]
        tensor = {"name": "marken", "shape": [2], "datatype": "INT64", "data": [1, 2]}
        assert samples({"inputs": [tensor]}, fields=names) == [((1, 2), None)]


class TestStreams:
    def test_deltas_are_put_together_by_their_index(self) -> None:
        chunks = [
            {"choices": [{"index": 1, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]},
            {"choices": [{"index": 1, "delta": {"content": "He"}}, {"index": 0, "delta": {"content": "!"}}]},
            {"choices": [{"index": 1, "delta": {"content": "y"}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"total_tokens": 3}},
        ]
        asked = {"model": "m", "messages": [HELLO], "n": 2, "stream": True}
        chat = ("user", "Hello")
        expected = [((chat, ("assistant", "Hi!")), 1), ((chat, ("assistant", "Hey")), 1)]
        assert samples(asked, stream(*chunks)) == expected

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    def test_lines_end_in_any_way_and_comments_are_none(self, end: bytes) -> None:
        lines = [
            b": ping",
            b"",
            b"event: message",
            b'data: {"choices":[{"index":0,',
            b'data: "text":" \xe2\x80\xa8up"}]}',
        ]
        body = end.join([*lines, b"", b"data:[DONE]", b"", b""])
        assert samples({"model": "m", "prompt": "Once"}, body) == [("Once \u2028up", 4)]

    def test_a_stream_that_breaks_off_is_read_as_far_as_it_came(self) -> None:
        body = stream(
            {"choices": [{"index": 0, "text": " upon"}]}, {"choices": [{"index": 0, "text": " a"}]}, done=False
        )
        found = exchange({"model": "m", "prompt": "Once"}, body[:-9])
        assert found.exchange is not None
        assert [each.content for each in found.exchange.samples] == ["Once upon"]
        assert found.problems == {Unread.BAD_CHUNK: 1, Unread.CUT_STREAM: 1}
        assert problems({"model": "m", "prompt": "Once"}, body) == {"cut_stream": 1}

    def test_an_end_without_its_word_is_one_where_all_have_finished(self) -> None:
        body = stream({"choices": [{"index": 0, "text": " upon", "finish_reason": "length"}]}, done=False)
        assert samples({"model": "m", "prompt": "Once"}, body) == [("Once upon", 4)]

    def test_an_error_in_a_stream_is_counted(self) -> None:
        body = stream({"choices": [{"index": 0, "text": " up"}]}, {"error": {"message": "out of memory"}}, done=False)
        found = exchange({"model": "m", "prompt": "Once"}, body)
        assert found.problems == {Unread.ERROR_REPLY: 1}
        assert found.exchange is not None
        assert found.exchange.samples[0].content == "Once up"

    def test_calls_of_tools_that_were_streamed_are_counted_once_each(self) -> None:
        deltas = [{"tool_calls": [{"index": number, "function": {"arguments": "{"}}]} for number in (0, 0, 1)]
        chunks = [{"choices": [{"index": 0, "delta": each}]} for each in deltas]
        assert problems({"model": "m", "messages": [HELLO]}, stream(*chunks)) == {"tool_call": 2}

    def test_the_responses_api_streams_events_of_its_own(self) -> None:
        events = [
            {"type": "response.created", "response": {}},
            {"type": "response.output_text.delta", "delta": "H", "output_index": 0},
            {"type": "response.output_text.delta", "delta": "i", "output_index": 0},
            {"type": "response.completed", "response": {}},
        ]
        asked = {"model": "m", "input": "Hello", "stream": True}
        assert samples(asked, stream(*events, done=False)) == [((("user", "Hello"), ("assistant", "Hi")), 1)]

    def test_servers_of_text_generation_stream_tokens(self) -> None:
        chunks = [
            {"index": 1, "token": {"text": " up", "special": False}, "generated_text": None},
            {"index": 2, "token": {"text": "on", "special": False}, "generated_text": None},
            {"index": 3, "token": {"text": "</s>", "special": True}, "generated_text": " upon"},
        ]
        assert samples({"inputs": "Once"}, stream(*chunks, done=False))[0][0] == "Once upon"
        pieces = stream({"text_output": " up"}, {"text_output": "on"}, done=False)
        assert samples({"text_input": "Once"}, pieces) == [("Once upon", 4)]


class TestUnread:
    @pytest.mark.parametrize(
        ("request_body", "response_body", "expected"),
        [
            (b"", None, {"empty": 1}),
            (b"\xff\xfe\x00", None, {"not_json": 1}),
            (b"[" * 10_000, None, {"not_json": 1}),
            ({"instances": [[0.5, 1.5]]}, None, {"no_text": 1}),
            ({"instances": [{"image": "b64"}]}, None, {"unknown_form": 1}),
            ({"inputs": [{"name": "x", "datatype": "FP32", "data": [1.0]}]}, None, {"no_text": 1}),
            ({"model": "m", "prompt": [[1, -2]]}, None, {"bad_ids": 1}),
            ({"model": "m", "prompt": [1, True]}, None, {"bad_ids": 1}),
            ({"model": "m", "messages": [{"content": "x"}, "y"]}, None, {"bad_message": 2}),
            ({"model": "m", "prompt": ""}, None, {"empty": 1}),
            ({"model": "m", "prompt": "a"}, {"error": {"message": "no"}}, {"error_reply": 1}),
            ({"model": "m", "prompt": ["a", "b"]}, {"choices": [choice(5, "c")]}, {"unmatched": 1}),
            ({"instances": ["a", "b"]}, {"predictions": ["1", "2", "3"]}, {"unmatched": 3}),
            (b"\x1f\x8bnothing", None, {"bad_gzip": 1}),
        ],
    )
    def test_what_cannot_be_read_is_counted(self, request_body: Any, response_body: Any, expected: Any) -> None:
        assert problems(request_body, response_body) == expected

    def test_nothing_is_lost_where_a_reply_cannot_be_read(self) -> None:
        found = exchange({"model": "m", "prompt": "Once"}, b"no JSON")
        assert found.exchange is not None
        assert found.exchange.samples == (Sample("Once", None),)
        assert found.exchange.is_whole

    def test_halves_alone_are_read_and_said_not_to_be_whole(self) -> None:
        asked = exchange({"model": "m", "prompt": "Once"}).exchange
        answered = exchange(None, {"choices": [choice(0, " upon")]}).exchange
        assert asked is not None
        assert answered is not None
        assert (asked.samples, asked.is_whole) == ((Sample("Once", None),), False)
        assert (answered.samples, answered.is_whole) == ((Sample(" upon", 0),), False)

    def test_a_body_may_be_packed_but_not_without_bounds(self) -> None:
        asked = gzip.compress(json.dumps({"model": "m", "prompt": "Once"}).encode())
        assert samples(asked) == [("Once", None)]
        assert problems(asked[:-20]) == {"bad_gzip": 1, "not_json": 1}
        assert problems(gzip.compress(b" " * 100_000), max_unpacked_bytes=4096) == {"too_large": 1}
        assert problems(b" " * 5000, max_unpacked_bytes=4096) == {"too_large": 1}

    def test_texts_above_the_bound_are_counted(self) -> None:
        found = exchange({"model": "m", "prompt": ["a", "b", "c"]}, settings={"max_samples": 2})
        assert found.exchange is not None
        assert (len(found.exchange.samples), found.problems) == (2, {Unread.TOO_MANY: 1})

    def test_halves_of_surrogate_pairs_are_replaced(self) -> None:
        assert samples(b'{"model":"m","prompt":"a\\ud800"}', {"choices": [choice(0, "b")]}) == [("a\ufffdb", 2)]


class TestOrigins:
    def test_the_model_is_the_service_unless_told_otherwise(self) -> None:
        asked = {"model": "lora", "prompt": "a"}
        found = [exchange(asked, settings=each).exchange for each in ({}, {"model_from": "body"})]
        assert [each.origin.model for each in found if each] == ["tinyllama", "lora"]

    def test_the_endpoint_tells_a_canary(self) -> None:
        found = [exchange({"prompt": "a"}, **headers).exchange for headers in ({}, {"ce-endpoint": "canary"})]
        assert [each.origin.endpoint for each in found if each] == ["predictor", "canary"]

    def test_a_tenant_is_named_by_a_header_or_a_field(self) -> None:
        asked = {"model": "m", "prompt": "a", "user": "ann"}
        headers = {"ce-metadata": '{"X-Tenant":["acme"]}'}
        by_header = {"tenant_header": "x-tenant"}
        cases: list[tuple[dict[str, Any], dict[str, str]]] = [({}, headers), (by_header, headers), (by_header, {})]
        found = [exchange(asked, settings=each, **given).exchange for each, given in cases]
        assert [each.origin.tenant for each in found if each] == ["ann", "acme", "ann"]
        broken = exchange(asked, settings=by_header, **{"ce-metadata": "[1"}).exchange
        assert broken is not None
        assert broken.origin.tenant == "ann"


NAMES = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "input",
        "inputs",
        "instances",
        "choices",
        "predictions",
        "outputs",
        "output",
        "role",
    ]
    + ["content", "text", "message", "delta", "index", "n", "name", "data", "datatype", "shape", "parameters", "type"]
    + ["binary_data_size", "token_ids", "input_ids", "error", "object", "token", "usage", "tool_calls", "user", "echo"]
)
WORDS = st.sampled_from(
    ["", "a", "user", "BYTES", "INT64", "text", "response", "request", "message", "\ud800", "x" * 99]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
BODIES = st.one_of(
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.lists(VALUES, max_size=4).map(lambda values: stream(*values)),
    st.binary(max_size=60),
    st.binary(max_size=60).map(gzip.compress),
    st.tuples(VALUES, st.binary(max_size=20)).map(
        lambda both: json.dumps({"inputs": both[0], "binary_data_size": 1}).encode() + both[1]
    ),
)


@settings(max_examples=300)
@given(BODIES, BODIES)
def test_any_bodies_are_read_or_counted(asked: bytes, answered: bytes) -> None:
    found = exchange(asked, answered)
    assert found.exchange is not None or found.problems
    for sample in found.exchange.samples if found.exchange else ():
        assert sample.content
        assert sample.reply_from is None or 0 <= sample.reply_from <= len(sample.content)
        texts = [sample.content] if isinstance(sample.content, str) else sample.content
        assert not any(has_surrogates(each.content if isinstance(each, Message) else str(each)) for each in texts)
