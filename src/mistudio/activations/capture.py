"""The capture step: run a corpus through a language model and keep what passes its hook points."""

from mistudio.activations.config import CaptureConfig
from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, produce
from mistudio.errors import InputError
from mistudio.subject import SubjectConfig, SubjectSource, device_name, resolve_dtype


def capture(
    store: Store,
    corpus: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: CaptureConfig,
    seed: int = 0,
) -> Produced:
    """Publish the activations of ``corpus`` at the hook points of ``config``.

    Raises:
        InputError: the corpus was tokenised for another model, or has nothing to capture.
        SubjectError: the model cannot be loaded, has no such layer or hook point, or takes only shorter sequences.
    """
    check_tokenizer(corpus, source)
    dtype = resolve_dtype(subject_config.dtype, device_name(subject_config.device))
    settings = {
        **config.model_dump(mode="json"),
        "subject_dtype": dtype,
        "quantization": subject_config.quantization,
    }
    inputs = {"corpus": corpus.ref, "subject": InputRef(uri=source.uri, digest=source.digest)}
    recipe = Recipe(kind="activations", config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        from mistudio.activations.capturing import run

        return run(draft, corpus, source, subject_config, config)

    return produce(store, recipe, "capture", build)


def check_tokenizer(corpus: Artifact, source: SubjectSource) -> None:
    """Refuse a corpus whose token ids mean nothing to the model.

    Raises:
        InputError: the corpus was tokenised with another tokenizer.
    """
    used = corpus.manifest.inputs["tokenizer"]
    if used.digest != source.tokenizer_digest:
        model = used.uri.removeprefix("tokenizer:")
        message = (
            f"{corpus.uri} was tokenised with the tokenizer of {model} ({used.digest[:12]}), and {source.uri} has "
            f"another ({source.tokenizer_digest[:12]}). Run ingest for this model."
        )
        raise InputError(message)
