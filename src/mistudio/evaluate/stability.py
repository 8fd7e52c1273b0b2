"""Whether training again from another seed finds the same features.

Two dictionaries are compared by the cosines of their decoder rows. The rows of one are matched one to one
with those of the other so that the sum of cosines is largest (the Hungarian method), and a latent counts as
found again where its match is nearer than a threshold, 0.7 by default (Paulo and Belrose 2025, "Sparse
autoencoders trained on the same data learn different features", arXiv:2501.16615). The mean maximum cosine
(Sharkey et al. 2022) takes each row's nearest, whoever else has it, in both directions.

The control is a random dictionary in the place of the second of each pair: how much of all this comes from
many directions in few dimensions alone. Latents that never fire keep what directions they started with, and
count against an autoencoder here.

Shape legend: F features (latents), D width of the decoder's rows.
"""

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mistudio.artifacts import Artifact, Draft, JsonScalar, Produced, Recipe, Store, Summary, produce
from mistudio.errors import InputError
from mistudio.evaluate.config import StabilityConfig
from mistudio.evaluate.control import control_generator
from mistudio.evaluate.cosines import largest_cosines, match_rows
from mistudio.progress import progress
from mistudio.sae import hook_of, load_autoencoder, target_hook_of

STABILITY_NAME = "stability.json"


def stability(
    store: Store,
    saes: Sequence[Artifact],
    config: StabilityConfig | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Produced:
    """Publish how far the decoder rows of two or more autoencoders agree; the order of ``saes`` does not matter.

    Raises:
        InputError: there are fewer than two, the same one twice, or they cannot be compared.
    """
    config = config or StabilityConfig()
    saes = sorted(saes, key=lambda sae: sae.uri)
    hook = _check_comparable(saes)
    inputs = {f"sae_{number}": sae.ref for number, sae in enumerate(saes)}
    recipe = Recipe(kind="stability", config=config.model_dump(mode="json"), inputs=inputs, seed=seed)
    pairs = list(itertools.combinations(range(len(saes)), 2))

    def build(draft: Draft) -> Summary:
        with progress("Compare autoencoders", len(pairs), "pairs") as bar:
            for first, second in pairs:
                if not draft.has(match_name(first, second)):
                    a_FD, b_FD = (load_autoencoder(saes[number], device).W_dec for number in (first, second))
                    with draft.stage(match_name(first, second)) as path:
                        pq.write_table(_match(a_FD, b_FD, config, seed), path)
                bar.advance()
        return _publish(draft, saes, pairs, config, hook)

    return produce(store, recipe, "stability", build)


def match_name(first: int, second: int) -> str:
    """The file with the matching of two autoencoders, numbered as the inputs are."""
    return f"matches/{first:03d}-{second:03d}.parquet"


def _check_comparable(saes: Sequence[Artifact]) -> str:
    """Return the hook point that all are for."""
    uris = [sae.uri for sae in saes]
    if len(uris) < 2:
        message = f"Stability compares two or more autoencoders, not {len(uris)}. Train one more with another seed."
        raise InputError(message)
    if len(set(uris)) < len(uris):
        message = f"An autoencoder is named twice: {', '.join(uris)}. Name each once."
        raise InputError(message)
    shapes = {sae.uri: _shape(sae) for sae in saes}
    if len(set(shapes.values())) > 1:
        listed = "; ".join(f"{uri} has {shape}" for uri, shape in shapes.items())
        message = f"Only autoencoders of one width, trained for one hook point, can be compared: {listed}."
        raise InputError(message)
    return _hooks(saes[0])


def _shape(sae: Artifact) -> str:
    summary = sae.manifest.summary
    return f"{summary['width']:,} latents over {summary['d_in']:,} dimensions ({_hooks(sae)})"


def _hooks(sae: Artifact) -> str:
    target = target_hook_of(sae)
    return f"{hook_of(sae)} to {target}" if target else hook_of(sae)


def _match(a_FD: Tensor, b_FD: Tensor, config: StabilityConfig, seed: int) -> pa.Table:
    """One row a latent of the first dictionary; the control has the same columns."""
    random_FD = torch.randn(b_FD.shape, generator=control_generator(seed)).to(b_FD.device)
    columns = {"feature": np.arange(len(a_FD), dtype=np.int32)}
    for prefix, other_FD in (("", b_FD), ("random_", random_FD)):
        partner_F, cosine_F = match_rows(a_FD, other_FD, config.exact_width)
        columns |= {
            f"{prefix}match": partner_F.astype(np.int32),
            f"{prefix}cosine": cosine_F.astype(np.float32),
            f"{prefix}max_cosine": largest_cosines(a_FD, other_FD).cpu().numpy(),
            f"{prefix}max_cosine_of_match": largest_cosines(other_FD, a_FD).cpu().numpy()[partner_F],
        }
    return pa.table(columns)


def _publish(
    draft: Draft, saes: Sequence[Artifact], pairs: list[tuple[int, int]], config: StabilityConfig, hook: str
) -> Summary:
    """Figures of each pair, and their means over pairs."""
    rows: list[dict[str, JsonScalar]] = []
    figures: dict[str, list[float]] = {}
    for first, second in pairs:
        table = pq.read_table(draft.file(match_name(first, second)))
        measured = {**_figures(table, "", config), **_figures(table, "random_", config)}
        for name, value in measured.items():
            figures.setdefault(name, []).append(value)
        rows.append({"first": saes[first].uri, "second": saes[second].uri, **measured})
    draft.write(STABILITY_NAME, json.dumps({"pairs": rows}, indent=1).encode())
    means = {name: round(float(np.mean(values)), 6) for name, values in figures.items()}
    return {"autoencoders": len(saes), "pairs": len(pairs), "hook": hook, "width": table.num_rows, **means}


def _figures(table: pa.Table, prefix: str, config: StabilityConfig) -> dict[str, float]:
    """Means over the latents of a pair."""
    cosine_F, max_F, max_of_match_F = (
        table[f"{prefix}{name}"].to_numpy() for name in ("cosine", "max_cosine", "max_cosine_of_match")
    )
    control = f"control.{prefix}" if prefix else ""
    return {
        f"{control}matched_cosine": float(cosine_F.mean()),
        f"{control}max_cosine": float((max_F.mean() + max_of_match_F.mean()) / 2),
        f"{control}share_found_again": float((cosine_F > config.found_above).mean()),
    }
