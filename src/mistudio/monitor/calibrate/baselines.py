"""What watched columns are compared with: difference of means, a linear probe, and random directions, at their hooks.

They are made as ``mistudio direction`` makes them, of texts' mean activations, and read as a watch list reads
directions: projected token by token, and pooled like the columns that they stand beside.

Shape legend: S samples, T tokens of a piece, B pieces of a batch, D width of a hook point.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.activations.plan import like_lengths
from mistudio.directions.fit import logistic, mean_difference
from mistudio.errors import InputError
from mistudio.monitor.calibrate.calibration import DIFFERENCE, PROBE, RANDOM
from mistudio.monitor.calibrate.config import CalibrateConfig
from mistudio.monitor.records import Sample
from mistudio.monitor.watch.batches import PieceBatch, piece_batch
from mistudio.monitor.watch.columns import Column, Vector
from mistudio.monitor.watch.passing import look_at
from mistudio.monitor.watch.pieces import pieces_of
from mistudio.monitor.watch.sample_tokens import SampleReader
from mistudio.monitor.watch.watch_list import Watched
from mistudio.subject import HookPoint, ResolvedHook, Subject, resolve_hooks

_PIECE_TOKENS = 2048
Means = dict[HookPoint, NDArray[np.float64]]


def baselines(
    subject: Subject,
    columns: Sequence[Column],
    texts: tuple[Sequence[Sample], Sequence[Sample]],
    config: CalibrateConfig,
    seed: int,
) -> tuple[list[Watched], dict[str, Vector]]:
    """Columns of directions to compare with, and the directions by name.

    Args:
        subject: the model.
        columns: that are watched.
        texts: positive ones, and reference texts; neither is used to measure anything.
        config: how probes are fitted, and how many random directions there are.
        seed: of the draws.

    Raises:
        InputError: activations of positive and of reference texts do not differ.
    """
    hooks = resolve_hooks(subject, [HookPoint.parse(hook) for hook in dict.fromkeys(one.hook for one in columns)])
    some = [each[: config.max_fitting] for each in texts]
    positive, reference = (mean_activations(subject, each, hooks, config.watch.batch_tokens) for each in some)
    vectors: dict[str, Vector] = {}
    for hook in hooks:
        acts_SD = np.concatenate([positive[hook.point], reference[hook.point]])
        is_S = np.arange(len(acts_SD)) < len(positive[hook.point])
        made = {DIFFERENCE: mean_difference(acts_SD, is_S), PROBE: logistic(acts_SD, is_S, config.c)}
        draw = np.random.default_rng([seed, hook.point.layer])
        made |= {f"{RANDOM}.{number}": draw.standard_normal(hook.width) for number in range(config.controls)}
        for name, vector_D in made.items():
            if not np.linalg.norm(vector_D):
                message = f"Activations at {hook.point} do not differ between positive and reference texts."
                raise InputError(message)
            called = f"{name}.{hook.point}"
            vectors[called] = Vector(hook.point, torch.from_numpy(vector_D).float(), called, called)
    ways = dict.fromkeys((one.hook, one.watched.part, one.watched.pool, one.watched.top) for one in columns)
    watched = []
    for hook_name, part, pool, top in ways:
        way = f"{part}.{pool}" + (f".{top}" if pool == "top" else "")
        for called, vector in vectors.items():
            if str(vector.hook) == hook_name:
                name = f"{called}.{way}"
                watched.append(Watched(name=name[-64:], direction=called, part=part, pool=pool, top=top))
    return watched, vectors


def kind_of(one: Watched) -> str:
    """Which kind of direction a column to compare with is."""
    return str(one.direction).partition(".")[0]


@torch.inference_mode()
def mean_activations(
    subject: Subject, samples: Sequence[Sample], hooks: Sequence[ResolvedHook], batch_tokens: int
) -> Means:
    """The mean activation of each text at hook points [S, D]; texts without tokens are left out."""
    reader = SampleReader(subject, _PIECE_TOKENS)
    tokens = [each for each in reader.read(samples) if not isinstance(each, InputError) and each.counts_T.any()]
    sums = {hook.point: np.zeros((len(tokens), hook.width)) for hook in hooks}
    most = min(subject.max_positions or _PIECE_TOKENS, _PIECE_TOKENS)
    pieces = list(pieces_of(tokens, most, 0))
    for number_B in like_lengths(np.array([len(piece.ids_T) for piece in pieces], dtype=np.int32), batch_tokens):
        own = [pieces[number] for number in number_B.tolist()]
        sample_B = np.array([piece.sample for piece in own])
        batch = piece_batch(subject, own)
        looks = [(hook, partial(_add, sums[hook.point], sample_B, batch)) for hook in hooks]
        look_at(subject, looks, batch.ids_BT, batch.mask_BT)
    count_S1 = np.array([one.counts_T.sum() for one in tokens])[:, None]
    return {point: sum_SD / count_S1 for point, sum_SD in sums.items()}


def _add(sum_SD: NDArray[np.float64], sample_B: NDArray[np.int64], batch: PieceBatch, acts_BTD: Tensor) -> None:
    total_BD = (acts_BTD.float() * batch.counts_BT[..., None]).sum(dim=1)
    np.add.at(sum_SD, sample_B, total_BD.double().cpu().numpy())
