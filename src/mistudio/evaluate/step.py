"""The evaluate step: how good an autoencoder is, on documents that it was not trained on."""

from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, open_input, produce
from mistudio.errors import InputError
from mistudio.evaluate.config import EvaluateConfig
from mistudio.subject import SubjectConfig, SubjectSource, device_name, resolve_dtype


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
        from mistudio.evaluate.measuring import measure

        return measure(draft, store, sae, activations, source, subject_config, config, seed)

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
    dtype = resolve_dtype(config.dtype, device_name(config.device))
    return {"subject_dtype": dtype, "quantization": config.quantization}
