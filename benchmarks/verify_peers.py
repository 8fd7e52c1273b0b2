"""Known features recovered, ours against SAELens, on the same rows in the same order and as many of them.

Runs in the virtual environment of the peers, as the other comparisons do (``python -m benchmarks.verify_peers``). The
rows are those of ``mistudio verify-method --checks superposed``: sums of known features. Ours is trained as that check
does, at a learning rate that was chosen for all architectures on seed 1000. SAELens's is the best of four for each, on
the same seed, and where a penalty keeps latents few, its weight is steered to the number of features on a row. Prints a
table and writes ``build/bench/verify_peers.json``.

Shape legend: T rows, D their width, F latents.
"""

import argparse
import os
from collections.abc import Iterator
from statistics import fmean

import torch
from torch import Tensor

from benchmarks import reporting
from benchmarks.contenders import PENALISED, SAELens, Shape, saelens_config
from benchmarks.reporting import Row
from mistudio.artifacts import open_store
from mistudio.verify.recovery import Recovery, match
from mistudio.verify.rows import seeds_row
from mistudio.verify.superposition import ARCHITECTURES, EASY, SyntheticConfig, SyntheticRows, superposed

TUNING_SEED = 1000
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
DEAD_AFTER_ROWS = 200_000  # as ours counts


def theirs(architecture: str, config: SyntheticConfig, seed: int, rate: float) -> Recovery:
    """Train SAELens's autoencoder and hold it against the features."""
    stream = SyntheticRows(config, seed)
    values_TG, rows_TD = stream.heldout()
    mean_active = float((values_TG > 0).float().sum(dim=1).mean())
    shape = Shape(config.width, config.features, round(mean_active), config.batch_size)
    num_steps = config.tokens // config.batch_size
    peer = SAELens(
        saelens_config(architecture, shape, num_steps),
        _batches(SyntheticRows(config, seed)),
        shape,
        num_steps,
        target_l0=mean_active if architecture in PENALISED else None,
        seed=seed,
        lr=rate,
        dead_feature_window=DEAD_AFTER_ROWS // config.batch_size,
    )
    for _ in range(num_steps):
        peer.step(stream.next_batch())
    with torch.no_grad():
        latents_TF = peer.sae.encode(peer.trainer.activation_scaler.scale(rows_TD)).to_dense()
        return match(values_TG, latents_TF, stream.directions_GD, peer.sae.W_dec)


def _batches(stream: SyntheticRows) -> Iterator[Tensor]:
    while True:
        yield stream.next_batch()


def compared(store_url: str, architecture: str, config: SyntheticConfig, num_seeds: int) -> list[Row]:
    """Both over seeds, and their differences."""
    store = open_store(store_url)
    rate = max(RATES, key=lambda rate: theirs(architecture, config, TUNING_SEED, rate).correlation)
    own = [superposed(store, architecture, config, seed).sae for seed in range(num_seeds)]
    peer = [theirs(architecture, config, seed, rate) for seed in range(num_seeds)]
    rows = []
    for figure, name in (("correlation", "matched correlation"), ("cosine", "mean maximum cosine"), ("f1_any", "F1")):
        ours, others = ([getattr(recovery, figure) for recovery in found] for found in (own, peer))
        differences = [one - other for one, other in zip(ours, others, strict=True)]
        detail = f"{fmean(ours):.4f} to {fmean(others):.4f}, SAELens's learning rate {rate:g}"
        rows.append(seeds_row(f"{architecture}: {name}, ours less SAELens's", differences, "", detail, at_least=0.0))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", default="build/store", help="where our autoencoders are, or will be made")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    rows: list[Row] = []
    for architecture in chosen.architectures:
        rows += compared(chosen.store, architecture, EASY, chosen.seeds)
    used = reporting.versions("mistudio", "sae-lens")
    title = f"Known features recovered, {EASY.features} in {EASY.width} dimensions, {EASY.tokens:,} rows"
    reporting.publish("verify_peers", title, rows, reporting.describe_machine(), used)


if __name__ == "__main__":
    main()
