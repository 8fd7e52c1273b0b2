"""What a watch is set up with: the step calibrate."""

from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, Produced
from mistudio.errors import ConfigError
from mistudio.steps.context import Context
from mistudio.steps.spec import Argument, Input, Inputs, Output, Page, Step
from mistudio.tracking import Run

if TYPE_CHECKING:
    from mistudio.monitor.calibrate.config import CalibrateConfig


def _calibrate(context: Context, inputs: Inputs, config: "CalibrateConfig") -> Produced:
    from mistudio.directions.example_files import File
    from mistudio.monitor.calibrate.step import calibrate
    from mistudio.monitor.calibrate.texts import Reference
    from mistudio.monitor.watch.watch_list import given_watch_list

    saes, corpus = inputs.many("saes"), inputs.maybe("corpus")
    texts, positive = (str(context.argument(name) or "") for name in ("texts", "positive"))
    if (corpus is None) == (not texts):
        message = "Give corpus (corpus/...) or texts (a file), one of the two: thresholds are found on them."
        raise ConfigError(message)
    made_from = next(iter(saes), corpus)
    return calibrate(
        context.store,
        given_watch_list(str(context.argument("watch_list"))),
        saes,
        Reference(corpus or File.read(texts, context.store), config.split),
        context.source(made_from),
        context.subject(made_from),
        config,
        context.seed,
        File.read(positive, context.store) if positive else None,
    )


def _plot_calibration(artifact: Artifact, run: Run) -> None:
    from mistudio.monitor.calibrate.calibration import read_rows
    from mistudio.report.plots import recall_figure

    rows = [row for row in read_rows(artifact) if row["recall"] is not None]
    if rows:
        run.log_figure(recall_figure(rows), "recall.png")


CALIBRATE = Step(
    name="calibrate",
    title="Calibrate watch list",
    summary="Find thresholds of a watch list. For a rate of false positives, checked on other texts, beside controls.",
    config="mistudio.monitor.calibrate.config:CalibrateConfig",
    inputs=(
        Input(
            "saes",
            "sae",
            "Autoencoders that the list names (sae/...), with commas; an entry without one means the first.",
            many=True,
            optional=True,
        ),
        Input("corpus", "corpus", "Reference texts: a corpus, tokenised for the model (corpus/...).", optional=True),
    ),
    output=Output(
        "calibration",
        "calibration",
        "Thresholds, the rate of false positives that each has, and what it finds.",
        metrics=True,
        pages=(Page("summary", "Markdown", "calibration.md", "Thresholds, rates and recalls, column by column."),),
    ),
    arguments=(
        Argument("watch_list", str, "File with the watch list (YAML or JSON), or its content.", required=True),
        Argument(
            "texts",
            str,
            "Reference texts in place of a corpus: JSON Lines file, or name of an added corpus; text or messages.",
        ),
        Argument("positive", str, "JSON Lines file with texts that the columns are to find; None: no recall is told."),
    ),
    uses=frozenset({"model", "seed"}),
    plot=_plot_calibration,
    run=_calibrate,
)
