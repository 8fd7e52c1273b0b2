"""What MLflow is told of what a step published: on the step's run, and on that of its pipeline."""

from collections.abc import Mapping

from mistudio.artifacts import Artifact, JsonScalar
from mistudio.steps.figures import autoencoder, datasets, description, headlines, measured_on
from mistudio.steps.naming import facts, step_title
from mistudio.steps.output import StepOutput
from mistudio.steps.spec import Step
from mistudio.steps.summary_page import flat
from mistudio.tracking import Run
from mistudio.tracking.kubeflow import USED, pipeline_run_id
from mistudio.tracking.views import AUTOENCODER, STEP

_COMMIT = "mlflow.source.git.commit"


def log_output(run: Run, output: StepOutput, step: Step) -> None:
    """Log settings, figures, plots and lineage of what a step published, once.

    Args:
        run: the step's.
        output: what it published.
        step: its declaration, which says what it plots, and what Kubeflow is given.
    """
    artifact, name = output.artifact, output.step
    if not run.is_tracked or run.found_tag(f"{name}.digest") == artifact.digest:
        return
    on_kubeflow = bool(pipeline_run_id())
    settings = {**flat(artifact.manifest.config), "seed": artifact.manifest.seed}
    run.log_params({f"{USED}{key}": value for key, value in settings.items()} if on_kubeflow else settings)
    if not (on_kubeflow and step.output is not None and step.output.metrics):  # else its launcher logs them
        log_figures(run, name, artifact, output.metrics())
    run.rename(step_title(output.command, artifact))
    run.describe(description(name, artifact))
    run.set_tags({**code(artifact), **facts(artifact), STEP: output.command})
    run.log_datasets(datasets(artifact))
    if artifact.manifest.short_kind == "sae" and (model := autoencoder(artifact)) is not None:
        run.log_model(model)
    run.log_artifact_of(name, artifact)
    if step.plot is not None:
        step.plot(artifact, run)


def log_figures(run: Run, step: str, measured: Artifact, figures: Mapping[str, JsonScalar]) -> None:
    """Log the figures of what a step published; its headlines as those of the autoencoder that they are of, too."""
    of_model = headlines(step, figures) if step in ("evaluate", "score") else {}
    model = autoencoder(measured) if of_model else None
    if model is None:
        run.log_metrics(figures)
        return
    run.log_metrics({name: value for name, value in figures.items() if name not in of_model})
    run.log_model_metrics(model.digest, of_model, measured_on(measured))


def log_to_pipeline(pipeline: Run, output: StepOutput) -> None:
    """Put the headlines, the place and the lineage of what a step published on its pipeline's run, once.

    Args:
        pipeline: its run.
        output: what the step published, or found.
    """
    artifact, step = output.artifact, output.step
    if not pipeline.is_tracked or pipeline.found_tag(f"{step}.digest") == artifact.digest:
        return
    figures = headlines(step, artifact.manifest.summary)
    if pipeline_run_id():  # where the step's own run leaves them to the launcher, which knows no autoencoders
        log_figures(pipeline, step, artifact, figures)
    else:
        pipeline.log_metrics(figures)
    pipeline.set_tags({f"{step}.uri": artifact.uri, f"{step}.digest": artifact.digest, f"{step}.found": output.found})
    if step in ("report", "compare"):
        pipeline.describe(description(step, artifact))
    if step == "train":
        log_autoencoder(pipeline, artifact)
    if step == "compare":
        pipeline.set_tags(facts(artifact))


def log_autoencoder(run: Run, sae: Artifact) -> None:
    """Say on a run whose figures are those of an autoencoder which one it is, and what it was trained on."""
    run.set_tags({**facts(sae), **code(sae), AUTOENCODER: "yes"})
    run.log_datasets(datasets(sae))
    if (model := autoencoder(sae)) is not None:
        run.log_model(model, made=False)


def code(artifact: Artifact) -> dict[str, str]:
    """The commit that made an artifact, as MLflow shows it."""
    commit = artifact.manifest.producer.git_commit
    return {} if commit is None else {_COMMIT: commit}
