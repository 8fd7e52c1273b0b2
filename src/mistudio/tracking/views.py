"""How an experiment looks when it is opened: its kind, what is said of it, and views with the columns that matter.

MLflow's web interface keeps a view that is shared (columns, order, filter) as a tag of the experiment, and opens it by
its key in the address. Two are written so: the runs of pipelines, and all autoencoders, those of sweeps included.
"""

import json
from collections.abc import Mapping

KIND = "mlflow.experimentKind"
NOTE = "mlflow.note.content"
_MACHINE_LEARNING = "custom_model_development"  # without it MLflow 3 takes runs that log no model for GenAI
_DESCRIPTION = """Sparse autoencoders and what they find in language models, by miStudio.

A pipeline is one run; each step that computed something is a run nested under it. `interpret` makes one autoencoder
and reads its features; `sweep` makes many and compares them. What they made lies in the store: each run says where
(`<step>.uri`) and which bytes (`<step>.digest`).
"""
_NAME = "attributes.`Run Name`"
_NAME_WIDTH, _WIDTH = 400, 130  # pixels
_SHARED = "mlflow.sharedViewState."
# Tags of runs: of which pipeline or step one is, and whether its figures are those of an autoencoder.
PIPELINE, STEP, AUTOENCODER = "mistudio.pipeline", "mistudio.step", "mistudio.autoencoder"
# What the runs of autoencoders have in common, however they were made.
FACTS = ("model", "hook", "architecture", "width", "sparsity", "seed")
FIGURES = ("ce_recovered", "explained_variance", "l0", "dead_fraction", "interpretable")
# Key of a view -> which runs it shows.
VIEWS = {"runs": f"tags.`{PIPELINE}` != 'none'", "autoencoders": f"tags.`{AUTOENCODER}` = 'yes'"}


def experiment_tags(there: Mapping[str, str]) -> dict[str, str]:
    """The tags that an experiment lacks which has those that are ``there``; a kind or description given stays."""
    fixed = {KIND: _MACHINE_LEARNING, NOTE: _DESCRIPTION}
    own = {f"{_SHARED}{key}": _view(runs) for key, runs in VIEWS.items()}
    return {name: value for name, value in fixed.items() if name not in there} | {
        name: value for name, value in own.items() if there.get(name) != value
    }


def view_path(experiment: str, key: str) -> str:
    """Where below the server's address a view is opened."""
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={key}"


def _view(runs: str) -> str:
    columns = [*(f"metrics.`{name}`" for name in FIGURES), *(f"tags.`{name}`" for name in FACTS), "attributes.`Dataset`"]
    state = {
        "searchFilter": runs,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": [_NAME, *columns],
        "columnWidths": {_NAME: _NAME_WIDTH, **dict.fromkeys(columns, _WIDTH)},
        "hideEmptyCharts": True,
    }
    return json.dumps(state)
