"""Subjects to begin with: a small model trained on the spot on text that Python brings along, and one that talks.

The second comes from the package index (``mistudio.demo.packaged``); both are models by name wherever one is named.
"""

import re
from pathlib import Path

from mistudio.artifacts import Draft, InputRef, Produced, Recipe, Store, Summary, open_artifact, produce
from mistudio.corpus import python_docs
from mistudio.demo.config import DemoConfig
from mistudio.demo.packaged import PACKAGED, SMOLLM2, PackagedModel, fetch_packaged
from mistudio.settings import check_seed
from mistudio.subject.source import SubjectSource, artifact_source, resolve_source

DEMO = "demo"
# What the main job is given for a subject, where its own defaults are for another: text that a model of general
# language has something to say of, and as much of it as takes minutes.
RUNS: dict[str, dict[str, str | int]] = {
    SMOLLM2.name: {
        "corpus": "python-docs:prose,docstring",
        "max_tokens": 140_000,
        "train_tokens": 800_000,
        "find_settings": '{"causal_tflop": 6}',
        "explain_only": "coherent:1200",
    }
}
_ARTIFACT = re.compile(r"^subject/[0-9a-f]{16}/?$")

__all__ = [
    "DEMO",
    "PACKAGED",
    "RUNS",
    "SMOLLM2",
    "DemoConfig",
    "PackagedModel",
    "demo_uri",
    "fetch_packaged",
    "resolve_model",
    "train_demo",
]


def train_demo(store: Store, config: DemoConfig, seed: int = 0, *, stdlib: Path | None = None) -> Produced:
    """Train the demo subject, or find it published; an artifact of kind ``subject``.

    The artifact is a folder in Hugging Face format. Its summary has ``bits_per_byte``: the cross-entropy
    of all tokens of held-out documents, in bits, over the bytes of their text.

    Args:
        store: where the artifact is published, and found if it was made before.
        config: shape, budget and optimisation.
        seed: of the first weights, the order of the text, and which held-out documents are evaluated on.
        stdlib: folder of the standard library to learn from; that of the running Python if None.

    Raises:
        ConfigError: the seed is out of range.
        CorpusError: the standard library cannot be read, or is too small for the split.
        StorageError: the store cannot be written.
    """
    check_seed(seed)

    def train(draft: Draft) -> Summary:
        # What trains is imported when there is something to train: finding the subject stays quick.
        from mistudio.demo.training import build

        return build(draft, config, seed, stdlib)

    return produce(store, _recipe(config, seed, stdlib), "demo", train)


def demo_uri() -> str:
    """The prefix under which ``demo`` is published, trained or not.

    Raises:
        CorpusError: the standard library cannot be read.
    """
    return _recipe(DemoConfig(), 0, None).prefix


def _recipe(config: DemoConfig, seed: int, stdlib: Path | None) -> Recipe:
    return Recipe(
        kind="subject",
        config=config.model_dump(),
        inputs={"corpus": InputRef(uri="builtin:python-docs", digest=python_docs.digest(stdlib))},
        seed=seed,
    )


def resolve_model(model: str, revision: str | None, store: Store) -> SubjectSource:
    """Find a subject: ``demo``, ``smollm2``, an artifact, a folder or file, or an id on the hub.

    The demo subject is trained if it is not there yet, and a packaged model is downloaded.

    Raises:
        NotFound: ``model`` is written like an artifact's prefix (``subject/...``), and there is none.
        SubjectError: there is no such folder or model.
        HubUnreachable: it is an id on the hub, and the hub does not answer.
    """
    if model == DEMO:
        return artifact_source(train_demo(store, DemoConfig()).artifact)
    if model in PACKAGED:
        return artifact_source(fetch_packaged(store, PACKAGED[model]).artifact)
    if _ARTIFACT.match(model):
        return artifact_source(open_artifact(store, model, "subject"))
    return resolve_source(model, revision)
