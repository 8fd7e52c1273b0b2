"""Secrets among settings and in texts: what looks like one, and what does not."""

import pytest

from mistudio.redaction import redact, secret_setting


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


@pytest.mark.parametrize("text", ["{" * 100_000, '{"a":' * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_json_that_cannot_be_read_is_no_setting_with_a_secret(text: str) -> None:
    assert secret_setting({"model_settings": text}) is None
