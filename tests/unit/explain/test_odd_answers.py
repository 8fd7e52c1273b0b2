"""Endpoints that are broken or mean ill: what they answer ends no run, is not kept, and takes no more than it may."""

import gzip
import json
import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mistudio.errors import ConfigError, InputError
from mistudio.explain.config import LlmExplainerConfig
from mistudio.explain.endpoint import Endpoint, EndpointConfig
from mistudio.explain.judge import AnswerToken, Chat, Embedding, Likelihood, Reply, Request
from mistudio.explain.llm import MaxActivatingExplainer
from mistudio.explain.llm_answers import expected_numbers, find_numbers, find_object, is_complete
from mistudio.explain.llm_cache import DATABASE_NAME
from mistudio.explain.records import Evidence, Explanation
from mistudio.explain.tables import read_table, write_explanations
from mistudio.score.intervention import _chosen as chosen_continuation
from mistudio.score.intruder import _chosen as chosen_intruder
from tests.support.oracle import planted_cases
from tests.support.scripted_server import Answer, Fault, ScriptedServer

KEY = "a-key-that-nobody-may-see"
CHAT = Chat("Be brief.", "question 0", 50, alternatives=2)
DEEP = b"[" * 100_000
LONG = "9" * 5000


class Backwards:
    """Answers with the prompt, backwards, or with the same words always."""

    def __init__(self, says: str | None = None) -> None:
        self.says = says

    def chat(self, _system: str, prompt: str) -> Answer:
        return Answer(prompt[::-1] if self.says is None else self.says)

    def losses(self, text: str) -> list[tuple[str, float]]:
        return [(f"{word} ", -1.0) for word in text.split(" ")]

    def embed(self, text: str) -> list[float]:
        return [float(len(text)), 1.0]


def config(server: ScriptedServer, **changes: object) -> EndpointConfig:
    quick = {"backoff_s": 0.001, "timeout_s": 10.0, "base_url": server.url, "model": "odd"}
    return EndpointConfig.model_validate({**quick, **changes})


def at_first(content: bytes, **more: Any) -> Callable[[str, int], Fault | None]:
    """Each question is answered with this the first time."""
    return lambda _prompt, attempt: Fault("body", content=content, **more) if attempt == 0 else None


def always(fault: Fault) -> Callable[[str, int], Fault | None]:
    return lambda _prompt, _attempt: fault


def body(**changes: Any) -> bytes:
    choice: dict[str, Any] = {"message": {"content": "an answer"}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice | changes]}).encode()


def with_logprob(logprob: Any, token: Any = "an answer") -> bytes:
    return body(logprobs={"content": [{"token": token, "logprob": logprob}]})


def rows(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / DATABASE_NAME)) as database:
        return database.execute("SELECT * FROM answers").fetchall()


ODD_CHATS = {
    "empty": b"",
    "no object": b"[1]",
    "null": b"null",
    "no text": b"\xff\xfe\x00",
    "nested": DEEP,
    "nested inside": b'{"choices": [{"message": {"content": "x"}}], "usage": ' + b'{"a":' * 100_000,
    "long number": b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": %s}}' % LONG.encode(),
    "text is a number": body(message={"content": 5}),
    "text is a list": body(message={"content": ["x"]}),
    "no message": body(message=None),
    "too much text": b" ".join([body(message={"content": "x"})]).replace(b'"x"', b'"' + b"x" * 1_040_000 + b'"'),
    "probability above one": with_logprob(3.0),
    "not a number": with_logprob(float("nan")),
    "a text": with_logprob("-0.1"),
    "true": with_logprob(True),
    "token is a number": with_logprob(-0.1, 5),
    "tokens are a text": body(logprobs={"content": "xyz"}),
}


@pytest.mark.parametrize("name", ODD_CHATS)
def test_an_odd_answer_is_not_kept_and_asked_for_again(name: str, tmp_path: Path) -> None:
    with (
        ScriptedServer(Backwards(), at_first(ODD_CHATS[name])) as server,
        Endpoint(config(server), tmp_path) as endpoint,
    ):
        (reply,) = endpoint.ask([CHAT])
    assert (reply.text, reply.failure) == ("0 noitseuq", None)
    assert (endpoint.spending.unusable, endpoint.spending.retried, endpoint.spending.answered) == (1, 1, 1)
    assert len(rows(tmp_path)) == 1


