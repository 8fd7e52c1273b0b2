import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from mistudio.errors import InputError, StorageError
from mistudio.explain.endpoint import Endpoint, EndpointConfig
from mistudio.explain.judge import Chat, Embedding, Likelihood, Reply, Request
from mistudio.explain.llm_cache import AnswerCache
from tests.support.scripted_server import Answer, Fault, Script, ScriptedServer

SECRET = "sk-very-secret-0123456789"


class Echo:
    """Answers with the prompt, backwards."""

    def chat(self, _system: str, prompt: str) -> Answer:
        text = prompt[::-1]
        return Answer(text, [(character, [(character, -0.1), ("?", -2.5)]) for character in text])

    def losses(self, text: str) -> list[tuple[str, float]]:
        return [(f"{word} ", -float(len(word))) for word in text.split(" ")]

    def embed(self, text: str) -> list[float]:
        return [float(len(text)), 1.0]


def config(server: ScriptedServer, **changes: object) -> EndpointConfig:
    quick = {"backoff_s": 0.001, "timeout_s": 10.0, "base_url": server.url, "model": "scripted"}
    return EndpointConfig.model_validate({**quick, **changes})


def chats(count: int) -> list[Request]:
    return [Chat("Be brief.", f"question {number}", 50) for number in range(count)]


def fail_at_first(kind: str, every: int = 3, **details: object) -> Script:
    """Each ``every``-th question goes wrong the first two times."""

    def script(prompt: str, attempt: int) -> Fault | None:
        number = int(prompt.split()[-1])
        return Fault(kind, **details) if attempt < 2 and number % every == 0 else None

    return script


def assert_all_answered_once(server: ScriptedServer, endpoint: Endpoint, replies: list[Reply]) -> None:
    assert [reply.text for reply in replies] == [f"question {n}"[::-1] for n in range(len(replies))]
    assert all(reply.failure is None for reply in replies)
    assert set(Counter(asked.prompt for asked in server.answered).values()) == {1}
    spent = endpoint.spending
    assert (spent.answered, spent.failed) == (len(replies), 0)
    assert spent.prompt_tokens == sum(asked.prompt_tokens for asked in server.answered)
    assert spent.completion_tokens == sum(asked.completion_tokens for asked in server.answered)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 429, "headers": (("retry-after", "0.01"),)},
        {"kind": "status", "status": 429, "headers": (("retry-after-ms", "10"),)},
        {"kind": "status", "status": 429, "headers": (("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"),)},
        {"kind": "status", "status": 429, "headers": (("retry-after", "soon"),)},
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 503},
        {"kind": "reset"},
        {"kind": "garbage"},
        {"kind": "half"},
        {"kind": "hollow"},
    ],
    ids=lambda fault: "-".join(map(str, (fault["kind"], fault.get("status", ""), dict(fault.get("headers", ()))))),
)
def test_what_fails_in_passing_loses_nothing_and_counts_nothing_twice(fault: dict[str, object], tmp_path: Path) -> None:
    script = fail_at_first(**fault)
    with ScriptedServer(Echo(), script) as server, Endpoint(config(server), tmp_path) as endpoint:
        replies = list(endpoint.ask(chats(12)))
        assert_all_answered_once(server, endpoint, replies)
        assert endpoint.spending.retried == 8
        assert len(server.asked) == 20


def test_an_answer_that_takes_too_long_is_asked_for_again() -> None:
    script = fail_at_first("status", every=4, delay_s=2.0)
    with ScriptedServer(Echo(), script) as server, Endpoint(config(server, timeout_s=1.0)) as endpoint:
        replies = list(endpoint.ask(chats(5)))
        assert_all_answered_once(server, endpoint, replies)
        assert endpoint.spending.retried == 4


def test_no_request_is_sent_before_the_time_that_the_endpoint_named() -> None:
    times: list[float] = []

    def script(_prompt: str, attempt: int) -> Fault | None:
        times.append(time.monotonic())
        return Fault("status", 429, (("retry-after", "0.3"),)) if len(times) == 1 else None

    with ScriptedServer(Echo(), script) as server, Endpoint(config(server, concurrency=1)) as endpoint:
        assert all(reply.failure is None for reply in endpoint.ask(chats(3)))
    assert times[1] - times[0] >= 0.3


