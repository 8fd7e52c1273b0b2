"""Secrets among settings and in texts: what looks like one, and what does not."""

import copy
import pickle
import traceback

import pytest
from pydantic import ValidationError

from mistudio.errors import ConfigError, InputError
from mistudio.explain.llm_config import EndpointConfig
from mistudio.redaction import Secret, redact, secret_setting
from mistudio.settings import refused
from mistudio.steps import STEPS
from mistudio.steps.context import judge_choice
from mistudio.steps.given import check
from mistudio.subject import SubjectConfig


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"k": 4, "api_key": "x"}, "api_key"),
        ({"hf_token": "x"}, "hf_token"),
        ({"AWS_SECRET_ACCESS_KEY": "x"}, "AWS_SECRET_ACCESS_KEY"),
        ({"corpus": "https://me:word@example.org/text.jsonl"}, "corpus"),
        ({"model_settings": '{"revision": "main", "token": "x"}'}, "model_settings.token"),
        ({"judge": {"endpoint": {"password": "x"}}}, "judge.endpoint.password"),
        ({"judge_settings": "sk-0123456789abcdefghij"}, "judge_settings"),
        ({"judge_settings": '{"api_key": "x", broken'}, "judge_settings"),
        ({"judge_url": "https://example.org/v1?api_key=x"}, "judge_url"),
        ({"judge_url": "ftp://me:pa/ss@wo@example.org"}, "judge_url"),
    ],
)
def test_a_setting_that_looks_like_a_secret_is_named(settings: dict[str, object], name: str) -> None:
    assert secret_setting(settings) == name


@pytest.mark.parametrize(
    "settings",
    [
        {"train_tokens": 20_000, "max_tokens": -1, "judge_tokens": 1000},
        {"api_key": "", "token": None},
        {"base_url": "http://localhost:8000/v1", "corpus": "hf:roneneldan/TinyStories"},
        {"train_settings": '{"ema_decay": 0.999}', "title": "{not JSON"},
        {"model": "risk-assessment-of-a-long-named-model"},
    ],
)
def test_other_settings_pass(settings: dict[str, object]) -> None:
    assert secret_setting(settings) is None


def test_texts_lose_the_secrets_of_the_environment_and_what_looks_like_one() -> None:
    environment = {"OPENAI_API_KEY": "a-long-secret", "EDITOR": "a-long-editor", "X_TOKEN": "of"}
    text = "a-long-secret of a-long-editor at s3://me:word@host/x with hf_0123456789abcdefghij"
    assert redact(text, environment) == "*** of a-long-editor at s3://***@host/x with ***"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("a-long-secret and a-long-secret", "*** and ***"),
        ("at http://me:pa/ss@wo@host/v1?x=1 it is", "at http://***@host/v1?x=1 it is"),
        ("at http://single-token@host/v1", "at http://***@host/v1"),
        ("https://host/v1?model=m&key=abc&b=1", "https://host/v1?model=m&key=***&b=1"),
        ("""not JSON: '{"api_key": "abc", "k": 1'""", """not JSON: '{"api_key": "***", "k": 1'"""),
        (r"not JSON: '{\"password\": \"abc\"}'", r"not JSON: '{\"password\": \"***\"}'"),
        ("{'hf-token': 'abcdefghijklmnop'}", "{'hf-token': '***'}"),
        ("OPENAI_API_KEY=abc mistudio", "OPENAI_API_KEY=*** mistudio"),
        ("{'feature': 1, 'token': ' the'}", "{'feature': 1, 'token': ' the'}"),
        ("it must hold no secret: put the key", "it must hold no secret: put the key"),
        ("http://localhost:8000/v1 of model@main", "http://localhost:8000/v1 of model@main"),
    ],
)
def test_texts_lose_secrets_by_value_by_place_and_by_name(text: str, redacted: str) -> None:
    assert redact(text, {"OPENAI_API_KEY": "a-long-secret\n", "EMPTY_TOKEN": "\n"}) == redacted
    assert redact(redacted, {}) == redacted


