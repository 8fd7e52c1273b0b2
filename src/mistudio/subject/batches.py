"""Sequences of tokens side by side in one forward pass, and what passes the hook points at the tokens of their text.

All that runs the model over sequences goes through here: capture and live rows, evaluate, find and sessions. A causal
model never looks at what comes later, so padding at the end needs no mask there.

Shape legend: B sequences, T tokens, D width of a hook point, N tokens of text.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.subject.hooks import ResolvedHook, run_captured
from mistudio.subject.load import Subject
from mistudio.subject.points import HookPoint


class TokenBatch(NamedTuple):
    """Sequences side by side, padded at the end."""

    ids_BT: Tensor  # on the model's device
    mask_BT: Tensor | None  # the attention mask that the model needs, there too
    text_BT: Tensor  # which tokens are text, neither padding nor special; on the CPU


class TextRows(NamedTuple):
    """What a forward pass leaves of the text: a row a token, one sequence after the other."""

    acts: dict[HookPoint, Tensor]  # each [N, D], on the model's device and in its number format
    sequence_N: Tensor  # which sequence of the batch, on the CPU
    place_N: Tensor  # and which token of it, special ones counted


def token_batch(
    subject: Subject, token_ids: Sequence[NDArray[np.int32]], num_prefix: int = 0, num_suffix: int = 0
) -> TokenBatch:
    """Put sequences side by side.

    Args:
        subject: the model that is to read them.
        token_ids: of each sequence, special tokens included.
        num_prefix: special tokens at the start of each.
        num_suffix: special tokens at the end of each.
    """
    lengths_B1 = torch.tensor([len(ids) for ids in token_ids])[:, None]
    ids_BT = torch.zeros(len(token_ids), int(lengths_B1.max()), dtype=torch.int64)
    for row, ids in enumerate(token_ids):
        ids_BT[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
    place_T = torch.arange(ids_BT.shape[1])
    real_BT = place_T < lengths_B1
    needs_mask = not subject.is_causal and not bool(real_BT.all())
    mask_BT = real_BT.long().to(subject.device) if needs_mask else None
    text_BT = (place_T >= num_prefix) & (place_T < lengths_B1 - num_suffix)
    return TokenBatch(ids_BT.to(subject.device), mask_BT, text_BT)


def text_rows(subject: Subject, hooks: Sequence[ResolvedHook], batch: TokenBatch) -> TextRows:
    """Run a batch as far as the deepest of the hook points, and keep the rows of the text.

    Raises:
        SubjectError: the model did not pass one of the hook points.
    """
    captured = run_captured(subject, hooks, batch.ids_BT, batch.mask_BT)
    sequence_N, place_N = torch.nonzero(batch.text_BT, as_tuple=True)
    flat_N = sequence_N * batch.text_BT.shape[1] + place_N
    acts = {}
    for point in list(captured):  # one after the other, so that little is held twice
        acts_BTD = captured.pop(point)
        acts[point] = acts_BTD.flatten(0, 1).index_select(0, flat_N.to(acts_BTD.device))
    return TextRows(acts, sequence_N, place_N)