LIKELIHOOD, EMBEDDING = Likelihood("before ", "the text"), Embedding(("ab", "abc"))


def losses(*logprobs: Any, tokens: Any = ("before ", "the ", "text")) -> bytes:
    return json.dumps({"choices": [{"logprobs": {"tokens": tokens, "token_logprobs": logprobs}}]}).encode()


def vectors(*data: Any) -> bytes:
    return json.dumps({"data": [{"index": place, "embedding": each} for place, each in enumerate(data)]}).encode()


@pytest.mark.parametrize(
    ("request_", "content"),
    [
        (LIKELIHOOD, losses(None, float("nan"), -1.0)),
        (LIKELIHOOD, losses(None, 1e300, -1.0)),
        (LIKELIHOOD, losses(None, "x", -1.0)),
        (LIKELIHOOD, losses(None, None, None)),
        (LIKELIHOOD, losses(None, -1.0)),
        (LIKELIHOOD, losses(None, -1.0, -1.0, tokens=(1, 2, 3))),
        (LIKELIHOOD, body()),
        (EMBEDDING, vectors([1.0], [float("inf")])),
        (EMBEDDING, vectors([1.0], [1e300])),
        (EMBEDDING, vectors([1.0], [10**400])),
        (EMBEDDING, vectors([1.0], ["1"])),
        (EMBEDDING, vectors([1.0], [None])),
        (EMBEDDING, vectors([1.0], [1.0, 2.0])),
        (EMBEDDING, vectors([], [])),
        (EMBEDDING, vectors([1.0])),
        (EMBEDDING, vectors([1.0], "12")),
        (EMBEDDING, json.dumps({"data": [{"index": 7, "embedding": [1.0]}] * 2}).encode()),
    ],
)
def test_odd_losses_and_vectors_are_not_kept_either(request_: Request, content: bytes, tmp_path: Path) -> None:
    with ScriptedServer(Backwards(), at_first(content)) as server, Endpoint(config(server), tmp_path) as endpoint:
        (reply,) = endpoint.ask([request_])
    assert reply.failure is None
    assert reply.loss == 1.0 or reply.vectors == ((2.0, 1.0), (3.0, 1.0))
    assert endpoint.spending.unusable == 1


def test_what_servers_write_for_impossible_is_a_very_unlikely_token(tmp_path: Path) -> None:
    content = losses(None, float("-inf"), -(10**400))
    with ScriptedServer(Backwards(), at_first(content)) as server, Endpoint(config(server), tmp_path) as endpoint:
        assert next(endpoint.ask([LIKELIHOOD])).loss == 10_000.0


def test_half_surrogates_are_replaced_in_answers_and_failures(tmp_path: Path) -> None:
    def script(prompt: str, _attempt: int) -> Fault:
        if prompt.endswith("0"):
            return Fault("body", content=body(message={"content": "half \ud83d of it"}))
        return Fault("status", 400, message="no \udcff \x1b[31mred")

    with ScriptedServer(Backwards(), script) as server, Endpoint(config(server), tmp_path) as endpoint:
        first, second = endpoint.ask([Chat("s", "0", 5), Chat("\udfff", "\ud800 1", 5)])
    assert first.text == "half \ufffd of it"
    assert second.failure == "Error code: 400 - no \ufffd [31mred"


BOMB = gzip.compress(b'{"choices": [' + b" " * 30_000_000)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault("body", content=BOMB, headers=(("content-encoding", "gzip"),)), "larger than"),
        (Fault("body", content=b" " * 3_000_000), "larger than"),
        (Fault("body", content=gzip.compress(body())[:-9], headers=(("content-encoding", "br"),)), "packed as 'br'"),
        (Fault("body", content=b"no gzip", headers=(("content-encoding", "gzip"),)), "cannot be unpacked"),
        (Fault("drip"), "TimeoutError"),
    ],
    ids=["bomb", "large", "unknown packing", "broken packing", "slow"],
)
def test_a_body_is_read_up_to_what_an_answer_can_have_and_no_longer_than_allowed(fault: Fault, says: str) -> None:
    with (
        ScriptedServer(Backwards(), always(fault)) as server,
        Endpoint(config(server, retries=1, timeout_s=0.5)) as endpoint,
    ):
        (reply,) = endpoint.ask([CHAT])
    assert says in (reply.failure or "")
    assert len(server.asked) == (1 if says == "larger than" else 2)


