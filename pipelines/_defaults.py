"""What holds where a placement says nothing, by step and for all."""

from functools import cache
from pathlib import Path
from typing import Any

from mistudio.steps import Step

GIB = 1 << 30
_PLAIN_BYTES = 2 * GIB  # a step that loads no model and trains none
_DECIDING_BYTES = GIB // 2  # one that reads a summary
BESIDE_BYTES = GIB // 2  # what starts a step: Kubeflow's executor, and MLflow's client
LIMIT_RATIO = 1.5  # a limit that is reached kills; an estimate is no promise
SCRATCH_BESIDE_GIB = 2  # files that are being written, and what a machine keeps for itself

DECIDES = frozenset({"grid", "gate", "fail_gate"})  # the same again would be the same answer

# Of all steps.
_EVERY: dict[str, Any] = {
    "gpus": 0,
    "gpu_kind": "gpu",
    "cpu_request": "250m",
    "cpu_limit": "1",
    "memory_request": "auto",
    "memory_limit": "auto",
    "scratch": "auto",
    "timeout_hours": 2.0,
    "retries": 0,
    "retry_wait_s": 30,
    "retry_longest_wait_s": 600,
    "node_selector": {},
    "tolerations": (),
    "env": {},
    "labels": {},
    "annotations": {},
}
_PUBLISHES = {"retries": 2}  # it reads and writes the store, and goes on where it was
_COMPUTES = {"cpu_request": "1", "cpu_limit": "4"}
# Long enough for a large corpus, short enough that a pod that hangs is found the next day.
_HOURS = {
    "ingest": 12.0,
    "capture": 24.0,
    "train": 48.0,
    "train_on_hosts": 48.0,
    "find_part": 24.0,
    "find": 24.0,
    "find_more": 24.0,
    "explain": 24.0,
    "score": 24.0,
    "evaluate": 6.0,
    "probe": 6.0,
    "stability": 6.0,
    "direction": 6.0,
    "steer_evaluate": 12.0,
    "calibrate": 6.0,
}
SECRETS: dict[str, dict[str, Any]] = {
    "store": {
        "name": "mistudio-s3",
        "keys": {
            name: name
            for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        },
        "needed_by": "store",
    },
    "judge": {
        "name": "mistudio-judge",
        "keys": {"MISTUDIO_LLM_API_KEY": "MISTUDIO_LLM_API_KEY"},
        "optional": True,
        "needed_by": "judge",
    },
    "signing": {
        "name": "mistudio-signing",
        "keys": {"MISTUDIO_SIGNING_KEY": "MISTUDIO_SIGNING_KEY"},
        "optional": True,
        "needed_by": "store",
    },
}
# The keys that predictors ask for: of the step that deploys to them alone.
SECRETS["predictors"] = {
    "name": "mistudio-api-keys",
    "keys": {"MISTUDIO_API_KEYS": "MISTUDIO_API_KEYS"},
    "optional": True,
    "needed_by": "predictors",
}
CONFIG_MAPS: dict[str, dict[str, Any]] = {
    "store": {"name": "mistudio-settings", "keys": {"MISTUDIO_STORE": "MISTUDIO_STORE"}, "needed_by": "store"},
    "tracking": {
        "name": "mistudio-settings",
        "keys": {"MLFLOW_TRACKING_URI": "MLFLOW_TRACKING_URI"},
        "optional": True,
    },
}


def of(step: Step | None) -> dict[str, Any]:
    """Everything of a step, but what is worked out; None: of a component that is no declared step."""
    if step is None:
        return _EVERY
    computes = _COMPUTES if step.output is not None and step.name not in ("report", "compare") else {}
    publishes = _PUBLISHES if step.output is not None else {}
    return {**_EVERY, **computes, **publishes, "timeout_hours": _HOURS.get(step.name, _EVERY["timeout_hours"])}


def plain_bytes(step: Step | None) -> int:
    """Memory of a step that check-memory has no estimate of."""
    return _DECIDING_BYTES if step is not None and step.name in DECIDES else _PLAIN_BYTES


@cache
def component_names() -> list[str]:
    """All components, in the order of their names."""
    return sorted(path.parent.name for path in (Path(__file__).parents[1] / "components").glob("*/component.py"))
