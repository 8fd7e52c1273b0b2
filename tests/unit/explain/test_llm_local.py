import math
from pathlib import Path

import pytest
import torch

from mistudio.errors import InputError, SubjectError
from mistudio.explain.config import LlmExplainerConfig
from mistudio.explain.judge import Chat, Embedding, Likelihood, Reply, Request
from mistudio.explain.llm import MaxActivatingExplainer
from mistudio.explain.llm_local import LocalModel, LocalModelConfig, _usable
from mistudio.explain.llm_open import open_judge
from mistudio.explain.llm_writing import bounded
from mistudio.explain.records import Evidence
from mistudio.score.config import JudgeConfig
from mistudio.score.embedding import EmbeddingScorer
from mistudio.score.surprisal import SurprisalScorer
from mistudio.subject import SubjectConfig
from tests.support.oracle import planted_cases
from tests.support.tiny import tiny_bert, tiny_llama

TEXTS = ("the cat sat", " under the red tree and then", " but never again once", " a dog ran over it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    tiny_llama(folder)
    return folder


def config(folder: Path, **changes: object) -> LocalModelConfig:
    return LocalModelConfig.model_validate({"model": str(folder), "subject": SubjectConfig(device="cpu"), **changes})


@pytest.fixture(scope="module")
def judge(folder: Path) -> LocalModel:
    return LocalModel(config(folder))


def chats(limit: int = 8) -> list[Request]:
    return [Chat("Go on.", text, limit, alternatives=3) for text in TEXTS]


def written_by_hand(judge: LocalModel, chat: Chat) -> tuple[list[int], list[dict[int, float]]]:
    """The likeliest token at each step, one forward pass of the whole text a token."""
    model, tokenizer = judge._subject.model, judge._subject.tokenizer
    ids, written, logprobs = list(tokenizer(f"{chat.system}\n\n{chat.prompt}\n\nAnswer: ")["input_ids"]), [], []
    for _ in range(chat.max_tokens):
        with torch.no_grad():
            of_V = torch.log_softmax(model(torch.tensor([ids + written])).logits[0, -1], dim=-1)
        best = of_V.topk(chat.alternatives)
        logprobs.append(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
        written.append(int(best.indices[0]))
        if written[-1] in tokenizer.all_special_ids:
            return written[:-1], logprobs
    return written, logprobs


def test_a_batch_writes_what_each_request_alone_would_token_by_token(judge: LocalModel) -> None:
    replies = list(judge.ask(chats()))
    tokenizer = judge._subject.tokenizer
    for chat, reply in zip(chats(), replies, strict=True):
        # A model that does not stop is asked a second time with twice the room.
        written, logprobs = written_by_hand(judge, chat._replace(max_tokens=16))
        assert reply.text == tokenizer.decode(written)
        assert reply.tokens is not None
        assert "".join(token.text for token in reply.tokens) == reply.text
        for token, expected in zip(reply.tokens, logprobs, strict=False):
            assert [value for _, value in token.logprobs] == pytest.approx(list(expected.values()), abs=1e-4)


def test_a_model_that_does_not_stop_is_cut_off_and_fails(judge: LocalModel) -> None:
    replies = list(judge.ask(chats()))
    assert any(reply.failure == "the answer was cut off at 16 tokens" for reply in replies)


def test_losses_are_those_of_the_text_alone(judge: LocalModel) -> None:
    requests = [Likelihood("once ", text) for text in TEXTS]
    tokenizer = judge._subject.tokenizer
    for request, reply in zip(requests, judge.ask(requests), strict=True):
        before = tokenizer(request.prompt)["input_ids"]
        text = tokenizer(request.text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([before + text])
        with torch.no_grad():
            logprobs = torch.log_softmax(judge._subject.model(ids).logits[0], dim=-1)
        expected = [-float(logprobs[place - 1, ids[0, place]]) for place in range(len(before), ids.shape[1])]
        assert reply.loss == pytest.approx(sum(expected) / len(text), abs=1e-4)


def test_vectors_are_means_over_tokens_that_are_not_special(judge: LocalModel) -> None:
    (reply,) = judge.ask([Embedding(TEXTS)])
    assert reply.vectors is not None
    for text, vector in zip(TEXTS, reply.vectors, strict=True):
        ids = torch.tensor([judge._subject.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = judge._subject.model(ids, output_hidden_states=True).hidden_states[-1][0]
        assert torch.tensor(vector) == pytest.approx(states[1:].mean(dim=0), abs=1e-4)


def test_answers_are_remembered_and_not_shared_with_another_model(folder: Path, tmp_path: Path) -> None:
    requests = [*chats(), Likelihood("a", " b"), Embedding(("x",))]
    replies: list[list[Reply]] = []
    for batch_size in (4, 2):
        with LocalModel(config(folder, batch_size=batch_size), tmp_path / "answers") as judge:
            replies.append(list(judge.ask(requests)))
    assert replies[0] == replies[1]
    assert judge.spending.answered == 0
    tiny_llama(tmp_path / "other", seed=1)
    with LocalModel(config(tmp_path / "other"), tmp_path / "answers") as other:
        list(other.ask(requests))
    assert other.spending.found == 0


def test_a_prompt_that_does_not_fit_fails_alone(judge: LocalModel) -> None:
    long = "the cat sat under the red tree " * 30
    first, second, third = judge.ask([Likelihood("a", " dog"), Likelihood("a", long), Chat("", long, 8)])
    assert first.loss is not None
    assert "do not fit" in (second.failure or "")
    assert "do not fit" in (third.failure or "")


def test_a_model_that_follows_no_instruction_ends_the_run_and_says_what_is_needed(judge: LocalModel) -> None:
    (case,) = planted_cases(1, 3)
    short = tuple(one._replace(tokens=one.tokens[:2], values=(0.0, 1.0)) for one in case.examples)
    with pytest.raises(InputError, match="no usable answer"):
        list(MaxActivatingExplainer(judge, LlmExplainerConfig()).explain([Evidence(0, short, 0.1, 1.0)]))


@pytest.mark.parametrize("scorer", [SurprisalScorer, EmbeddingScorer])
def test_scorers_that_need_no_words_work_with_any_local_model(scorer: type, judge: LocalModel) -> None:
    cases = planted_cases(1, 4)
    short = [one._replace(examples=tuple(_short(example) for example in one.examples)) for one in cases]
    (score,) = scorer(judge, JudgeConfig(num_active=4, num_inactive=4), 50).score(short)
    assert 0 <= score.value <= 1
    assert score.num_failures == 0


def _short(example: object) -> object:
    start = max(example.peak - 2, 0)
    return example._replace(tokens=example.tokens[start : start + 4], values=example.values[start : start + 4])


def test_the_local_model_is_opened_when_it_is_configured(folder: Path) -> None:
    settings = config(folder)
    with open_judge(settings, "max-activating") as judge:
        assert isinstance(judge, LocalModel)
        assert judge.model == folder.name
    assert settings.settings() == config(folder, batch_size=1).settings()
    assert str(folder) not in str(settings.settings())


def test_an_encoder_cannot_be_the_judge(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    with pytest.raises(SubjectError, match="writes no text"):
        LocalModel(config(tmp_path))


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (Likelihood("a", "b"), Reply(loss=math.nan)),
        (Likelihood("a", "b"), Reply(loss=math.inf)),
        (Embedding(("a", "b")), Reply(vectors=((1.0,), (math.nan,)))),
        (Embedding(("a", "b")), Reply(vectors=((1.0,), (math.inf,)))),
    ],
)
def test_numbers_that_overflowed_are_failures_and_not_kept(request_: Request, reply: Reply) -> None:
    assert (_usable(request_, reply).failure or "").startswith("the model's answer cannot be used")
    assert [bounded(value) for value in (-math.inf, math.nan, -1.5)] == [-10_000.0, -10_000.0, -1.5]
