"""How an experiment looks when it is opened: its kind, what is said of it, and views with the columns that matter.

MLflow's web interface keeps a view that is shared (columns, order, filter) as a tag of the experiment, and opens it by
its key in the address. The runs of pipelines are written so.
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
_NAME_WIDTH, _WIDTH = 360, 140  # pixels
_SHARED = "mlflow.sharedViewState."
# Tags of runs: of which pipeline or step one is, and whether its figures are those of an autoencoder.
PIPELINE, STEP, AUTOENCODER = "mistudio.pipeline", "mistudio.step", "mistudio.autoencoder"
# What the runs of autoencoders have in common, however they were made.
FACTS = ("model", "hook", "architecture", "width", "sparsity", "seed")
FIGURES = ("ce_recovered", "explained_variance", "l0", "dead_fraction", "interpretable")
VIEW = "pipelines"
_OF_PIPELINES = f"tags.`{PIPELINE}` != 'none'"


def experiment_tags(there: Mapping[str, str]) -> dict[str, str]:
    """The tags that an experiment lacks which has those that are ``there``; a kind or description given stays."""
    fixed = {KIND: _MACHINE_LEARNING, NOTE: _DESCRIPTION}
    own = {f"{_SHARED}{VIEW}": _view()}
    return {name: value for name, value in fixed.items() if name not in there} | {
        name: value for name, value in own.items() if there.get(name) != value
    }


def pages(experiment: str) -> dict[str, str]:
    """What is worth opening below the server's address.

    Whether MLflow shows its pages for GenAI or for machine learning is the browser's, unless the address says it.
    """
    kind = "workflowType=machine_learning"
    return {
        "Pipelines": f"#/experiments/{experiment}/runs?{kind}&viewStateShareKey={VIEW}",
        "Autoencoders": f"#/experiments/{experiment}/models?{kind}",
        "Registered": f"#/models?{kind}",
    }


def _view() -> str:
    columns = [
        *(f"metrics.`{name}`" for name in FIGURES),
        *(f"tags.`{name}`" for name in FACTS),
        "attributes.`Dataset`",
    ]
    state = {
        "searchFilter": _OF_PIPELINES,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": [_NAME, *columns],
        "columnWidths": {_NAME: _NAME_WIDTH, **dict.fromkeys(columns, _WIDTH)},
        "hideEmptyCharts": True,
    }
    return json.dumps(state)
