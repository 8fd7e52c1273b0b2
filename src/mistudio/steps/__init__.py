"""The batch steps as functions of plain values, for the command line and for KFP components."""

from collections.abc import Callable

from mistudio.steps.batch import capture, evaluate, ingest, report, train
from mistudio.steps.explaining import explain, score
from mistudio.steps.finding import find, find_part
from mistudio.steps.gate import fail_gate, gate
from mistudio.steps.quality import probe, stability
from mistudio.steps.running import StepOutput, artifact_uri
from mistudio.steps.sweep import compare, grid
from mistudio.steps.together import train_together

BATCH_STEPS: dict[str, Callable[..., StepOutput]] = {
    "ingest": ingest,
    "capture": capture,
    "train": train,
    "evaluate": evaluate,
    "find": find,
    "find_part": find_part,
    "explain": explain,
    "score": score,
    "report": report,
    "stability": stability,
    "probe": probe,
    "compare": compare,
}

__all__ = [
    "BATCH_STEPS",
    "StepOutput",
    "artifact_uri",
    "capture",
    "compare",
    "evaluate",
    "explain",
    "fail_gate",
    "find",
    "find_part",
    "gate",
    "grid",
    "ingest",
    "probe",
    "report",
    "score",
    "stability",
    "train",
    "train_together",
]