def test_a_wait_longer_than_allowed_is_a_failure_that_says_so() -> None:
    def script(_prompt: str, _attempt: int) -> Fault:
        return Fault("status", 429, (("retry-after", "3600"),))

    with ScriptedServer(Echo(), script) as server, Endpoint(config(server)) as endpoint:
        (reply,) = endpoint.ask(chats(1))
    assert "3600 s, longer than max_wait_s" in (reply.failure or "")
    assert len(server.asked) == 1


def test_a_time_that_the_endpoint_names_by_date_counts_from_its_own_clock() -> None:
    def script(_prompt: str, _attempt: int) -> Fault:
        return Fault("status", 429, (("retry-after", format_datetime(datetime.now(UTC) + timedelta(hours=1), True)),))

    with ScriptedServer(Echo(), script) as server, Endpoint(config(server)) as endpoint:
        (reply,) = endpoint.ask(chats(1))
    assert re.search(r"(3600|3599) s, longer than max_wait_s", reply.failure or "")


def test_an_answer_that_was_cut_off_is_asked_for_once_more_with_twice_the_room() -> None:
    def script(prompt: str, attempt: int) -> Fault | None:
        return Fault("length") if prompt.endswith("0") and attempt == 0 or prompt.endswith("1") else None

    with ScriptedServer(Echo(), script) as server, Endpoint(config(server)) as endpoint:
        first, second, third = endpoint.ask(chats(3))
    assert (first.failure, third.failure) == (None, None)
    assert first.text == "question 0"[::-1]
    assert second.failure == "the answer was cut off at 100 tokens"
    assert sorted(asked.body["max_tokens"] for asked in server.asked) == [50, 50, 50, 100, 100]
    assert endpoint.spending.completion_tokens == sum(asked.completion_tokens for asked in server.asked)


def test_no_more_requests_run_at_once_than_allowed() -> None:
    def script(_prompt: str, _attempt: int) -> Fault | None:
        time.sleep(0.01)
        return None

    with ScriptedServer(Echo(), script) as server, Endpoint(config(server, concurrency=3)) as endpoint:
        assert len(list(endpoint.ask(chats(30)))) == 30
    assert server.most_at_once == 3


def test_requests_are_drawn_a_bounded_number_ahead() -> None:
    drawn = 0

    def requests() -> object:
        nonlocal drawn
        for request in chats(100):
            drawn += 1
            yield request

    with ScriptedServer(Echo()) as server, Endpoint(config(server, concurrency=2)) as endpoint:
        replies = endpoint.ask(requests())
        next(replies)
        assert drawn == 8
        replies.close()


def test_the_budget_ends_the_run_cleanly_and_a_larger_one_pays_for_the_rest_alone(tmp_path: Path) -> None:
    def run(budget: int | None) -> tuple[list[Reply], Endpoint]:
        with Endpoint(config(server, concurrency=1, token_budget=budget), tmp_path) as endpoint:
            return list(endpoint.ask(chats(40))), endpoint

    with ScriptedServer(Echo()) as server:
        first, before = run(200)
        failures = [reply.failure for reply in first if reply.failure]
        assert set(failures) == {"budget reached (200 tokens)"}
        assert 0 < before.spending.answered < 40
        assert before.spending.answered + len(failures) == 40
        assert before.spending.prompt_tokens + before.spending.completion_tokens <= 200
        assert len(server.asked) == before.spending.answered

        again, after = run(200)
        assert again == first
        assert after.spending.answered == 0
        assert after.spending.totals() == before.spending.totals()

        whole, last = run(None)
        assert all(reply.failure is None for reply in whole)
        assert last.spending.found == before.spending.answered
        assert last.spending.totals()["answers"] == 40
        assert set(Counter(asked.prompt for asked in server.asked).values()) == {1}


def test_the_price_follows_from_the_tokens() -> None:
    with (
        ScriptedServer(Echo()) as server,
        Endpoint(config(server, usd_per_million_in=2.0, usd_per_million_out=10.0)) as endpoint,
    ):
        list(endpoint.ask(chats(5)))
    # Two words a question and two an answer.
    assert endpoint.spending.usd == pytest.approx(5 * (2 * 2.0 + 2 * 10.0) / 1e6)