def test_an_answer_may_come_packed() -> None:
    fault = Fault("body", content=gzip.compress(body()), headers=(("content-encoding", "gzip"),))
    with ScriptedServer(Backwards(), always(fault)) as server, Endpoint(config(server)) as endpoint:
        assert next(endpoint.ask([CHAT])).text == "an answer"


def test_a_large_body_that_tells_of_an_error_is_read_at_its_beginning() -> None:
    fault = Fault("body", 400, content=b"x" * 3_000_000)
    with (
        ScriptedServer(Backwards(), always(fault._replace(kind="status", message="y" * 3_000_000))) as server,
        Endpoint(config(server)) as endpoint,
    ):
        assert len(next(endpoint.ask([CHAT])).failure or "") <= 300


@pytest.mark.parametrize("count", [-1_000_000, 0, None, True, 1.5, "12", 10**400, float("nan"), float("-inf"), 10**9])
def test_tokens_that_cannot_be_right_are_counted_by_ourselves(count: Any, tmp_path: Path) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count}
    content = json.dumps({"choices": [{"message": {"content": "words " * 20}}], "usage": usage}).encode()
    asked = [Chat("Be brief.", f"question {number} " + "of many words " * 10, 20) for number in range(20)]
    with (
        ScriptedServer(Backwards(), always(Fault("body", content=content))) as server,
        Endpoint(config(server, token_budget=600, concurrency=1), tmp_path) as endpoint,
    ):
        replies = list(endpoint.ask(asked))
    spent = endpoint.spending
    assert 40 * spent.answered <= spent.prompt_tokens + spent.completion_tokens <= 600
    assert 0 < len(server.asked) < 20
    assert replies[-1].failure == "budget reached (600 tokens)"


def test_answers_that_cannot_be_used_count_for_the_budget() -> None:
    with (
        ScriptedServer(Backwards(), always(Fault("hollow"))) as server,
        Endpoint(config(server, token_budget=400, concurrency=1, give_up_after=1000)) as endpoint,
    ):
        replies = list(endpoint.ask([Chat("Be brief.", f"question {number}", 20) for number in range(40)]))
    assert len(server.asked) < 30
    assert (replies[-1].failure or "").startswith("budget reached")


@pytest.mark.parametrize("named", ["-5", "0", "nan", "-inf", "9" * 400 + " x", "Wed, 99 Oct 99999 07:28:00 GMT"])
def test_a_wait_that_makes_no_sense_does_not_shorten_our_own(named: str) -> None:
    def script(_prompt: str, attempt: int) -> Fault | None:
        return Fault("status", 429, (("retry-after", named),)) if attempt == 0 else None

    with ScriptedServer(Backwards(), script) as server, Endpoint(config(server, backoff_s=0.2)) as endpoint:
        started = time.monotonic()
        assert next(endpoint.ask([CHAT])).failure is None
        assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize("named", ["inf", "1e300", "9" * 5000])
def test_an_endless_wait_is_a_short_failure(named: str) -> None:
    fault = Fault("status", 429, (("retry-after", named),))
    with ScriptedServer(Backwards(), always(fault)) as server, Endpoint(config(server)) as endpoint:
        (reply,) = endpoint.ask([CHAT])
    assert "longer than max_wait_s" in (reply.failure or "")
    assert len(reply.failure or "") < 400


