"""Forward passes over a corpus: what capture writes to shards, and what a live source serves.

A pass stops at the deepest hook point, and keeps the wanted positions only.

Shape legend: B sequences, T tokens, D width of a hook point, N kept rows.
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
from mistudio.subject import HookPoint, ResolvedHook, Subject, resolve_hooks, run_captured


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

    def rows(self, split: Split, batch: NDArray[np.int64]) -> PassRows:
        """Run the sequences of these numbers, and keep the rows that are wanted."""
        rows = self.corpus.batch(split, batch)
        ids_BT, mask_BT, real_BT = batch_tensors(rows.token_ids, self.subject.device, causal=self.subject.is_causal)
        captured = run_captured(self.subject, self.hooks, ids_BT, mask_BT)
        lengths_B = real_BT.sum(dim=1)
        place_T = torch.arange(ids_BT.shape[1])
        keep_BT = (place_T >= self.num_prefix) & (place_T < lengths_B[:, None] - self.num_suffix)
        row_N, place_N = torch.nonzero(keep_BT, as_tuple=True)
        sequence_B = torch.from_numpy(batch)
        meta_N = {
            "document": torch.from_numpy(rows.document)[row_N],
            "sequence": sequence_B[row_N],
            "position": torch.from_numpy(rows.start)[row_N] + place_N - self.corpus.num_prefix,
            "token_id": ids_BT.cpu()[keep_BT],
        }
        flat_N = (row_N * ids_BT.shape[1] + place_N).to(self.subject.device)
        return PassRows(
            {
                point: narrowed(acts_BTD.flatten(0, 1).index_select(0, flat_N), self.config.storage_dtype)
                for point, acts_BTD in captured.items()
            },
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


def batch_tensors(
    tokens: list[NDArray[np.int32]], device: torch.device, *, causal: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Right-padded ids [B, T], the attention mask the model needs (or None) and which tokens are real [B, T].

    A causal model never looks at what comes later, so padding on the right needs no mask.
    """
    lengths_B = torch.tensor([len(ids) for ids in tokens])
    ids_BT = torch.zeros(len(tokens), int(lengths_B.max()), dtype=torch.int64)
    for row, ids in enumerate(tokens):
        ids_BT[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
    real_BT = torch.arange(ids_BT.shape[1]) < lengths_B[:, None]
    needs_mask = not causal and not bool(real_BT.all())
    mask_BT = real_BT.long().to(device) if needs_mask else None
    return ids_BT.to(device), mask_BT, real_BT
