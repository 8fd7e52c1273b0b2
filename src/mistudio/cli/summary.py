"""The closing table of a pipeline run, for people and as JSON for CI."""

from typing import Any

import docstring_parser
from rich.table import Table

from mistudio.artifacts import Artifact, open_artifact, open_store, store_url
from mistudio.events import Finished
from mistudio.report.metrics import OUTLIER_FIGURES, about_outliers
from mistudio.runs.checkout import kfp_functions, signature
from mistudio.runs.outcome import seconds_by_step
from mistudio.steps import STEPS
from mistudio.terminal import console

_FIGURES = ("l0", "explained_variance", "dead_fraction", "ce_recovered")
_RANDOM = "ce_recovered_random"
_HALF_WIDTH = "ce_recovered_half_width"
_SCORED = ("interpretable", "explained")


def summarise(finished: list[Finished], seconds_in_all: float | None = None) -> dict[str, Any]:
    """``tokens``, the figures of the evaluation and of the scores, ``seconds`` and ``artifacts`` by step.

    ``seconds_in_all`` is what the run took by the clock; its steps take time to start, and some run side by side.
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
        "heldout_tokens": measured.get("tokens") if "evaluate" in last and "compare" not in last else None,
        "seconds": seconds_by_step(finished),
        "seconds_in_all": seconds_in_all,
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
    table.add_row(_silent(closing["heldout_tokens"]), _number(closing["dead_fraction"], ".2%", " of the features"))
    table.add_row("CE recovered", _recovered(closing["ce_recovered"], closing[_HALF_WIDTH], closing[_RANDOM]))
    if "interpretable" in closing:
        table.add_row("explained features", f"{closing['explained']:,}")
        of_scored = f" of {closing['scored']:,} scored" if "scored" in closing else ""
        table.add_row("interpretable features (score 0.8 or more)", _number(closing["interpretable"], ",") + of_scored)
    table.add_row("seconds a step", ", ".join(f"{step} {time:.1f}" for step, time in closing["seconds"].items()))
    table.add_row("time", _times(sum(closing["seconds"].values()), closing["seconds_in_all"]))
    out.print(table)
    for step in filter(_pages, closing["artifacts"]):
        print_pages(step, open_artifact(open_store(store), closing["artifacts"][step]["uri"]))
    here = "" if store_url(store) == store_url() else f" --store {store}"
    out.print(f"{'MLflow:':<10} mistudio mlflow{here}")


def print_pages(step: str, artifact: Artifact) -> None:
    """Print where the HTML pages of a step lie, if it writes any: ``Dashboard: PATH``."""
    for file in _pages(step):
        name = file.partition(".")[0].capitalize() + ":"
        console(soft_wrap=True).print(f"{name:<10} {artifact.file(file)}")


def _pages(step: str) -> list[str]:
    output = STEPS[step].output if step in STEPS else None
    return [page.file for page in output.pages if page.kind == "HTML"] if output else []


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


def _silent(tokens: int | None) -> str:
    """What share this is: it grows with fewer tokens, and is not the share that never fired in training."""
    return f"silent on {'the' if tokens is None else format(tokens, ',')} held-out tokens"


def _times(steps: float, in_all: float | None) -> str:
    beside = ", some side by side" if in_all is not None and steps > in_all else ""
    return f"{steps:.0f} s in steps{beside}" + ("" if in_all is None else f", {in_all:.0f} s in all")


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "not measured" if value is None else format(value, form) + unit
