"""The closing table of a pipeline run, for people and as JSON for CI."""

from pathlib import Path
from typing import Any

import docstring_parser
from rich.table import Table

from mistudio.artifacts import default_store_url, open_artifact, open_store
from mistudio.events import Finished
from mistudio.report.metrics import OUTLIER_FIGURES, about_outliers
from mistudio.runs.checkout import kfp_functions, signature
from mistudio.runs.outcome import seconds_by_step
from mistudio.terminal import console

_FIGURES = ("l0", "explained_variance", "dead_fraction", "ce_recovered")
_RANDOM = "ce_recovered_random"
_HALF_WIDTH = "ce_recovered_half_width"
_SCORED = ("interpretable", "explained")
_PAGES = {"report": "dashboard.html", "compare": "comparison.html"}


def summarise(finished: list[Finished]) -> dict[str, Any]:
    """``tokens``, the figures of the evaluation and of the scores, ``seconds`` and ``artifacts`` by step.

    Of a sweep the figures are those of the best, with ``best``, ``rule`` and ``autoencoders`` beside them;
    the artifacts of a step that ran more than once are a list.
    """
    last = {event.step: event.summary for event in finished}
    measured = last.get("compare") or last.get("evaluate") or {}
    named: dict[str, Any] = {name: measured[name] for name in ("autoencoders", "best", "rule") if name in measured}
    return {
        **named,
        "tokens": last["train"]["tokens"] if "train" in last else None,
        **{name: measured.get(name) for name in _FIGURES},
        _HALF_WIDTH: measured.get(_HALF_WIDTH),
        **{name: measured[name] for name in OUTLIER_FIGURES if measured.get(name) is not None},
        _RANDOM: measured.get("control.random_ce_recovered"),
        **{name: last["score"].get(name) for name in _SCORED if "score" in last},
        **{name: last["score"][name] for name in ("scored",) if name in last.get("score", {})},
        "seconds": seconds_by_step(finished),
        "artifacts": {step: _artifacts([event for event in finished if event.step == step]) for step in last},
    }


def _artifacts(events: list[Finished]) -> dict[str, Any] | list[dict[str, Any]]:
    artifacts = [{"uri": event.uri, "digest": event.digest, "found": event.found} for event in events]
    return artifacts[0] if len(artifacts) == 1 else artifacts


def print_summary(closing: dict[str, Any], store: str) -> None:
    """Print the closing table, where the page is, and how to open MLflow."""
    out = console(soft_wrap=True)
    table = Table(show_header=False, title="Result", title_justify="left")
    if "best" in closing:
        table.add_row("autoencoders", f"{closing['autoencoders']:,}")
        table.add_row("best", f"{closing['best']}: {closing['rule']}")
    table.add_row("tokens trained on", _number(closing["tokens"], ","))
    table.add_row("L0 (features active on a token)", _number(closing["l0"], ".2f"))
    table.add_row("explained variance", _number(closing["explained_variance"], ".4f"))
    if outliers := about_outliers(closing):
        table.add_row("... and the outliers", outliers)
    table.add_row("dead features", _number(closing["dead_fraction"], ".2%"))
    table.add_row("CE recovered", _recovered(closing["ce_recovered"], closing[_HALF_WIDTH], closing[_RANDOM]))
    if "interpretable" in closing:
        table.add_row("explained features", f"{closing['explained']:,}")
        of_scored = f" of {closing['scored']:,} scored" if "scored" in closing else ""
        table.add_row("interpretable features (score 0.8 or more)", _number(closing["interpretable"], ",") + of_scored)
    seconds = ", ".join(f"{step} {time:.1f}" for step, time in closing["seconds"].items())
    table.add_row("seconds a step", f"{seconds} (sum {sum(closing['seconds'].values()):.1f})")
    out.print(table)
    for step, page in _PAGES.items():
        if step in closing["artifacts"]:
            made = open_artifact(open_store(store), closing["artifacts"][step]["uri"])
            out.print(f"{page.partition('.')[0].capitalize() + ':':<10} {made.file(page)}")
    here = "" if Path(store or default_store_url()) == Path(default_store_url()) else f" --store {store}"
    out.print(f"{'MLflow:':<10} mistudio mlflow{here}")


def print_parameters(pipeline: Any) -> None:
    """List a pipeline's parameters with their defaults."""
    texts = {
        p.arg_name: p.description
        for p in docstring_parser.parse(kfp_functions().function_of(pipeline).__doc__ or "").params
    }
    table = Table("parameter", "type", "default", "meaning")
    for name, parameter in signature(pipeline).items():
        table.add_row(name, parameter.annotation.__name__, str(parameter.default), texts.get(name, ""))
    console().print(table)


def _recovered(value: float | None, half_width: float | None, random: float | None) -> str:
    """With its interval, and what a random autoencoder recovers, which says how much the figure is worth."""
    shown = _number(value, ".4f") + ("" if half_width is None else f" ± {half_width:.4f}")
    if value is None or random is None:
        return shown
    no_worse = ", no worse: the figure says nothing here" if random >= value else ""
    return f"{shown} (a random one: {random:.4f}{no_worse})"


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)
