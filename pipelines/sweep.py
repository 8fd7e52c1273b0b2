"""A sweep: many autoencoders on one capture, and how sparse each is against what it keeps."""

from typing import Any

from kfp import dsl

from components.capture.component import capture
from components.compare.component import compare
from components.evaluate.component import evaluate
from components.grid.component import grid
from components.ingest.component import ingest
from components.train.component import train
from pipelines._parameters import every, only, pipeline
from pipelines._placing import Loops

_TEXT = ("model", "corpus", "text_column", "context_length", "max_tokens", "ingest_settings")
_OF_A_POINT = ("architecture", "width", "k", "target_l0", "seed")

TAKES = {
    "grid": every("grid", without=("most_points",)),
    "ingest": only(*_TEXT, "store"),
    "capture": only(
        *("model", "hook", "layer", "dtype", "quantization", "model_settings", "capture_settings", "store")
    ),
    "train": only("train_settings", "model_settings", "store", tokens="train_tokens"),
    "evaluate": only("model", "evaluate_settings", "model_settings", "store"),
    "compare": only("keep", "store"),
}


@pipeline(
    "Capture a model's activations once, train and measure autoencoders of every architecture, width, sparsity and "
    "seed asked for, and draw L0 against what each keeps.",
    TAKES,
)
def sweep(given: dict[str, dict[str, Any]], loops: Loops) -> None:
    """Many autoencoders on one capture, and how sparse each is against what it keeps."""
    # First, so that a grid that cannot be trained is refused before anything long runs.
    points = grid(most_points=loops.most_points, **given["grid"])
    ingested = ingest(**given["ingest"]).after(points)
    captured = capture(corpus=ingested.outputs["tokenised_corpus"], **given["capture"])
    with dsl.ParallelFor(points.output, name="points", parallelism=loops.at_once) as point:
        own = {name: getattr(point, name) for name in _OF_A_POINT}
        trained = train(activations=captured.outputs["activations"], **own, **given["train"])
        evaluated = evaluate(sae=trained.outputs["sae"], **given["evaluate"])
    compare(evaluations=dsl.Collected(evaluated.outputs["evaluation"]), title="Sweep", **given["compare"])
