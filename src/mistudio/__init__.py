"""miStudio: capture, sparse features and search in the activations of language models.

What a notebook needs is here; ``docs/python.md`` shows it at work. Nothing is imported before it is asked for, so that
``import mistudio`` costs nothing.

================  ==================================================================================
__version__       of this library
open_store        a store: a folder or ``s3://bucket/prefix``; ``mode="r"`` for one that is only read
Store             what it gives: files by name, with leases and publication
open_artifact     what is published under a prefix
Artifact          its manifest and files, checked when they are read
Catalog           what a store holds: the newest of a kind, by digest, parents, children, graph
Line              what an artifact was made from: scores, explanations, features, autoencoder, ...
FeatureSet        the features of a search, with explanations and scores: rows, pages, contexts
Condition         what the features of a page have to be
Session           a loaded model with autoencoders: what is active on texts and chats
open_session      loads one
resolve_source    finds a model: a folder, a GGUF file, or an id on the model hub
STEPS             the steps, each with what it takes
run_step          runs a step here
StepOutput        what that published, whether it was there before, and its figures
LocalRunner       runs pipelines and steps as processes of their own, with progress, log and cancel
Target            what a runner starts
Client            asks a server for text, with edits of the model
AsyncClient       the same for asyncio
MistudioError     base of all errors raised on purpose, see ``mistudio.errors``
================  ==================================================================================

The library imports neither kfp nor kserve; see ``docs/architecture.md`` for the layers and the direction in which they
import each other.
"""

from typing import TYPE_CHECKING

from mistudio.version import __version__

if TYPE_CHECKING:
    from mistudio.artifacts import Artifact, Catalog, Line, Store, open_artifact, open_store
    from mistudio.client import AsyncClient, Client
    from mistudio.errors import MistudioError
    from mistudio.features import Condition, FeatureSet
    from mistudio.instrument import Session, open_session
    from mistudio.runs import LocalRunner, Target
    from mistudio.steps import STEPS, StepOutput, run_step
    from mistudio.subject import resolve_source
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(
        __name__, "artifacts", "client", "errors", "features", "instrument", "runs", "steps", "subject"
    )

__all__ = [
    "STEPS",
    "Artifact",
    "AsyncClient",
    "Catalog",
    "Client",
    "Condition",
    "FeatureSet",
    "Line",
    "LocalRunner",
    "MistudioError",
    "Session",
    "StepOutput",
    "Store",
    "Target",
    "__version__",
    "open_artifact",
    "open_session",
    "open_store",
    "resolve_source",
    "run_step",
]
