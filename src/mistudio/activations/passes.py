"""Forward passes over a corpus: what capture writes to shards, and what a live source serves.

A pass stops at the deepest hook point, and keeps the wanted positions only.

Shape legend: D width of a hook point, N kept rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.activations.config import CaptureConfig
from mistudio.activations.plan import CapturePlan, plan_capture
from mistudio.activations.shards import narrowed
from mistudio.corpus.reader import SPLITS, Split, TokenCorpus
from mistudio.errors import SubjectError
from mistudio.subject import HookPoint, ResolvedHook, Subject, resolve_hooks, text_rows, token_batch
from mistudio.subject.tokens import check_vocabulary


class PassRows(NamedTuple):
    """What one forward pass leaves: the rows of its sequences, one sequence after the other."""

    acts: dict[HookPoint, Tensor]  # each [N, D], in the number format of the shards
    meta: dict[str, NDArray[np.int32]]  # each [N]


class CorpusPasses:
    """Forward passes of a model over the sequences of a corpus.

    Raises:
        SubjectError: the model has no such layer or hook point, or takes only shorter sequences.
    """

    def __init__(self, subject: Subject, corpus: TokenCorpus, hooks: Sequence[str], config: CaptureConfig) -> None:
        self.subject, self.corpus, self.config = subject, corpus, config
        self.hooks: list[ResolvedHook] = resolve_hooks(subject, [HookPoint.parse(hook) for hook in hooks])
        self.num_prefix, self.num_suffix = not_kept(corpus, config)
        self._check_lengths()
        if subject.tokenizer is not None:  # models that share a tokenizer share corpora
            check_vocabulary(subject.tokenizer, subject.vocab_size, type(subject.model).__name__)

    def rows(self, split: Split, batch: NDArray[np.int64]) -> PassRows:
        """Run the sequences of these numbers, and keep the rows that are wanted."""
        rows = self.corpus.batch(split, batch)
        together = token_batch(self.subject, rows.token_ids, self.num_prefix, self.num_suffix)
        found = text_rows(self.subject, self.hooks, together)
        meta_N = {
            "document": torch.from_numpy(rows.document)[found.sequence_N],
            "sequence": torch.from_numpy(batch)[found.sequence_N],
            "position": torch.from_numpy(rows.start)[found.sequence_N] + found.place_N - self.corpus.num_prefix,
            "token_id": together.ids_BT.cpu()[together.text_BT],
        }
        return PassRows(
            {point: narrowed(acts_ND, self.config.storage_dtype) for point, acts_ND in found.acts.items()},
            {name: column.to(torch.int32).numpy() for name, column in meta_N.items()},
        )

    def _check_lengths(self) -> None:
        limit = self.subject.max_positions
        longest = max(int(self.corpus.lengths(split).max(initial=0)) for split in SPLITS)
        if limit is not None and longest > limit:
            message = (
                f"{self.corpus.artifact.uri} has sequences of {longest} tokens, and the model "
                f"({type(self.subject.model).__name__}) takes at most {limit}. "
                f"Run ingest with a context_length of at most {limit}."
            )
            raise SubjectError(message)


def not_kept(corpus: TokenCorpus, config: CaptureConfig) -> tuple[int, int]:
    """How many special tokens at the start and at the end of each sequence are left out."""
    return (0, 0) if config.include_special else (corpus.num_prefix, corpus.num_suffix)


def corpus_plan(corpus: TokenCorpus, config: CaptureConfig, split: Split, widest: int) -> CapturePlan:
    """Which sequences of a split go into which shard and which forward pass.

    Args:
        corpus: the sequences.
        config: what is captured.
        split: train or heldout.
        widest: width of the widest of all hook points of ``config``.
    """
    return plan_capture(
        corpus.lengths(split),
        sum(not_kept(corpus, config)),
        shard_rows=max(config.shard_bytes // (2 * widest), 1),
        batch_tokens=config.batch_size * corpus.context_length,
        max_rows=config.max_tokens if split == "train" else None,
    )
