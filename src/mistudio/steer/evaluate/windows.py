"""Stretches of held-out text: beginnings to be continued, and text as people wrote it to compare with.

A window is a prompt and what follows it. Prompts are the beginnings of documents, one each; windows to compare with are
of other documents, cut one behind the other. Both have the same lengths, so that figures of what a model wrote and of
what was there are of equally long texts.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mistudio.corpus.reader import Split, TokenCorpus
from mistudio.errors import CorpusError
from mistudio.steer.evaluate.config import TextsConfig

Ids = tuple[int, ...]


class Window(NamedTuple):
    """A prompt and the tokens behind it, without special ones around them."""

    prompt: Ids
    following: Ids
    document: int


class Windows(NamedTuple):
    """What is continued, and what it is compared with."""

    prompts: tuple[Window, ...]
    natural: tuple[Window, ...]
    prefix: Ids  # special tokens that begin a sequence
    suffix: Ids


def read_windows(corpus: TokenCorpus, config: TextsConfig, seed: int, split: Split = "heldout") -> Windows:
    """Windows of documents drawn at random.

    Raises:
        CorpusError: no two documents are long enough.
    """
    length = config.prompt_tokens + config.new_tokens
    documents_S = corpus.documents(split)
    long_S = corpus.lengths(split) - corpus.num_prefix - corpus.num_suffix >= length
    order = np.random.default_rng(seed).permutation(np.unique(documents_S[long_S])).tolist()
    chosen, others = _shared_out(order, config.num_prompts)
    if not others:
        message = (
            f"{corpus.artifact.uri} has {len(order)} documents in its {split} split with a sequence of {length} tokens "
            f"(prompt_tokens {config.prompt_tokens}, new_tokens {config.new_tokens}), and needs two: ask for shorter "
            "texts, or use a larger corpus."
        )
        raise CorpusError(message)
    prompts = tuple(next(_windows_of(corpus, split, document, config)) for document in chosen)
    natural: list[Window] = []
    for document in others:
        natural += _windows_of(corpus, split, document, config)
        if len(natural) >= config.num_windows:
            break
    statistics = corpus.statistics
    ends = (tuple(map(int, ids)) for ids in (statistics.prefix_ids, statistics.suffix_ids))
    return Windows(prompts, tuple(natural[: config.num_windows]), *ends)


def _shared_out(documents: list[int], wanted: int) -> tuple[list[int], list[int]]:
    """Documents for prompts, and those to compare with: at least a third of all."""
    count = min(wanted, max(len(documents) * 2 // 3, 1))
    return documents[:count], documents[count:]


def _windows_of(corpus: TokenCorpus, split: Split, document: int, config: TextsConfig) -> Iterator[Window]:
    """The windows of a document, one behind the other in each of its sequences."""
    numbers = np.flatnonzero(corpus.documents(split) == document)
    length = config.prompt_tokens + config.new_tokens
    for ids in corpus.batch(split, numbers).token_ids:
        text = tuple(ids[corpus.num_prefix : len(ids) - corpus.num_suffix].tolist())
        for start in range(0, len(text) - length + 1, length):
            middle = start + config.prompt_tokens
            yield Window(text[start:middle], text[middle : start + length], document)
