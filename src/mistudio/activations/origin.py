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


def _named_source(store: Store, activations: Artifact) -> SubjectSource:
    uri = activations.manifest.inputs["subject"].uri
    scheme, _, name = uri.rpartition(":")
    if scheme in ("folder", "file"):
        message = (
            f"{activations.uri} was captured from {uri}, and where the model {scheme} {name} lies is not known: give "
            f"it as model (--model {scheme.upper()})."
        )
        raise InputError(message)
    if scheme == "hub":
        model, _, commit = name.rpartition("@")
        return resolve_source(model, commit)
    try:
        return artifact_source(open_artifact(store, uri, "subject"))
    except NotFound as error:
        message = (
            f"The model that {activations.uri} was captured from is gone from the store: {uri}. Make it again, or name "
            "a folder or file that holds it as model."
        )
        raise InputError(message) from error
