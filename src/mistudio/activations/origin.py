"""The model that activations were captured from, found where their manifest says, and how it was loaded."""

from mistudio.artifacts import Artifact, Store, open_artifact
from mistudio.errors import InputError, NotFound
from mistudio.subject import SubjectConfig, SubjectSource, artifact_source, resolve_source

_CAPTURED = {"dtype": "subject_dtype", "quantization": "quantization"}


def captured_source(store: Store, activations: Artifact, source: SubjectSource | None = None) -> SubjectSource:
    """The model that ``activations`` were captured from: ``source`` if it is that, else as the manifest names it.

    Raises:
        InputError: it cannot be found from there, or has other content by now.
    """
    captured = activations.manifest.inputs["subject"]
    source = source or _named_source(store, activations)
    if source.digest != captured.digest:
        message = f"{activations.uri} was captured from {captured.uri}, but {source.uri} has other content."
        raise InputError(message)
    return source


def captured_config(activations: Artifact, config: SubjectConfig | None = None) -> SubjectConfig:
    """``config`` with the number format and the quantisation that the model had when it was captured."""
    captured = activations.manifest.config
    # Of activations that no model of ours made, the manifest says nothing.
    numerics = {name: captured[key] for name, key in _CAPTURED.items() if key in captured}
    return (config or SubjectConfig()).model_copy(update=numerics)


def tokenised_for(store: Store, corpus: Artifact) -> SubjectSource:
    """The model that a corpus was tokenised for, as its manifest names it.

    Raises:
        InputError: it cannot be found from there.
    """
    uri = corpus.manifest.inputs["tokenizer"].uri.removeprefix("tokenizer:")
    return _found(store, f"{corpus.uri} was tokenised for", uri)


def _named_source(store: Store, activations: Artifact) -> SubjectSource:
    return _found(store, f"{activations.uri} was captured from", activations.manifest.inputs["subject"].uri)


def _found(store: Store, what: str, uri: str) -> SubjectSource:
    """The model of a URI in a manifest; ``what`` begins the message where it is not to be found."""
    scheme, _, name = uri.rpartition(":")
    if scheme in ("folder", "file"):
        message = (
            f"{what} {uri}, and where the model {scheme} {name} lies is not known: give it as model "
            f"(--model {scheme.upper()}; for mistudio serve: --subject {scheme.upper()})."
        )
        raise InputError(message)
    if scheme == "hub":
        model, _, commit = name.rpartition("@")
        return resolve_source(model, commit)
    try:
        return artifact_source(open_artifact(store, uri, "subject"))
    except NotFound as error:
        message = (
            f"{what} {uri}, a model that is gone from the store. Make it again, or name a folder or file that holds it "
            "as model."
        )
        raise InputError(message) from error
