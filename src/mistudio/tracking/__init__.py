"""MLflow: one run a pipeline and one nested run a step; the only package that imports mlflow.

A step that is found published computes nothing and logs nothing: its figures are on the pipeline's run all
the same. Where the Kubeflow plugin has made a run for the task (``MLFLOW_RUN_ID``), that run is continued.
Where mlflow is not installed, or ``MISTUDIO_TRACKING`` is ``off``, nothing is logged.

Tracking never decides over the work. What MLflow is asked is bounded in time, and where it cannot be reached, or its
database cannot be read or written, that is said in one line and the work goes on without it: ``mistudio mlflow sync``
logs later what was published meanwhile.

Everything that is sent goes through :func:`mistudio.redaction.redact`: no secret reaches MLflow.
"""

from mistudio.tracking.connection import Connection
from mistudio.tracking.datasets import Dataset
from mistudio.tracking.models import Model
from mistudio.tracking.opening import logged_digests, past_run, pipeline_run, step_run
from mistudio.tracking.registry import RegisteredVersion, mirror_registry, mirrored_digests
from mistudio.tracking.runs import Run
from mistudio.tracking.where import EXPERIMENT, PARENT_ENV, is_tracking, tracking_uri

__all__ = [
    "EXPERIMENT",
    "PARENT_ENV",
    "Connection",
    "Dataset",
    "Model",
    "RegisteredVersion",
    "Run",
    "is_tracking",
    "logged_digests",
    "mirror_registry",
    "mirrored_digests",
    "past_run",
    "pipeline_run",
    "step_run",
    "tracking_uri",
]
