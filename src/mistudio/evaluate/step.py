"""The evaluate step: how good an autoencoder is, on documents that it was not trained on."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, Field

from mistudio.activations import ActivationReader
from mistudio.artifacts import (
    Artifact,
    Draft,
    InputRef,
    JsonScalar,
    Produced,
    Recipe,
    Store,
    Summary,
    open_input,
    produce,
)
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import InputError
from mistudio.evaluate.reconstruction import Reconstruction, measure_reconstruction
from mistudio.evaluate.splice import SpliceLosses, measure_splice
from mistudio.sae import hook_of, load_autoencoder
from mistudio.subject import (
    HookPoint,
    SubjectConfig,
    SubjectSource,
    load_subject,
    pick_device,
    resolve_dtype,
    resolve_hooks,
)

METRICS_NAME = "metrics.json"
DENSITY_NAME = "density.parquet"


class EvaluateConfig(BaseModel):
    """How much to evaluate on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = Field(default=None, ge=1, description="most held-out activations (tokens); default: all")
    ce_tokens: int = Field(default=100_000, ge=1, description="about how many held-out tokens run through the model")


def evaluate(
    store: Store,
    sae: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: EvaluateConfig | None = None,
    seed: int = 0,
) -> Produced:
    """Publish the quality of the autoencoder ``sae`` on held-out documents.

    Raises:
        InputError: the model is not the one that the activations come from, or nothing was held out.
    """
    config = config or EvaluateConfig()
    activations = open_input(store, sae.manifest.inputs["activations"], "activations")
    check_subject(activations, source)
    inputs = {"sae": sae.ref, "subject": InputRef(uri=source.uri, digest=source.digest)}
    settings = {**config.model_dump(mode="json"), **numerics(subject_config)}
    recipe = Recipe(kind="evaluation", config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        subject = load_subject(source, subject_config)
        autoencoder = load_autoencoder(sae, subject.device)
        hook = hook_of(sae)
        reader = ActivationReader(activations, hook, "heldout")
        rebuilt = measure_reconstruction(autoencoder, reader, config.max_tokens, subject.device)
        corpus = TokenCorpus(open_input(store, activations.manifest.inputs["corpus"], "corpus"))
        (place,) = resolve_hooks(subject, [HookPoint.parse(hook)])
        losses = measure_splice(subject, place, autoencoder, corpus, config.ce_tokens, seed)
        return _publish(draft, rebuilt, losses)

    return produce(store, recipe, "evaluate", build)


def check_subject(activations: Artifact, source: SubjectSource) -> None:
    """Refuse a model other than the one that was captured.

    Raises:
        InputError: the digests differ.
    """
    captured = activations.manifest.inputs["subject"]
    if captured.digest != source.digest:
        message = f"{activations.uri} was captured from {captured.uri}, but {source.uri} has other content."
        raise InputError(message)


def numerics(config: SubjectConfig) -> dict[str, str]:
    """What of a subject's configuration changes its output, and so belongs in a recipe."""
    dtype = resolve_dtype(config.dtype, pick_device(config.device))
    return {"subject_dtype": dtype, "quantization": config.quantization}


def _publish(draft: Draft, rebuilt: Reconstruction, losses: SpliceLosses | None) -> Summary:
    metrics: dict[str, JsonScalar] = {
        "tokens": rebuilt.tokens,
        "explained_variance": 1 - rebuilt.fvu,
        "fvu": rebuilt.fvu,
        "l0": rebuilt.l0,
        "l1": rebuilt.l1,
        "cosine": rebuilt.cosine,
        "dead_fraction": float((rebuilt.density_F == 0).double().mean()),
        "ce_clean": losses.ce_clean if losses else None,
        "ce_spliced": losses.ce_spliced if losses else None,
        "ce_zero": losses.ce_zero if losses else None,
        "ce_recovered": losses.ce_recovered if losses else None,
        "kl": losses.kl if losses else None,
    }
    draft.write(METRICS_NAME, json.dumps(metrics, indent=1).encode())
    density = pa.table({"feature": torch.arange(len(rebuilt.density_F)).numpy(), "density": rebuilt.density_F.numpy()})
    with draft.stage(DENSITY_NAME) as path:
        pq.write_table(density, path)
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in metrics.items()}
