"""Bodies of endpoints' answers, and answers in them: read, or malformed; never anything else, never without bound."""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mistudio.explain.judge import AnswerToken, Chat, Embedding, Likelihood, Reply, Request
from mistudio.explain.llm_answers import expected_numbers, explanation_in, find_numbers, find_objects, is_complete
from mistudio.explain.llm_checks import Malformed
from mistudio.explain.llm_wire import read_answer
from tests.fuzz.examples import counted, examples
from tests.fuzz.hostile import changed, hurt, json_texts, json_values, texts

_CHAT = Chat("Be brief.", "question", 50, alternatives=2)
_TOKEN = {"token": "4", "logprob": -0.5, "top_logprobs": [{"token": "4", "logprob": -0.5}]}
_USAGE = {"prompt_tokens": 5, "completion_tokens": 1}
_CHOICE = {"message": {"content": "4"}, "finish_reason": "stop", "logprobs": {"content": [_TOKEN]}}
_ANSWERS: list[tuple[Request, dict[str, Any]]] = [
    (_CHAT, {"choices": [_CHOICE], "usage": _USAGE}),
    (
        Likelihood("before ", "the text"),
        {
            "choices": [{"logprobs": {"tokens": ["before ", "the ", "text"], "token_logprobs": [None, -1, -2]}}],
            "usage": _USAGE,
        },
    ),
    (
        Embedding(("ab", "abc")),
        {"data": [{"index": 0, "embedding": [1.0, 2.0]}, {"index": 1, "embedding": [1.0, 2]}], "usage": _USAGE},
    ),
]


@given(st.sampled_from(_ANSWERS), st.data())
@examples(60, 0.08)
def test_bodies(case: tuple[Request, dict[str, Any]], data: st.DataObject) -> None:
    request, document = case
    whole = json.dumps(document).encode()
    hostile = changed(document).map(json.dumps).map(str.encode) | hurt(whole) | json_texts().map(str.encode)
    body, reason = data.draw(hostile), ""
    try:
        reply = read_answer(request, body)
    except Malformed as malformed:
        reason = str(malformed) or "none"
    counted("bodies of answers", refused=bool(reason))
    assert len(reason) < 1000
    if reason:
        return
    reply.text.encode()
    assert reply.usage.prompt_tokens > 0
    assert reply.usage.completion_tokens >= 0
    figures = [reply.loss or 0.0, *(value for vector in reply.vectors or () for value in vector)]
    assert all(map(math.isfinite, figures))
    assert all(math.isfinite(number) for token in reply.tokens or () for _, number in token.logprobs)


_WORDS = st.lists(texts | json_texts() | st.sampled_from(["[1, 2]", '{"explanation": "x"}', "<think>"]), max_size=5)
_STARTED = st.dictionaries(st.sampled_from(["explanation", "label"]), json_values).map(json.dumps)


@given(_WORDS.map(" ".join) | _STARTED, st.integers(1, 3))
@examples(40, 0.06)
def test_answers(text: str, count: int) -> None:
    tokens = tuple(AnswerToken(part, ((part, -0.1),)) for part in text.split(" "))
    for reply in (Reply(text=text), Reply(text=text, tokens=tokens)):
        for numbers in (find_numbers(reply, count), expected_numbers(reply, count, 0, 10)):
            assert numbers is None or (len(numbers) == count and all(map(math.isfinite, numbers)))
    is_complete(text)
    found = list(find_objects(text))
    for each in found:
        explanation, label = explanation_in(each)
        assert len(explanation) <= 4000
        assert len(label) <= 60
        (explanation + label).encode()
    counted("answers", refused=not found)