KEPT_BADLY = [
    b"\xff\xfe",
    b"null",
    b"[]",
    b"",
    b'{"text": 5}',
    b'{"text": "x", "unknown": 1}',
    b'{"text": "x", "usage": [1, 2, 3]}',
    b'{"text": "x", "truncated": "yes"}',
    b'{"text": "x", "failure": "why"}',
    b'{"text": "\\ud800"}',
    b'{"text": "x", "tokens": [["x", [["x", NaN]]]]}',
    b'{"text": "x", "tokens": 5}',
    b'{"text": ' + DEEP,
    b'{"text": "x", "loss": ' + LONG.encode() + b"}",
]


@pytest.mark.parametrize("kept", KEPT_BADLY, ids=range(len(KEPT_BADLY)))
def test_a_store_of_answers_that_holds_a_bad_one_is_healed(kept: bytes, tmp_path: Path) -> None:
    with ScriptedServer(Backwards()) as server:
        for asks in (True, True, False):
            num_asked = len(server.asked)
            with Endpoint(config(server), tmp_path) as endpoint:
                assert next(endpoint.ask([CHAT])).text == "0 noitseuq"
            assert (len(server.asked) > num_asked) is asks
            if num_asked == 0:
                with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as database, database:
                    database.execute("UPDATE answers SET reply = CAST(? AS TEXT)", (kept,))


def test_remembered_tokens_and_keys_are_put_right_without_asking_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_LLM_API_KEY", KEY)
    with ScriptedServer(Backwards()) as server:
        with Endpoint(config(server), tmp_path) as endpoint:
            list(endpoint.ask([CHAT]))
        kept = json.dumps({"text": f"with {KEY}", "usage": [-(10**9), 10**9]})
        with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as database, database:
            database.execute("UPDATE answers SET reply = ?", (kept,))
        with Endpoint(config(server), tmp_path) as endpoint:
            assert next(endpoint.ask([CHAT])).text == "with ***"
        assert 0 < endpoint.spending.prompt_tokens + endpoint.spending.completion_tokens < 50
    assert len(server.asked) == 1
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


# Secrets.


