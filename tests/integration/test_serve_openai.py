"""OpenAI's API of a real server, by the official client: what it gives is what the model says, steered or not."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from mistudio.client import Client
from mistudio.errors import NotFound
from mistudio.subject import load_tokenizer
from model_servers.base.server import ModelServer
from model_servers.steer.predictor import SteerPredictor
from tests.support.served import CHAT_TEMPLATE, TinyStore, tiny_store
from tests.support.serving import serving, url_of

NAME = "model"
PROMPTS = ["the cat sat", "once", "a small red hat and then", "Lily saw the moon because"]
ADD = {"op": "add", "feature": 3, "strength": 2.0, "unit": "relative"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture(scope="module")
def server(tiny: TinyStore) -> Iterator[ModelServer]:
    with serving([SteerPredictor(tiny.shared(), chat_template=CHAT_TEMPLATE)]) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ModelServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url_of(server)}/openai/v1", api_key="unused", max_retries=0) as made:
        yield made


def said(tiny: TinyStore, prompt: str, num_tokens: int) -> str:
    """What transformers generates, greedily."""
    tokenizer = load_tokenizer(tiny.source)
    model = AutoModelForCausalLM.from_pretrained(tiny.source.path).eval()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False)
    return str(tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True))


def complete(client: openai.OpenAI, prompt: Any = PROMPTS[0], **settings: Any) -> Any:
    settings = {"max_tokens": 12, "temperature": 0, **settings}
    return client.completions.create(model=NAME, prompt=prompt, **settings)


def test_a_greedy_completion_is_what_transformers_generates(client: openai.OpenAI, tiny: TinyStore) -> None:
    for prompt in PROMPTS:
        assert complete(client, prompt).choices[0].text == said(tiny, prompt, 12)


def test_several_prompts_in_one_request_are_answered_like_each_alone(client: openai.OpenAI) -> None:
    together = complete(client, PROMPTS)
    assert [choice.text for choice in together.choices] == [complete(client, each).choices[0].text for each in PROMPTS]
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]


def test_a_stream_adds_up_to_the_whole_answer_and_ends_with_the_usage(client: openai.OpenAI) -> None:
    whole = complete(client, PROMPTS[:2], n=2, temperature=1, seed=5)
    options = {"include_usage": True}
    chunks = list(complete(client, PROMPTS[:2], n=2, temperature=1, seed=5, stream=True, stream_options=options))
    texts, reasons = [""] * 4, [None] * 4
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_seed_gives_the_same_answers_again_and_answers_of_one_request_differ(client: openai.OpenAI) -> None:
    first, again, other = (complete(client, n=4, temperature=1, seed=seed) for seed in (1, 1, 2))
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in again.choices]
    assert texts != [choice.text for choice in other.choices]
    assert len(set(texts)) > 1


def test_a_stop_text_ends_the_answer_and_is_not_in_it(client: openai.OpenAI) -> None:
    whole = complete(client, max_tokens=40, extra_body={"ignore_eos": True}).choices[0].text
    stop = whole[10:12]
    choice = complete(client, max_tokens=40, stop=[stop], extra_body={"ignore_eos": True}).choices[0]
    assert (choice.text, choice.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_logprobs_of_a_completion_are_of_its_tokens_and_a_bias_forces_one(
    client: openai.OpenAI, tiny: TinyStore
) -> None:
    found = complete(client, logprobs=3, max_tokens=5).choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset) == 5
    for logprob, top in zip(found.token_logprobs, found.top_logprobs, strict=True):
        assert logprob == max(top.values())  # greedy
    token = load_tokenizer(tiny.source).convert_tokens_to_ids("a")
    assert complete(client, max_tokens=3, logit_bias={str(token): 100}).choices[0].text == "aaa"


def test_a_chat_goes_by_the_template(client: openai.OpenAI, tiny: TinyStore) -> None:
    messages: Any = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "the cat"}]
    answer = client.chat.completions.create(model=NAME, messages=messages, max_completion_tokens=8, temperature=0)
    laid_out = "system: be kind\nuser: the cat\nassistant:"
    ids = load_tokenizer(tiny.source)(laid_out, add_special_tokens=False)["input_ids"]
    assert answer.choices[0].message.content == complete(client, ids, max_tokens=8).choices[0].text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)


def test_a_streamed_chat_has_logprobs_and_deltas(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "the cat"}]
    settings: Any = {"model": NAME, "messages": messages, "max_tokens": 6, "temperature": 0, "logprobs": True}
    whole = client.chat.completions.create(**settings, top_logprobs=2).choices[0]
    parts = [chunk.choices[0] for chunk in client.chat.completions.create(**settings, top_logprobs=2, stream=True)]
    assert parts[0].delta.role == "assistant"
    assert "".join(part.delta.content or "" for part in parts) == whole.message.content
    tokens = [token for part in parts if part.logprobs for token in part.logprobs.content]
    assert tokens == whole.logprobs.content
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == whole.message.content


def test_without_a_template_a_chat_is_refused_with_how_to_give_one(tiny: TinyStore) -> None:
    with (
        serving([SteerPredictor(tiny.shared())]) as server,
        openai.OpenAI(base_url=f"{url_of(server)}/openai/v1", api_key="unused", max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError, match="--chat-template") as caught:
            client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "hello"}])
        assert caught.value.param == "messages"


def test_steering_changes_the_answer_and_nothing_beside_it(client: openai.OpenAI) -> None:
    plain = complete(client).choices[0].text
    assert complete(client, extra_body={"steering": {"edits": []}}).choices[0].text == plain
    steered = complete(client, extra_body={"steering": {"edits": [ADD]}}).choices[0].text
    assert steered != plain
    assert complete(client).choices[0].text == plain


def test_a_comparison_has_the_plain_answer_and_watched_features_are_there_by_token(client: openai.OpenAI) -> None:
    steering = {"edits": [ADD], "compare": True, "watch": [3, 5]}
    whole = complete(client, extra_body={"steering": steering}).choices[0]
    comparison = whole.steering["comparison"]
    assert comparison["plain_text"] == complete(client).choices[0].text
    assert comparison["perplexity"] > comparison["plain_perplexity"]
    assert len(comparison["kl"]) == len(whole.steering["watched"]) == 12
    assert all(len(row) == 2 and row[0] > 0 for row in whole.steering["watched"][1:])
    chunks = [chunk.choices[0] for chunk in complete(client, stream=True, extra_body={"steering": steering})]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].steering["comparison"]["diff"] == comparison["diff"]
    assert chunks[-1].finish_reason == "length"


def test_a_feature_that_fires_ends_the_answer_and_is_named(client: openai.OpenAI) -> None:
    whole = complete(client, max_tokens=40, extra_body={"steering": {"watch": list(range(64))}})
    watched = whole.choices[0].steering["watched"]
    first = {
        number: [row[number] > 0 for row in watched].index(True)
        for number in range(64)
        if any(r[number] for r in watched)
    }
    feature = max(first, key=first.__getitem__)
    assert first[feature] > 0
    stopped = complete(client, max_tokens=40, extra_body={"steering": {"stop_when": [{"feature": feature}]}})
    choice = stopped.choices[0]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", f"feature {feature} above 0")
    assert whole.choices[0].text.startswith(choice.text)
    assert stopped.usage.completion_tokens < whole.usage.completion_tokens


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "mistudio"
    with pytest.raises(openai.NotFoundError, match="other"):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("settings", "error", "param"),
    [
        ({"model": "other"}, openai.NotFoundError, "model"),
        ({"n": 17}, openai.BadRequestError, "n"),
        ({"max_tokens": 5000}, openai.BadRequestError, None),
        ({"extra_body": {"steering": {"edits": [{**ADD, "feature": 64}]}}}, openai.NotFoundError, None),
        (
            {"extra_body": {"steering": {"edits": [{**ADD, "unit": "miles"}]}}},
            openai.BadRequestError, "steering.edits[0].unit",
        ),
        ({"extra_body": {"top_k": -1}}, openai.BadRequestError, "top_k"),
        ({"suffix": "end"}, openai.BadRequestError, "suffix"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_openais_shape(
    client: openai.OpenAI, settings: dict[str, Any], error: type[openai.APIStatusError], param: str | None
) -> None:
    with pytest.raises(error) as caught:
        client.completions.create(**{"model": NAME, "prompt": "a", **settings})
    assert isinstance(caught.value, openai.APIStatusError)
    body: Any = caught.value.body
    assert body.keys() == {"message", "type", "param", "code"}
    assert body["type"] == "invalid_request_error"
    assert body["param"] == param


def test_many_at_once_by_the_async_client_are_answered_like_each_alone(
    client: openai.OpenAI, server: ModelServer
) -> None:
    alone = [complete(client, each).choices[0].text for each in PROMPTS]

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url_of(server)}/openai/v1", api_key="unused") as many:
            asked = [
                many.completions.create(model=NAME, prompt=each, max_tokens=12, temperature=0) for each in PROMPTS * 6
            ]
            return [answer.choices[0].text for answer in await asyncio.gather(*asked)]

    assert asyncio.run(all_at_once()) == alone * 6


def test_our_own_client_is_answered_alike(client: openai.OpenAI, server: ModelServer) -> None:
    plain = complete(client).choices[0].text
    with Client(url_of(server)) as ours:
        text = ours.complete(PROMPTS[0], max_tokens=12, temperature=0, edits=[ADD], compare=True, watch=[3])
        pieces = list(ours.stream(PROMPTS[0], max_tokens=12, temperature=0))
        with pytest.raises(NotFound, match="64"):
            ours.complete(PROMPTS[0], edits=[{**ADD, "feature": 64}])
        assert ours.describe()["subject"]["name"] == NAME
    assert text.comparison is not None
    assert text.comparison.plain_text == "".join(piece.text for piece in pieces) == plain
    assert len(text.watched) == 12


def test_describe_says_what_may_be_asked_for(server: ModelServer) -> None:
    described = httpx.get(f"{url_of(server)}/describe").json()
    assert described["predictors"] == ["steer"]
    assert described["subject"]["name"] == NAME
    assert described["subject"]["takes_chats"]
    assert "resid_post.2" in described["subject"]["hook_points"]
    (autoencoder,) = described["autoencoders"]
    assert (autoencoder["width"], autoencoder["hook_points"]) == (64, ["resid_post.1"])
    assert set(described["ops"]) == {"add", "clamp", "scale", "ablate", "cap"}
    assert "strength" in described["ops"]["add"]
    assert described["allowed"]["max_edits"] == 32
    assert (described["presets"], described["directions"], described["is_logged"]) == ([], [], False)
