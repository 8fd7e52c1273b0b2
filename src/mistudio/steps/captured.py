"""The language model behind an artifact: the one that the activations it was made from were captured from."""

from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, Store, open_input
from mistudio.errors import ConfigError, InputError

if TYPE_CHECKING:
    from mistudio.subject import SubjectSource

# From scores back to the activations, each artifact names the next among its inputs.
_LINE = ("explanations", "features", "sae", "activations")


def captured_subject(store: Store, artifact: Artifact, revision: str) -> "SubjectSource":
    """The model that was captured, found where the capture says.

    Raises:
        InputError: nothing says which model it was, or it is not to be found.
        ConfigError: there is a revision, of a model that is not named.
    """
    from mistudio.activations import captured_source

    if revision:
        message = f"revision {revision} is of no model: name the model too, or leave both out for the one captured."
        raise ConfigError(message)
    activations = activations_behind(store, artifact)
    if activations is None:
        message = f"{artifact.uri} does not say which model its activations came from: name it as model."
        raise InputError(message)
    return captured_source(store, activations)


def check_demo(store: Store, artifact: Artifact) -> None:
    """Refuse the demo subject where another model was captured, before it is trained for nothing.

    Raises:
        InputError: another model was captured.
    """
    from mistudio.demo import DEMO, demo_uri

    activations = activations_behind(store, artifact)
    captured = None if activations is None else activations.manifest.inputs["subject"].uri
    if activations is not None and captured != demo_uri():
        message = (
            f"{activations.uri} was captured from {captured}, and model {DEMO} is {demo_uri()}: leave model out, or "
            "name the one captured."
        )
        raise InputError(message)


def activations_behind(store: Store, artifact: Artifact) -> Artifact | None:
    """The activations that an artifact was made from, itself or by way of others; None where it names none."""
    for kind in _LINE:
        if kind in artifact.manifest.inputs:
            artifact = open_input(store, artifact.manifest.inputs[kind], kind)
    return artifact if artifact.manifest.short_kind == "activations" else None