@pytest.mark.parametrize("piece", ["://", "://a:", '"a', "api_key", "-a:", "sk-", '"token": '])
def test_redaction_takes_time_in_proportion_to_the_text(piece: str) -> None:
    redact(piece * (1_000_000 // len(piece)), {})  # would take hours if it took the square


def test_a_secret_shows_itself_in_no_form_of_text() -> None:
    secret = Secret(" a-long-secret\r\n")
    shown = [repr(secret), str(secret), f"{secret}", "%s" % secret, repr([secret]), repr({"key": secret})]  # noqa: UP031
    assert not any("a-long" in text for text in shown)
    assert secret.reveal() == "a-long-secret"
    for write in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="not written down"):
            write(secret)


@pytest.mark.parametrize(("value", "text"), [("short", "*** shortly"), ("shortly", "short ***"), ("", "short shortly")])
def test_a_short_secret_is_hidden_as_a_word(value: str, text: str) -> None:
    assert Secret(value).hide_in("short shortly") == text


def test_errors_lose_secrets_in_message_representation_and_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "a-long-secret\n")
    message = "the store s3://me:word@host of a-long-secret"
    with pytest.raises(InputError) as caught:
        raise InputError(message, 5)
    error = caught.value
    shown = [str(error), repr(error), *traceback.format_exception(error)]
    assert error.args == ("the store s3://***@host of ***", 5)
    assert not any("me:word" in text or "a-long-secret" in text for text in shown)


HIDDEN = "hunter2-or-so"


@pytest.mark.parametrize(
    "given",
    [
        {"judge_url": f"ftp://me:{HIDDEN}@host/v1", "judge_model": "m"},
        {"judge_url": f"http://me:{HIDDEN}@host/v1", "judge_model": "m"},
        {"judge_url": f"http://{HIDDEN}@host/v1", "judge_model": "m"},
        {"judge_url": f"http://me:pa/ss@{HIDDEN}@host/v1", "judge_model": "m"},
        {"judge_url": f"http://host/v1?key={HIDDEN}", "judge_model": "m"},
        {"judge_url": f"http://host/v1#{HIDDEN}", "judge_model": "m"},
        {"judge_url": f"http://me:{HIDDEN}@host/v1"},
        {"judge_url": "http://host/v1", "judge_model": "m", "judge_settings": {"api_key": HIDDEN}},
        {"judge_url": "http://host/v1", "judge_model": "m", "judge_settings": {"headers": {"api_key": HIDDEN}}},
        {"judge_url": "http://host/v1", "judge_model": "m", "judge_settings": f'{{"api_key": "{HIDDEN}"}}'},
        {"judge_url": "http://host/v1", "judge_model": "m", "judge_settings": f'{{"api_key": "{HIDDEN}'},
        {"judge_url": "http://host/v1", "judge_model": "m", "judge_settings": f"api_key={HIDDEN}"},
        {"judge_model": "m", "judge_settings": {"password": HIDDEN}},
    ],
)
def test_a_secret_among_the_settings_of_a_judge_is_refused_and_not_repeated(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        judge_choice(given, SubjectConfig())
    assert not any(HIDDEN in text for text in (str(caught.value), repr(caught.value)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "url",
    [
        "http://host:99999/v1",
        "http://host:0/v1",
        "http://host:x/v1",
        "http://[::1/v1",
        "http://ho st/v1",
        "http://host/v1\n",
        "http://host\x00/v1",
        f"http://{'a' * 300}/v1",
        "http:///v1",
        "http://",
        "x" * 100_000,
        "http://\udcff/v1",
    ],
)
def test_an_address_where_nothing_can_be_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EndpointConfig(base_url=url, model="m")
    message = str(refused(caught.value))
    assert "base_url is" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8000/v1", "https://a_b.c-d.example:443/v1/", "http://[::1]:80/v1", "http://bücher.example"],
)
def test_other_addresses_pass(url: str) -> None:
    assert EndpointConfig(base_url=url, model="m").base_url == url


@pytest.mark.parametrize("step", ["explain", "score"])
@pytest.mark.parametrize(
    "given",
    [
        {"judge_url": "http://host:99999/v1", "judge_model": "m"},
        {"judge_url": "http://host/v1"},
        {"judge_url": "http://host/v1", "judge_model": "m", "judge_settings": {"timeout_s": float("nan")}},
        {"judge_url": "http://host/v1", "judge_model": "m", "judge_settings": {"api_key": HIDDEN}},
    ],
)
def test_what_a_step_would_refuse_of_a_judge_is_refused_before_a_run(step: str, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        check(STEPS[step], given)


@pytest.mark.parametrize("text", ["{" * 100_000, '{"a":' * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_json_that_cannot_be_read_is_no_setting_with_a_secret(text: str) -> None:
    assert secret_setting({"model_settings": text}) is None
