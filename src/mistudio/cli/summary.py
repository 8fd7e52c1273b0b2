"""The closing table of a pipeline run, for people and as JSON for CI."""

from pathlib import Path
from typing import Any

import docstring_parser
from rich.console import Console
from rich.table import Table

from mistudio.artifacts import default_store_url, open_artifact, open_store
from mistudio.cli.checkout import kfp_functions, signature
from mistudio.cli.display import Event

_FIGURES = ("l0", "explained_variance", "dead_fraction", "ce_recovered")


def summarise(finished: dict[str, Event]) -> dict[str, Any]:
    """``tokens``, the figures of the evaluation, ``seconds`` and ``artifacts`` by step."""
    evaluation = finished["evaluate"]["summary"] if "evaluate" in finished else {}
    return {
        "tokens": finished["train"]["summary"]["tokens"] if "train" in finished else None,
        **{name: evaluation.get(name) for name in _FIGURES},
        "seconds": {step: event["seconds"] for step, event in finished.items()},
        "artifacts": {
            step: {"uri": event["uri"], "digest": event["digest"], "found": event["found"]}
            for step, event in finished.items()
        },
    }


def print_summary(closing: dict[str, Any], store: str) -> None:
    """Print the closing table, where the dashboard is, and how to open MLflow."""
    console = Console(soft_wrap=True)
    table = Table(show_header=False, title="Result", title_justify="left")
    table.add_row("tokens trained on", f"{closing['tokens']:,}")
    table.add_row("L0 (features active on a token)", _number(closing["l0"], ".2f"))
    table.add_row("explained variance", _number(closing["explained_variance"], ".4f"))
    table.add_row("dead features", _number(closing["dead_fraction"], ".2%"))
    table.add_row("CE recovered", _number(closing["ce_recovered"], ".4f"))
    seconds = ", ".join(f"{step} {time:.1f}" for step, time in closing["seconds"].items())
    table.add_row("seconds a step", f"{seconds} (sum {sum(closing['seconds'].values()):.1f})")
    console.print(table)
    if "report" in closing["artifacts"]:
        report = open_artifact(open_store(store), closing["artifacts"]["report"]["uri"], "report")
        console.print(f"Dashboard: {report.file('dashboard.html')}", highlight=False)
    here = "" if Path(store or default_store_url()) == Path(default_store_url()) else f" --store {store}"
    console.print(f"MLflow:    mistudio mlflow{here}", highlight=False)


def print_parameters(pipeline: Any) -> None:
    """List a pipeline's parameters with their defaults."""
    texts = {
        p.arg_name: p.description
        for p in docstring_parser.parse(kfp_functions().function_of(pipeline).__doc__ or "").params
    }
    table = Table("parameter", "type", "default", "meaning")
    for name, parameter in signature(pipeline).items():
        table.add_row(name, parameter.annotation.__name__, str(parameter.default), texts.get(name, ""))
    Console().print(table)


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)
