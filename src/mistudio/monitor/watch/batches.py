"""Pieces of samples side by side, and what is made of a batch: the largest values of each column, and what fired.

Shape legend: B pieces of a batch, T tokens of a piece, D width of a hook point, U columns of a block, M largest values,
A active (piece, feature) pairs, F features.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.instrument.session import PlacedAutoencoder
from mistudio.monitor.records import Fired
from mistudio.monitor.watch.columns import Block
from mistudio.monitor.watch.passing import Look, look_at
from mistudio.monitor.watch.pieces import Piece
from mistudio.monitor.watch.pooling import Tops, one_after_the_other, side_by_side, tops
from mistudio.monitor.watch.realigned import ActsMap, Readings
from mistudio.subject import HookPoint, ResolvedHook, Subject, token_batch

_CACHED_VALUES = 1 << 18
_LookAt = Callable[[HookPoint, Tensor], None]


class PieceBatch(NamedTuple):
    """Pieces side by side, padded at the end."""

    ids_BT: Tensor
    mask_BT: Tensor | None
    counts_BT: Tensor
    reply_BT: Tensor  # tokens of answers that count
    place_BT: Tensor  # which token of its sample each is


class Seen(NamedTuple):
    """What was seen in a batch, in the order of its pieces."""

    head: Tops  # over what is not of an answer
    tail: Tops | None  # over answers; None: there is none
    fired: dict[str, list[Fired]]


def piece_batch(subject: Subject, pieces: Sequence[Piece]) -> PieceBatch:
    """Put pieces side by side."""
    batch = token_batch(subject, [piece.ids_T for piece in pieces])
    shape, device = tuple(batch.ids_BT.shape), batch.ids_BT.device
    counts_BT, reply_BT = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    place_BT = np.zeros(shape, dtype=np.int64)
    for row, piece in enumerate(pieces):
        length = len(piece.ids_T)
        counts_BT[row, :length], place_BT[row, :length] = piece.counts_T, piece.place_T
        reply_BT[row, :length] = piece.is_reply_T & piece.counts_T
    tensors = (torch.from_numpy(each).to(device) for each in (counts_BT, reply_BT, place_BT))
    return PieceBatch(batch.ids_BT, batch.mask_BT, *tensors)


class BatchReader:
    """Reads batches: one pass for all hook points, columns pooled where they are read.

    Args:
        subject: the model.
        blocks: of columns.
        in_full: autoencoders of which everything that fires is told.
        most: largest values that are kept, of the columns of each block.
        readings: how everything that fires is read in a new version of the model; None: as it is.
    """

    def __init__(
        self,
        subject: Subject,
        blocks: Sequence[Block],
        in_full: Sequence[PlacedAutoencoder],
        most: Sequence[int],
        readings: Readings | None = None,
    ) -> None:
        self._readings = readings
        self._subject, self._in_full, self._most = subject, tuple(in_full), tuple(most)
        self._blocks: dict[HookPoint, list[tuple[int, Block]]] = {}
        self.hooks: dict[HookPoint, ResolvedHook] = {}
        for number, block in enumerate(blocks):
            self._blocks.setdefault(block.hook.point, []).append((number, block))
            self.hooks.setdefault(block.hook.point, block.hook)
        for placed in in_full:
            self.hooks.setdefault(placed.ends.read.point, placed.ends.read)

    def pooled(self, batch: PieceBatch, *, by_part: bool) -> Seen:
        """The largest values of each column, in the order of the blocks, and what fired."""
        has_tail = by_part and bool(batch.reply_BT.any())
        head_BT = batch.counts_BT & ~batch.reply_BT if has_tail else batch.counts_BT
        heads: defaultdict[int, list[Tops]] = defaultdict(list)
        tails: defaultdict[int, list[Tops]] = defaultdict(list)
        fired: dict[str, list[Fired]] = {}

        def look(point: HookPoint, acts_BTD: Tensor) -> None:
            for number, block in self._blocks.get(point, ()):
                for rows in _cached_rows(acts_BTD, len(block.columns)):
                    value_BTU, most = block.read(acts_BTD[rows]), self._most[number]
                    if has_tail:
                        tail = tops(value_BTU.clone(), batch.reply_BT[rows], batch.place_BT[rows], most)
                        tails[number].append(tail)
                    heads[number].append(tops(value_BTU, head_BT[rows], batch.place_BT[rows], most))
            for placed in self._in_full:
                if placed.ends.read.point == point:
                    each = None if self._readings is None else self._readings.of_all(str(point))
                    fired[placed.uri] = _fired(placed, acts_BTD, batch.counts_BT, each)

        look_at(self._subject, self._looks(look), batch.ids_BT, batch.mask_BT)
        return Seen(_in_order(heads), _in_order(tails) if has_tail else None, fired)

    def values(self, batch: PieceBatch) -> Tensor:
        """Each column on each token [B, T, W], in the order of the blocks, on the CPU."""
        found: dict[int, Tensor] = {}

        def look(point: HookPoint, acts_BTD: Tensor) -> None:
            for number, block in self._blocks.get(point, ()):
                found[number] = block.read(acts_BTD).cpu()

        look_at(self._subject, self._looks(look), batch.ids_BT, batch.mask_BT)
        return torch.cat([found[number] for number in sorted(found)], dim=-1)

    def bare(self, batch: PieceBatch) -> None:
        """The same pass without reading anything: what watching is measured against."""
        look_at(
            self._subject, [(hook, lambda _acts: None) for hook in self.hooks.values()], batch.ids_BT, batch.mask_BT
        )

    def _looks(self, look: _LookAt) -> list[tuple[ResolvedHook, Look]]:
        return [(hook, _bound(look, point)) for point, hook in self.hooks.items()]


def _bound(look: _LookAt, point: HookPoint) -> Look:
    return lambda acts_BTD: look(point, acts_BTD)


def _in_order(found: Mapping[int, Sequence[Tops]]) -> Tops:
    return side_by_side([one_after_the_other(found[number]) for number in sorted(found)])


def _cached_rows(acts_BTD: Tensor, width: int) -> Iterator[slice]:
    """Pieces whose values are made and pooled at once: on a CPU so few that these stay in a core's cache."""
    num_pieces, num_tokens = acts_BTD.shape[:2]
    step = num_pieces
    if acts_BTD.device.type == "cpu":
        step = max(_CACHED_VALUES // (num_tokens * width), 1)
    yield from (slice(start, start + step) for start in range(0, num_pieces, step))


def _fired(placed: PlacedAutoencoder, acts_BTD: Tensor, counts_BT: Tensor, mapped: ActsMap | None) -> list[Fired]:
    """What fired on the tokens that count, piece by piece."""
    sae = placed.sae
    acts_ND = acts_BTD[counts_BT]
    active = sae.encode_active((acts_ND if mapped is None else mapped(acts_ND)).to(sae.W_dec))
    piece_N = counts_BT.nonzero()[:, 0].cpu().numpy()
    token_A, feature_A, value_A = (each.cpu().numpy() for each in active)
    key_A = piece_N[token_A] * sae.width + feature_A
    keys, counts, largest = _by_key(key_A, np.ones(len(key_A), dtype=np.int64), value_A.astype(np.float32))
    ends = np.searchsorted(keys, np.arange(len(counts_BT) + 1) * sae.width)
    return [
        Fired(keys[start:end] - row * sae.width, counts[start:end], largest[start:end])
        for row, (start, end) in enumerate(zip(ends[:-1], ends[1:], strict=True))
    ]


def fired_together(some: Sequence[Fired]) -> Fired:
    """What fired in several pieces of one sample."""
    if len(some) == 1:
        return some[0]
    return Fired(*_by_key(*(np.concatenate(parts) for parts in zip(*some, strict=True))))


def _by_key(
    key_A: NDArray[np.int64], count_A: NDArray[np.int64], value_A: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Each key once, ascending, with the sum of its counts and its largest value."""
    if not len(key_A):
        return key_A.astype(np.int64), count_A, value_A
    order_A = np.argsort(key_A, kind="stable")
    ordered_A = key_A[order_A]
    first = np.flatnonzero(np.diff(ordered_A, prepend=ordered_A[0] - 1))
    counts = np.add.reduceat(count_A[order_A], first)
    return ordered_A[first], counts, np.maximum.reduceat(value_A[order_A], first)
