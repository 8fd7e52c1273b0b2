"""How good an autoencoder is: the steps evaluate, stability and probe."""

import json
from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, Produced
from mistudio.steps.context import Context
from mistudio.steps.spec import Input, Inputs, Output, Step
from mistudio.tracking import Run

if TYPE_CHECKING:
    from mistudio.evaluate.config import EvaluateConfig, ProbeConfig, StabilityConfig

_SAE = Input("sae", "sae", "Trained autoencoder (sae/...).")


def _evaluate(context: Context, inputs: Inputs, config: "EvaluateConfig") -> Produced:
    from mistudio.evaluate import evaluate

    sae = inputs.one("sae")
    return evaluate(context.store, sae, context.source(sae), context.subject(sae), config, context.seed)


def _stability(context: Context, inputs: Inputs, config: "StabilityConfig") -> Produced:
    from mistudio.evaluate.stability import stability

    saes = inputs.many("saes")
    return stability(context.store, saes, config, context.seed, context.device)


def _probe(context: Context, inputs: Inputs, config: "ProbeConfig") -> Produced:
    from mistudio.evaluate.probing import probe

    sae, corpus = inputs.one("sae"), inputs.one("corpus")
    return probe(context.store, sae, corpus, context.source(sae), context.subject(sae), config, context.seed)


def _plot_evaluation(evaluation: Artifact, run: Run) -> None:
    import pyarrow.parquet as pq

    from mistudio.evaluate import DENSITY_NAME
    from mistudio.report.metrics import read_metrics
    from mistudio.report.plots import ce_figure, density_figure, redundancy_figure

    table = pq.read_table(evaluation.file(DENSITY_NAME))
    run.log_figure(density_figure(table["density"].to_numpy()), "density.png")
    run.log_figure(redundancy_figure(table["max_cosine"].to_numpy()), "redundancy.png")
    run.log_figure(ce_figure(read_metrics(evaluation)), "cross_entropy.png")


def _plot_stability(artifact: Artifact, run: Run) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mistudio.report.plots import stability_figure

    pairs = [pq.read_table(artifact.file(name)) for name in artifact.paths("matches/")]
    matches = pa.concat_tables(pairs)
    figure = stability_figure(matches["cosine"].to_numpy(), matches["random_cosine"].to_numpy())
    run.log_figure(figure, "stability.png")


def _plot_probing(artifact: Artifact, run: Run) -> None:
    from mistudio.evaluate.probes import METRICS
    from mistudio.evaluate.probing import PROBING_NAME
    from mistudio.report.plots import probing_figure

    averages = json.loads(artifact.file(PROBING_NAME).read_bytes())["averages"]
    for metric in METRICS:
        run.log_figure(probing_figure(averages, metric), f"probing_{metric}.png")


EVALUATE = Step(
    name="evaluate",
    title="Evaluate autoencoder",
    summary="Measure an autoencoder on held-out documents. Alone, and spliced into the model.",
    config="mistudio.evaluate.config:EvaluateConfig",
    inputs=(_SAE,),
    output=Output("evaluation", "evaluation", "All figures of the evaluation.", metrics=True),
    uses=frozenset({"model", "seed"}),
    plot=_plot_evaluation,
    about=lambda values: str(values.get("sae", "")),
    run=_evaluate,
)
STABILITY = Step(
    name="stability",
    title="Compare seeds",
    summary="Compare features of autoencoders of different seeds.",
    config="mistudio.evaluate.config:StabilityConfig",
    inputs=(Input("saes", "sae", "Two or more trained autoencoders of one width (sae/...), with commas.", many=True),),
    output=Output("stability", "stability", "The match of every feature in every pair, and figures.", metrics=True),
    uses=frozenset({"device", "seed"}),
    plot=_plot_stability,
    run=_stability,
)
PROBE = Step(
    name="probe",
    title="Probe labels",
    summary="Read labels off a few features. By k-sparse probes, against a dense one and controls.",
    config="mistudio.evaluate.config:ProbeConfig",
    inputs=(_SAE, Input("corpus", "corpus", "Labelled corpus, tokenised for the model (corpus/...).")),
    output=Output("probing", "probing", "Every probe on every label, with its latents and its figures.", metrics=True),
    uses=frozenset({"model", "seed"}),
    plot=_plot_probing,
    run=_probe,
)