def test_a_run_that_was_killed_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from mistudio.explain.endpoint import Endpoint, EndpointConfig
        from mistudio.explain.judge import Chat
        config = EndpointConfig(base_url=sys.argv[1], model="scripted", concurrency=2)
        with Endpoint(config, Path(sys.argv[2])) as endpoint:
            list(endpoint.ask(Chat("Be brief.", f"question {n}", 50) for n in range(40)))
        """
    )

    def script(_prompt: str, _attempt: int) -> Fault | None:
        time.sleep(0.02)
        return None

    with ScriptedServer(Echo(), script) as server:
        process = subprocess.Popen([sys.executable, "-c", program, server.url, str(tmp_path)])
        while len(server.asked) < 10 and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        while server.most_at_once and server._at_once:
            time.sleep(0.01)
        before = len(server.asked)
        with Endpoint(config(server), tmp_path) as endpoint:
            replies = list(endpoint.ask(chats(40)))
        assert [reply.text for reply in replies] == [f"question {n}"[::-1] for n in range(40)]
        assert endpoint.spending.found >= before - 2  # those that were under way are not known
        assert endpoint.spending.answered == 40 - endpoint.spending.found
        assert len(server.asked) == before + endpoint.spending.answered


def test_remembered_answers_that_are_damaged_are_named_with_what_to_do(tmp_path: Path) -> None:
    with ScriptedServer(Echo()) as server:
        with Endpoint(config(server), tmp_path) as endpoint:
            list(endpoint.ask(chats(4)))
        (path,) = tmp_path.iterdir()
        path.write_bytes(b"not a database" + path.read_bytes()[14:])
        with pytest.raises(StorageError, match=rf"{path.name} cannot be opened: .* move it away"):
            Endpoint(config(server), tmp_path)
        path.unlink()
        with Endpoint(config(server), tmp_path) as endpoint:
            list(endpoint.ask(chats(4)))
    assert endpoint.spending.answered == 4


def test_several_processes_remember_in_one_place_at_the_same_time(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from mistudio.explain.judge import Reply
        from mistudio.explain.llm_cache import AnswerCache
        sys.stdin.read()  # until all are there
        cache = AnswerCache(Path(sys.argv[1]))
        for number in range(50):
            cache.put(f"{sys.argv[2]} {number}", Reply(text=str(number)))
            cache.put(f"shared {number}", Reply(text="shared"))
        cache.close()
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path / "answers")]
    processes = [subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE) for number in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait() for process in processes] == [0, 0, 0]
    with closing(AnswerCache(tmp_path / "answers")) as cache:
        for number in range(50):
            assert cache.get(f"shared {number}") == Reply(text="shared")
            assert all(cache.get(f"{process} {number}") == Reply(text=str(number)) for process in range(3))


def test_what_another_run_has_asked_meanwhile_is_found(tmp_path: Path) -> None:
    with ScriptedServer(Echo()) as server, Endpoint(config(server), tmp_path) as one:
        with Endpoint(config(server), tmp_path) as other:
            first = list(other.ask(chats(4)))
        assert list(one.ask(chats(4))) == first
        assert (one.spending.found, one.spending.answered) == (4, 0)


def test_an_answer_without_log_probabilities_does_not_stand_for_one_with_them(tmp_path: Path) -> None:
    asked = [Chat("s", "ab", 5, alternatives=2)]
    with ScriptedServer(Echo()) as server:
        for logprobs in (False, True):
            with Endpoint(config(server, logprobs=logprobs), tmp_path) as endpoint:
                (reply,) = endpoint.ask(asked)
            assert ("logprobs" in server.asked[-1].body) is logprobs
    assert len(server.asked) == 2
    assert reply.tokens is not None


def test_other_settings_and_models_do_not_share_answers(tmp_path: Path) -> None:
    with ScriptedServer(Echo()) as server:
        for changes in ({}, {"seed": 1}, {"model": "other"}, {"temperature": 0.7}, {"concurrency": 2}):
            with Endpoint(config(server, **changes), tmp_path) as endpoint:
                list(endpoint.ask(chats(2)))
    assert len(server.asked) == 8


def test_the_same_request_at_the_same_time_is_paid_for_once() -> None:
    with ScriptedServer(Echo()) as server, Endpoint(config(server)) as endpoint:
        replies = list(endpoint.ask(chats(1) * 6))
    assert {reply.text for reply in replies} == {"question 0"[::-1]}
    assert endpoint.spending.answered == len(server.asked)
    assert endpoint.spending.totals() == {"answers": 1, "prompt_tokens": 2, "completion_tokens": 2, "usd": 0.0}


def test_log_probabilities_losses_and_vectors_arrive_and_are_remembered(tmp_path: Path) -> None:
    requests = [
        Chat("s", "ab", 5, alternatives=2),
        Likelihood("one two ", "three fours"),
        Embedding(("a", "abc")),
    ]
    with ScriptedServer(Echo()) as server:
        for _ in range(2):
            with Endpoint(config(server), tmp_path) as endpoint:
                chat, likelihood, embedding = endpoint.ask(requests)
            assert chat.tokens is not None
            assert [token.text for token in chat.tokens] == ["b", "a"]
            assert dict(chat.tokens[0].logprobs) == {"b": -0.1, "?": -2.5}
            assert likelihood.loss == pytest.approx((5 + 5) / 2)
            assert embedding.vectors == ((1.0, 1.0), (3.0, 1.0))
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_endpoint_that_refuses_key_or_model_ends_the_run_with_what_to_check(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_LLM_API_KEY", SECRET)

    def script(_prompt: str, _attempt: int) -> Fault:
        return Fault("status", status, message=f"no entry with {SECRET}")

    with (
        ScriptedServer(Echo(), script) as server,
        Endpoint(config(server)) as endpoint,
        pytest.raises(InputError, match="MISTUDIO_LLM_API_KEY") as caught,
    ):
        list(endpoint.ask(chats(3)))
    assert SECRET not in str(caught.value)


def test_a_request_that_the_endpoint_cannot_take_fails_alone() -> None:
    def script(prompt: str, _attempt: int) -> Fault | None:
        return Fault("status", 400, message="prompt is too long") if prompt.endswith("1") else None

    with ScriptedServer(Echo(), script) as server, Endpoint(config(server)) as endpoint:
        replies = list(endpoint.ask(chats(3)))
    assert [reply.failure for reply in replies] == [None, "Error code: 400 - prompt is too long", None]
    assert len(server.asked) == 3


def test_an_endpoint_that_is_not_there_ends_the_run_and_says_where() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        settings = EndpointConfig(base_url=url, model="m", retries=1, backoff_s=0.001, give_up_after=3)
        with (
            Endpoint(settings) as endpoint,
            pytest.raises(InputError, match=r"answered none of the last [3-9] .*attempts failed.*run again"),
        ):
            list(endpoint.ask(chats(10)))


def test_failures_in_a_row_are_counted_one_by_one_and_anew_after_an_answer() -> None:
    def script(prompt: str, _attempt: int) -> Fault | None:
        return None if prompt.endswith("2") else Fault("status", 503)

    replies: list[Reply] = []
    with ScriptedServer(Echo(), script) as server:
        settings = config(server, retries=0, concurrency=1, give_up_after=3)
        with Endpoint(settings) as endpoint, pytest.raises(InputError, match="none of the last 3 requests"):
            replies.extend(endpoint.ask(chats(10)))
    assert [reply.failure is None for reply in replies] == [False, False, True, False, False]


def test_the_key_is_sent_and_appears_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    caplog.set_level(logging.DEBUG)

    def script(prompt: str, attempt: int) -> Fault | None:
        return Fault("status", 500, message=f"trouble with {SECRET}") if attempt == 0 else None

    with ScriptedServer(Echo(), script) as server, Endpoint(config(server), tmp_path) as endpoint:
        assert all(reply.failure is None for reply in endpoint.ask(chats(3)))
        shown = json.dumps(endpoint.config.model_dump()) + repr(endpoint.config)
    assert {asked.key for asked in server.asked} == {f"Bearer {SECRET}"}
    assert "trying again" in caplog.text
    assert SECRET not in caplog.text + shown
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://me:word@host/v1", "http://host/v1?key=1"])
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        EndpointConfig(base_url=url, model="m")
