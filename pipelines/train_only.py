"""The main job up to its autoencoder, trained on several hosts: interpret with the same settings finds it."""

from typing import Any

from components.capture.component import capture
from components.ingest.component import ingest
from components.train_on_hosts.component import train_on_hosts
from pipelines._parameters import every, pipeline
from pipelines._placing import Loops
from pipelines.interpret import TAKES as INTERPRET

_OF_INTERPRET = ("model", "hook", "target_hook", "allow_wide")

TAKES = {
    "ingest": INTERPRET["ingest"],
    "capture": INTERPRET["capture"],
    "train_on_hosts": every("train_on_hosts", without=_OF_INTERPRET, tokens="train_tokens"),
}


@pipeline(
    "Read a corpus, capture a model's activations, and train a sparse autoencoder on them on several hosts, by a "
    "TrainJob of Kubeflow Trainer.",
    TAKES,
)
def train_only(given: dict[str, dict[str, Any]], _loops: Loops) -> None:
    """The main job up to its autoencoder, trained on several hosts."""
    ingested = ingest(**given["ingest"])
    captured = capture(corpus=ingested.outputs["tokenised_corpus"], **given["capture"])
    train_on_hosts(activations=captured.outputs["activations"], **given["train_on_hosts"])
