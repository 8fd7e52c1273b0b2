"""Replies of look-ups as tables for people."""

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from mistudio.terminal import console, echo

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mistudio.correlate.replies import Hit, Reply
    from mistudio.directions.config import Figure

_LABEL_CHARACTERS, _LABEL_WIDTH = 60, 24
_ANY_WIDTH = 1_000
_NOTHING_SAID = (
    "No feature was found: no explanation says this. Try other words, --embed-with subject to search by meaning, or "
    "mistudio correlate examples."
)
# What a column is called, where that is not the name of the measure.
_TITLES = {
    "max": "largest",
    "difference": "above usual",
    "standardised": "deviations",
    "logit": "logit",
    "contexts": "share of contexts",
    "lift": "times as often",
    "decoder": "cosine",
    "encoder": "cosine",
    "explanation": "alike",
}


def show(reply: "Reply") -> None:
    """Print a reply: what is doubtful, the hits of each measure, tokens, how well examples are told apart."""
    for warning in reply.warnings:
        echo(warning, err=True)
    screen = console(soft_wrap=False)
    for measure, hits in groupby(reply.hits, key=lambda hit: hit.measure):
        screen.print(_fitting(screen, measure, list(hits)))
    if not reply.hits:
        echo(_NOTHING_SAID if reply.look_up == "concept" else "No feature was found.")
    if reply.tokens and any(token.strongest for token in reply.tokens):
        screen.print(_tokens(reply))
    for line in _separation(reply):
        echo(line)
    pages = [hit.page for hit in reply.hits if hit.page is not None]
    if pages:
        echo(f"The page of each is at {pages[0].partition('#')[0]}#feature=NUMBER.")


def _fitting(screen: "Console", measure: str, hits: list["Hit"]) -> "Table":
    """The table with as many further figures as leave room for the labels; the reply as JSON has all of them."""
    from rich.measure import Measurement

    further = [name for name in hits[0].values if name not in ("auroc_low", "auroc_high")]
    table = _hits(measure, hits, further)
    while (
        further and Measurement.get(screen, screen.options.update(max_width=_ANY_WIDTH), table).minimum > screen.width
    ):
        further = further[:-1]
        table = _hits(measure, hits, further)
    return table


def _hits(measure: str, hits: list["Hit"], further: list[str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"{hits[0].autoencoder}: {measure}", title_justify="left"
    )
    for name in ("feature", _TITLES.get(measure, measure), *further, "density", "score"):
        table.add_column(name, justify="right")
    table.add_column("label" if hits[0].explanation is None else "explanation", overflow="fold", min_width=_LABEL_WIDTH)
    for hit in hits:
        said = hit.label or "" if hit.explanation is None else hit.explanation
        value = _figure(hit.value)
        if "auroc_low" in hit.values:
            value = f"{value} ({_figure(hit.values['auroc_low'])} to {_figure(hit.values['auroc_high'])})"
        figures = [_figure(hit.values.get(name)) for name in further]
        table.add_row(
            str(hit.feature), value, *figures, _figure(hit.density), _figure(hit.score), said[:_LABEL_CHARACTERS]
        )
    return table


def _tokens(reply: "Reply") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("token", "strongest features", box=SIMPLE_HEAD)
    for token in reply.tokens or ():
        found = ", ".join(f"{each.feature} ({_figure(each.value)})" for each in token.strongest)
        table.add_row(repr(token.text), found if token.left_out is None else f"left out: {token.left_out}")
    return table


def _separation(reply: "Reply") -> Iterator[str]:
    found = reply.separation
    if found is None:
        return
    left_out = ", ".join(f"{name} {count}" for name, count in found.left_out.items()) or "none"
    yield f"{found.positive} positive and {found.negative} negative examples; left out: {left_out}."
    yield f"The direction between them: AUROC {_range(found.auroc)} on the half that it was not made of;"
    yield f"of random directions {_range(found.random_auroc)}, with shuffled labels {_range(found.shuffled_auroc)}."
    yield f"The first feature with shuffled labels: {_range(found.shuffled_feature_auroc)}."
    if found.saved is not None:
        yield f"direction {found.saved.name} is {found.saved.uri}, at {found.saved.hook}."


def _range(figure: "Figure") -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
