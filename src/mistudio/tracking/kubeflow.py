"""What Kubeflow's MLflow plugin says to the container of a task.

The plugin makes a run for the pipeline and one nested run for each task, and sets in the container ``MLFLOW_RUN_ID``,
``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_ID``, with workspaces ``MLFLOW_WORKSPACE``, and how to authenticate
(``MLFLOW_TRACKING_AUTH``, ``MLFLOW_TRACKING_TOKEN``, or ``MLFLOW_TRACKING_USERNAME`` and ``_PASSWORD``), which MLflow's
client reads by itself. ``KFP_MLFLOW_CONFIG``, by which it tells its own launcher, is there too.

When the task has ended the launcher logs to its run the task's parameters as they were given, written as JSON, and the
figures of its Metrics artifacts, in one batch, and closes the run. MLflow refuses a batch with a parameter that is
there with another value. So a step leaves both to the launcher, and calls what it used of its settings otherwise. What
the launcher does not know, such as which autoencoder a figure is of, goes to the run of the pipeline.
"""

import os

from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.tracking.where import RUN_ENV

CONFIG_ENV = "KFP_MLFLOW_CONFIG"
USED = "config."  # before the name of a setting


def pipeline_run_id() -> str:
    """The id of the run of the whole pipeline, in a task whose run Kubeflow's plugin made; else empty."""
    config = os.environ.get(CONFIG_ENV)
    if not config or not os.environ.get(RUN_ENV):
        return ""
    try:
        content = parse_json(config)
    except RefusedJSON:
        return ""
    found = content.get("parentRunId") if isinstance(content, dict) else None
    return found if isinstance(found, str) else ""
