"""Sweeps: the grid of autoencoders to train, and the comparison of what came out.

As in ``batch``: functions of plain values, for the command line and for KFP components.
"""

from collections.abc import Callable
from itertools import product
from typing import TypeVar

from mistudio.artifacts import Artifact, Produced, Store, open_artifact
from mistudio.errors import ConfigError
from mistudio.progress import emit_event
from mistudio.steps.defaults import CHOOSE
from mistudio.steps.running import StepOutput, flat, run_step
from mistudio.steps.training import check_training
from mistudio.steps.validation import validated
from mistudio.tracking import Run

T = TypeVar("T")
PointSettings = dict[str, str | int | float]


def grid(
    architectures: str = "topk,batchtopk,matryoshka,standard,gated,jumprelu",
    widths: str = "",
    sparsities: str = "8,16,32,64",
    seeds: str = "0",
    train_settings: str = "",
) -> list[PointSettings]:
    """List the autoencoders of a sweep: every architecture with every width, sparsity and seed.

    Args:
        architectures: Kinds of autoencoder, with commas between them.
        widths: Numbers of features, with commas; empty: eight times the activations' width, at least 1,024.
        sparsities: Active features a token, with commas: k, or the target L0 of architectures that have no k.
        seeds: Seeds to train each one with, with commas.
        train_settings: Settings of each training as JSON, which are checked here too.

    Returns:
        The parameters in which the train step differs: architecture, width, k, target_l0 and seed.

    Raises:
        ConfigError: a value is refused, or named twice.
    """
    chosen = (
        _values("architectures", architectures, str),
        _values("widths", widths, int) or [CHOOSE],
        _values("sparsities", sparsities, float),
        _values("seeds", seeds, int),
    )
    if not all(chosen):
        message = "The sweep is empty: give architectures, sparsities and seeds, one of each or more."
        raise ConfigError(message)
    points = [_point(*values, train_settings) for values in product(*chosen)]
    emit_event(event="message", text=f"{len(points)} autoencoders to train and evaluate")
    return points


def compare(
    evaluations: str,
    keep: float = 0.99,
    title: str = "Comparison",
    store: str = "",
) -> StepOutput:
    """Compare evaluated autoencoders: L0 against what each keeps, the front, and the best by a rule.

    Args:
        evaluations: Evaluations of autoencoders of the same activations (evaluation/...), with commas between them.
        keep: The best is chosen of the sparsest that keep this share of the greatest CE recovered of all.
        title: Title of the page.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.report.compare import CompareConfig
    from mistudio.report.compare import compare as compare_evaluations

    def work(opened: Store, _run: Run) -> Produced:
        uris = [uri for uri in evaluations.replace(" ", "").split(",") if uri]
        config = validated(CompareConfig, {"keep": keep, "title": title})
        return compare_evaluations(opened, [open_artifact(opened, uri, "evaluation") for uri in uris], config)

    return run_step("compare", store, work, _log_points)


def _point(architecture: str, width: int, sparsity: float, seed: int, train_settings: str) -> PointSettings:
    """The train step's parameters for one autoencoder, checked as far as they can be before the activations are."""
    from mistudio.sae import architecture_configs

    if sparsity <= 0:
        message = f"sparsities names {sparsity:g}: give numbers of active features above 0."
        raise ConfigError(message)
    known = architecture_configs().get(architecture)
    if known and not known.model_fields.keys() & {"k", "target_l0"}:
        message = f"{architecture} has neither k nor target_l0, so that no sweep can set its sparsity."
        raise ConfigError(message)
    has_k = known is not None and "k" in known.model_fields
    if has_k and not sparsity.is_integer():
        message = f"{architecture} keeps a whole number of features active, not {sparsity:g}."
        raise ConfigError(message)
    k, target_l0 = (int(sparsity), float(CHOOSE)) if has_k else (CHOOSE, sparsity)
    check_training(architecture, width, {"k": k, "target_l0": target_l0}, train_settings)
    return {"architecture": architecture, "width": width, "k": k, "target_l0": target_l0, "seed": seed}


def _values(name: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """The values between the commas."""
    try:
        values = [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        numbers = "whole numbers" if kind is int else "numbers"
        message = f"{name} takes {numbers} with commas between them, not {text!r}."
        raise ConfigError(message) from error
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        message = f"{name} names {twice[0]} twice: name each once."
        raise ConfigError(message)
    return values


def _log_points(artifact: Artifact, run: Run) -> None:
    """Keep the page, and one run a point with its settings and final figures, however often a sweep was resumed."""
    import pyarrow.parquet as pq

    from mistudio.report.compare import PAGE_NAME, POINTS_NAME

    run.log_file(artifact.file(PAGE_NAME))
    for row in pq.read_table(artifact.file(POINTS_NAME)).to_pylist():
        sae, evaluation = (open_artifact(artifact.store, row[kind], kind) for kind in ("sae", "evaluation"))
        with run.child(f"{row['architecture']} {row['width']} {row['sparsity']:g} seed {row['seed']}") as point:
            point.log_params({**flat(sae.manifest.config), "seed": sae.manifest.seed})
            point.log_metrics(evaluation.manifest.summary)
            for step, made in (("train", sae), ("evaluate", evaluation)):
                point.log_metrics({f"seconds.{step}": made.manifest.producer.seconds})
                point.log_artifact_of(step, made)
