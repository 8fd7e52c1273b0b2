"""How far from all others a model's outliers lie, how many they are, and what part of the variance they are.

Run as ``python -m benchmarks.outliers --model FOLDER --hooks resid_post.7,resid_post.15`` in the root of the checkout.
Distances are those that ``max_norm_ratio`` limits: from the median of each dimension, over the median distance. One
row is one hook point: the first token of a sequence beside all others, the widest gap between two neighbouring
distances, and for each limit the tokens beyond it with their part of the variance. Without a BOS too, as the sink of a
model is on the first token of the text then. Writes ``build/bench/outliers.json``, and the table in Markdown.

Shape legend: N tokens, D width of a hook point.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import reporting
from mistudio.activations import ActivationReader, CaptureConfig, capture
from mistudio.artifacts import InputRef, open_store
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.ingest import ingest
from mistudio.corpus.sources import open_source
from mistudio.subject import SubjectConfig, SubjectSource, load_tokenizer, resolve_source, token_strings

LIMITS = (3, 5, 8, 10, 20, 50)
_LEAST_GAP = 2.0  # spaces between ratios below are those of the body of the distribution
_TOKENS_NAMED = 3

Row = dict[str, str]


class Distances(NamedTuple):
    """The tokens at one hook point."""

    ratio_N: NDArray[np.float64]  # distance from the middle over the median distance
    variance_N: NDArray[np.float64]  # squared distance from the mean of all, as FVU divides by
    first_N: NDArray[np.bool_]  # the first token of a sequence that is no special one
    token_N: NDArray[np.int32]


def measure(reader: ActivationReader) -> Distances:
    """Distances of all rows of a split."""
    acts_ND, meta = reader.acts(0, len(reader)).double(), reader.meta(0, len(reader))
    distance_N = (acts_ND - acts_ND.median(dim=0).values).norm(dim=1)
    first_N = np.diff(meta["sequence"], prepend=-1) != 0
    return Distances((distance_N / distance_N.median()).numpy(), _variances(acts_ND), first_N, meta["token_id"])


def gap(ratio_N: NDArray[np.float64]) -> tuple[float, float] | None:
    """The two neighbouring ratios that are the most times apart, the upper one above 2; None where none is."""
    sorted_N = np.sort(ratio_N)
    above = np.flatnonzero(sorted_N[1:] > _LEAST_GAP)
    if not len(above):
        return None
    lower = above[np.argmax(sorted_N[above + 1] / sorted_N[above])]
    return float(sorted_N[lower]), float(sorted_N[lower + 1])


def row_of(what: str, found: Distances, names: Sequence[str]) -> Row:
    """What is told of one hook point."""
    beyond_N = found.ratio_N > LIMITS[0]
    between = gap(found.ratio_N)
    return {
        "hook point": what,
        "tokens": f"{len(found.ratio_N):,}",
        "first: median": f"{np.median(found.ratio_N[found.first_N]):.1f}",
        "others: 99%, most": " ".join(f"{each:.1f}" for each in np.quantile(found.ratio_N[~found.first_N], (0.99, 1))),
        "gap": "none" if between is None else f"{between[0]:.1f}-{between[1]:.1f}",
        **{f"beyond {limit}": _share(found, limit) for limit in LIMITS},
        f"tokens beyond {LIMITS[0]}": _named(found.token_N[beyond_N & ~found.first_N], names),
    }


def _share(found: Distances, limit: float) -> str:
    beyond_N = found.ratio_N > limit
    variance = found.variance_N[beyond_N].sum() / found.variance_N.sum()
    return f"{beyond_N.sum():,} ({variance:.1%})" if beyond_N.any() else "0"


def _named(token_N: NDArray[np.int32], names: Sequence[str]) -> str:
    most = Counter(token_N.tolist()).most_common(_TOKENS_NAMED)
    return ", ".join(f"{names[token]!r} {count}" for token, count in most)


def _variances(acts_ND: Tensor) -> NDArray[np.float64]:
    return (acts_ND - acts_ND.mean(dim=0)).square().sum(dim=1).numpy()


def rows_of(
    source: SubjectSource, hooks: Sequence[str], text: str, config: IngestConfig, folder: Path
) -> Iterator[Row]:
    """Capture a text at some hook points and look at every token of the training documents."""
    store, tokenizer = open_store(str(folder)), load_tokenizer(source)
    reference = InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest)
    corpus = ingest(store, open_source(text, store), tokenizer, reference, config).artifact
    subject = SubjectConfig(device="cpu", dtype="float32")
    activations = capture(store, corpus, source, subject, CaptureConfig(hooks=tuple(hooks))).artifact
    begins = "" if config.add_special_tokens else ", no BOS"
    for hook in hooks:
        what = f"{source.name} {hook}, {config.context_length} tokens{begins}"
        yield row_of(what, measure(ActivationReader(activations, hook, "train")), token_strings(tokenizer))


def publish(rows: Sequence[Row]) -> None:
    """Print the table in Markdown, and write the rows beside machine and versions."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    about = {"machine": reporting.describe_machine(), "versions": reporting.versions("transformers")}
    reporting.FOLDER.mkdir(parents=True, exist_ok=True)
    path = reporting.FOLDER / "outliers.json"
    path.write_text(json.dumps([{**row, **about} for row in rows], indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure one model, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or id")
    parser.add_argument("--hooks", required=True, help="hook points, with commas")
    parser.add_argument("--text", default="python-docs", help="corpus")
    parser.add_argument("--contexts", default="512,128", help="lengths of sequences, with commas")
    parser.add_argument("--tokens", type=int, default=12_000)
    given = parser.parse_args()
    source, rows = resolve_source(given.model), list[Row]()
    with tempfile.TemporaryDirectory() as folder:
        for length in map(int, given.contexts.split(",")):
            for special in (True, False):
                config = IngestConfig(context_length=length, max_tokens=given.tokens, add_special_tokens=special)
                rows += rows_of(source, given.hooks.split(","), given.text, config, Path(folder))
    publish(rows)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
