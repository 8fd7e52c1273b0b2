"""The guard: natural text goes on, loops and nonsense end within a few tokens."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from mistudio.steer.guard import GuardSettings, bounded_perplexity, collapse, distinct_share, loop_period

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
GUARD = GuardSettings()
RANDOM = random.Random(0).choices(range(50_000), k=400)


def ended_at(
    token_ids: Sequence[int], logprobs: Sequence[float] | None = None, settings: GuardSettings = GUARD
) -> tuple[int, str] | None:
    """After how many tokens the guard ends an answer, and why; it is asked after each of them."""
    for end in range(1, len(token_ids) + 1):
        why = collapse(token_ids[:end], settings, None if logprobs is None else logprobs[:end])
        if why is not None:
            return end, why
    return None


@pytest.fixture(scope="module")
def stories() -> tuple[Any, Any]:
    """A small model that writes stories, and its tokenizer."""
    folder = SHARED / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no real data at {SHARED}")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def documents(name: str, every: int) -> list[str]:
    lines = (SHARED / "corpora" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[::every]]


def nats(model: Any, begin: int, token_ids: Sequence[int]) -> list[float]:
    """Log-probability of each token behind those before it."""
    ids_1T = torch.tensor([[begin, *token_ids]])
    with torch.no_grad():
        logprobs_1TV = model(ids_1T).logits[:, :-1].log_softmax(-1)
    found: list[float] = logprobs_1TV.gather(-1, ids_1T[:, 1:, None])[0, :, 0].tolist()
    return found


@pytest.mark.parametrize(
    ("name", "every"),
    [
        ("code_humaneval.jsonl", 2),
        ("dialogue_sgd.jsonl", 20),
        ("general_wikitext2.jsonl", 20),
        ("math_gsm8k.jsonl", 20),
        ("qa_squad.jsonl", 20),
        ("reasoning_bbh.jsonl", 50),
        ("sentiment_sst2.jsonl", 50),
        ("stories_tinystories.jsonl", 20),
    ],
)
def test_natural_text_of_many_kinds_is_never_ended_for_repetition(
    name: str, every: int, stories: tuple[Any, Any]
) -> None:
    encoded = [stories[1](text, add_special_tokens=False)["input_ids"] for text in documents(name, every)]
    assert [found for ids in encoded if (found := ended_at(ids)) is not None] == []
    assert len(encoded) >= 48


def test_spam_that_is_itself_a_loop_is_the_one_text_of_a_thousand_that_is_ended(stories: tuple[Any, Any]) -> None:
    encoded = [stories[1](text, add_special_tokens=False)["input_ids"] for text in documents("toxicity_surge.jsonl", 1)]
    ended = [number for number, ids in enumerate(encoded) if ended_at(ids) is not None]
    assert ended == [635]


def test_stories_are_not_ended_for_perplexity_and_neither_is_what_the_model_writes(stories: tuple[Any, Any]) -> None:
    model, tokenizer = stories
    encoded = [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in documents("stories_tinystories.jsonl", 20)
    ]
    torch.manual_seed(0)
    begin = int(tokenizer.bos_token_id)
    written = model.generate(torch.full((20, 1), begin), do_sample=True, top_k=0, max_new_tokens=150, pad_token_id=0)
    encoded += [ids[1:].tolist() for ids in written]
    texts = [ids[:400] for ids in encoded]
    assert [found for ids in texts if (found := ended_at(ids, nats(model, begin, ids))) is not None] == []
    assert sum(len(ids) >= GUARD.perplexity_window for ids in texts) >= 60


def test_random_tokens_are_ended_for_perplexity_as_soon_as_there_are_enough(stories: tuple[Any, Any]) -> None:
    model, tokenizer = stories
    token_ids = np.random.default_rng(0).integers(3, len(tokenizer), 200).tolist()
    found = ended_at(token_ids, nats(model, int(tokenizer.bos_token_id), token_ids))
    assert found is not None
    assert found[0] == GUARD.perplexity_window
    assert found[1].startswith("perplexity ")
    assert found[1].endswith("under the model without edits")


@pytest.mark.parametrize("period", [1, 2, 5, 12, 13, 40, 64])
def test_a_loop_ends_as_soon_as_it_has_gone_on_for_long_enough(period: int) -> None:
    loop = RANDOM[100 : 100 + period]
    found = ended_at([*RANDOM[:70], *loop * 100])
    assert found == (
        70 + max(48, 4 * period),
        f"repetition: the same {period} token{'s'[: period - 1]} again and again",
    )


@pytest.mark.parametrize(
    "token_ids",
    [RANDOM, [7] * 47, RANDOM[:20] * 3, [each for token in RANDOM for each in (token, token)], RANDOM[:65] * 5],
)
def test_what_is_no_loop_or_too_short_for_one_goes_on(token_ids: list[int]) -> None:
    assert all(loop_period(token_ids[:end], GUARD) is None for end in range(1, len(token_ids) + 1))


def test_a_loop_with_slips_ends_when_few_runs_differ() -> None:
    draw = random.Random(1)
    token_ids: list[int] = []
    while len(token_ids) < 400:
        token_ids += [5, 6, 7] if draw.random() < 0.97 else [5, 9, 7]
    found = ended_at(token_ids, settings=GuardSettings(loop_tokens=None))
    assert found is not None
    assert found[0] == GUARD.distinct_window
    assert found[1].endswith("of the runs of 4 tokens differ")


def test_shares_and_perplexities_are_what_they_are_by_hand() -> None:
    assert distinct_share([1, 2] * 8, 16) == 2 / 13
    assert distinct_share(RANDOM[:16], 16) == 1
    assert distinct_share(RANDOM[:15], 16) is None
    assert bounded_perplexity([-1.0] * 10, 8) == pytest.approx(np.e)
    assert bounded_perplexity([*[-1.0] * 7, -30.0], 8) == pytest.approx(np.exp(17 / 8))
    assert bounded_perplexity([-1.0] * 7, 8) is None


def test_the_last_tokens_count_and_not_those_before() -> None:
    logprobs = [-9.0] * 64 + [-1.0] * 64
    settings = GuardSettings(max_perplexity=1000)
    assert collapse(RANDOM[:64], settings, logprobs[:64]) is not None
    assert collapse(RANDOM[:128], settings, logprobs) is None


def test_each_part_can_be_turned_off() -> None:
    off = GuardSettings(loop_tokens=None, distinct=None, max_perplexity=None)
    assert not off.needs_plain
    assert GUARD.needs_plain
    assert ended_at([7] * 200, [-20.0] * 200, off) is None
    assert ended_at(RANDOM[:200], None, GUARD) is None


@pytest.mark.parametrize("wrong", [{"loop_times": 1}, {"distinct": 0}, {"max_perplexity": 0.5}, {"unknown": 1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GuardSettings.model_validate(wrong)
