"""The demo subject: a small language model that is trained on the spot, on text that Python brings along."""

import re

from mistudio.artifacts import Store, open_artifact
from mistudio.demo.config import DemoConfig
from mistudio.demo.training import train_demo
from mistudio.subject.source import SubjectSource, artifact_source, resolve_source

DEMO = "demo"
_ARTIFACT = re.compile(r"^subject/[0-9a-f]{16}/?$")

__all__ = ["DEMO", "DemoConfig", "resolve_model", "train_demo"]


def resolve_model(model: str, revision: str | None, store: Store) -> SubjectSource:
    """Find a subject: ``demo`` (trained if it is not there yet), an artifact, a folder or an id on the hub.

    Raises:
        NotFound: ``model`` is written like an artifact's prefix (``subject/...``), and there is none.
        SubjectError: there is no such folder or model.
        HubUnreachable: it is an id on the hub, and the hub does not answer.
    """
    if model == DEMO:
        return artifact_source(train_demo(store, DemoConfig()).artifact)
    if _ARTIFACT.match(model):
        return artifact_source(open_artifact(store, model, "subject"))
    return resolve_source(model, revision)