@pytest.mark.parametrize("written", [f"{KEY}\n", f" {KEY}\r\n", f"{KEY}\n\n"])
def test_a_key_from_a_file_is_sent_without_its_line_end(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_LLM_API_KEY", written)
    with ScriptedServer(Backwards()) as server, Endpoint(config(server)) as endpoint:
        assert next(endpoint.ask([CHAT])).failure is None
        assert KEY not in repr(vars(endpoint))
    assert {asked.key for asked in server.asked} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("written", [f"{KEY}\nsecond line", f"{KEY} more", f"{KEY}\x00", f"{KEY}é"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, values = __import__("os").environ, {"MISTUDIO_LLM_API_KEY": written}
    monkeypatch.setattr("mistudio.redaction.os.environ", {**real, **values})
    with pytest.raises(ConfigError, match="MISTUDIO_LLM_API_KEY") as caught:
        Endpoint(EndpointConfig(base_url="http://localhost:1/v1", model="m"))
    assert KEY not in str(caught.value)


def test_a_key_that_an_answer_repeats_is_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    says = json.dumps({"explanation": f"the key {KEY}", "label": KEY})
    with ScriptedServer(Backwards(says)) as server, Endpoint(config(server), tmp_path) as endpoint:
        made = list(MaxActivatingExplainer(endpoint, LlmExplainerConfig()).explain(evidence()))
    assert {(one.text, one.label) for one in made} == {("the key ***", "***")}
    write_explanations(tmp_path / "explanations.parquet", made)
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_is_sent_to_an_address_that_the_endpoint_points_to(status: int) -> None:
    with ScriptedServer(Backwards()) as elsewhere:
        place = elsewhere.url.replace("//", f"//me:{KEY}@")
        fault = Fault("status", status, (("location", f"{place}/chat/completions?api_key={KEY}"),))
        with (
            ScriptedServer(Backwards(), always(fault)) as server,
            Endpoint(config(server)) as endpoint,
            pytest.raises(InputError, match="points to another address") as caught,
        ):
            list(endpoint.ask([CHAT]))
    assert not elsewhere.asked
    assert KEY not in str(caught.value)


def test_logs_hold_no_prompt_even_where_the_endpoint_repeats_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_LLM_API_KEY", KEY)
    for name in ("openai", "httpx2", "httpcore2"):  # as OPENAI_LOG=debug does
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    caplog.set_level(logging.DEBUG)

    def script(prompt: str, attempt: int) -> Fault | None:
        return Fault("status", 500, message=f"cannot answer {prompt} of {KEY}") if attempt == 0 else None

    with ScriptedServer(Backwards(), script) as server, Endpoint(config(server)) as endpoint:
        assert next(endpoint.ask([Chat("s", "a private text", 20)])).failure is None
    assert "status 500; trying again" in caplog.text
    assert not any(part in caplog.text for part in ("private", "etavirp", KEY))


# What answers are made into.


def evidence() -> list[Evidence]:
    return [Evidence(case.explanation.feature, case.examples, 0.05, 1.15) for case in planted_cases(3, 10)]


@pytest.mark.parametrize(
    ("answer", "text", "label"),
    [
        ('{"explanation": "half \\ud800, nul \\u0000.", "label": "l\\u001b[31m\\n"}', "half \ufffd, nul .", "l [31m"),
        ('{"explanation": "verbs", "label": {"a": [1]}}', "verbs", ""),
        ('{"explanation": "' + "x" * 9000 + '", "label": "' + "y" * 9000 + '"}', "x" * 4000, "y" * 60),
        ('{"explanation": "verbs", "label": 5}', "verbs", ""),
    ],
)
def test_explanations_are_texts_that_can_be_written_down(answer: str, text: str, label: str, tmp_path: Path) -> None:
    with ScriptedServer(Backwards(answer)) as server, Endpoint(config(server)) as endpoint:
        made = list(MaxActivatingExplainer(endpoint, LlmExplainerConfig()).explain(evidence()))
    write_explanations(tmp_path / "explanations.parquet", made)
    read: list[Explanation] = list(read_table(tmp_path / "explanations.parquet"))
    assert {(one.status, one.text, one.label) for one in read} == {("explained", text, label)}


@pytest.mark.parametrize("answer", ['{"explanation": ["verbs"]}', '{"explanation": {"a": 1}}', '{"explanation": NaN}'])
def test_answers_of_no_use_are_forgotten_so_that_a_mended_model_is_asked_again(answer: str, tmp_path: Path) -> None:
    for says in (answer, '{"explanation": "verbs", "label": "verbs"}'):
        with ScriptedServer(Backwards(says)) as server, Endpoint(config(server), tmp_path) as endpoint:
            explainer = MaxActivatingExplainer(endpoint, LlmExplainerConfig())
            if says == answer:
                with pytest.raises(InputError, match="no usable answer to any of 3"):
                    list(explainer.explain(evidence()))
            else:
                assert {one.text for one in explainer.explain(evidence())} == {"verbs"}
            assert len(server.asked) == 3


@pytest.mark.parametrize("answer", ["[1E0, 0]", f"[{LONG}, 0]", f"[{'9' * 400}, 0]", "[Infinity, 0]", "[1.5e300, 0]"])
def test_numbers_that_nobody_asked_for_are_no_answer(answer: str) -> None:
    assert find_numbers(Reply(text=answer), 2) is None
    assert expected_numbers(Reply(text=answer, tokens=(AnswerToken(answer, ()),)), 2, 0, 1) is None


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1.9", LONG, "[[1]]", "true", '"x"', "null", "{}"])
def test_only_the_number_or_letter_of_what_was_shown_is_a_choice(value: str) -> None:
    assert chosen_intruder(Reply(text=f'{{"intruder": {value}}}'), 5) is None
    assert chosen_continuation(Reply(text=f'{{"continuation": {value}}}')) is None
    assert chosen_intruder(Reply(text='{"intruder": "3"}'), 5) == chosen_intruder(Reply(text=" 3. "), 5) == 3


@pytest.mark.parametrize("piece", ["[", "{", '{"a":', '[{"a":', '["', "[0,", '{"a":[' + "9" * 5000 + ","])
def test_reading_an_answer_takes_a_bounded_time(piece: str) -> None:
    answer = piece * (300_000 // len(piece))
    assert find_object(answer, ["explanation"]) is None
    assert find_numbers(Reply(text=answer), 3) is None
    assert not is_complete(answer)
