"""A tiny model with an autoencoder in a store, as servers find it."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from mistudio.activations import ActivationReader, CaptureConfig, capture
from mistudio.artifacts import Artifact, Store, open_store
from mistudio.instrument.served import Served, open_served
from mistudio.sae import TopKConfig
from mistudio.subject import SubjectConfig, SubjectSource, resolve_source
from model_servers.base.shared import Shared
from tests.support.directions import random_directions
from tests.support.shared import shared_folder
from tests.support.tiny import WIDTH, tiny_corpus, tiny_llama
from tests.support.tiny_run import HOOK, publish_sae, published_in

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
FEATURES = 64
MAX_TOKENS = 2048


class TinyStore(NamedTuple):
    """What a server is started with."""

    store: Store
    source: SubjectSource
    sae: Artifact

    def open(self) -> Served:
        """The model and its autoencoder, loaded anew."""
        return open_served(self.store, [self.sae.uri], self.source)

    def shared(self) -> Shared[Served]:
        """The same, for predictors of one server."""
        return Shared(self.open)


def tiny_store(factory: pytest.TempPathFactory) -> TinyStore:
    """A causal model with room for long answers, and a TopK autoencoder of random directions at its middle."""
    folder = shared_folder(factory, "served", _make)
    store = open_store(str(folder / "store"))
    return TinyStore(store, resolve_source(str(folder / "model")), published_in(store)["sae"])


def _make(folder: Path) -> None:
    store = open_store(str(folder / "store"))
    source = _with_room(tiny_llama(folder / "model"))
    corpus = tiny_corpus(store, source, folder / "text")
    activations = capture(store, corpus, source, SubjectConfig(device="cpu"), CaptureConfig(hooks=(HOOK,))).artifact
    sample_ND = ActivationReader(activations, HOOK, "train").acts(0, 200).float()
    sae = random_directions(TopKConfig(width=FEATURES, k=6), WIDTH, sample_ND.mean(dim=0), seed=3)
    publish_sae(store, sae, activations)


def _with_room(source: SubjectSource) -> SubjectSource:
    path = Path(source.path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": MAX_TOKENS}))
    return resolve_source(source.path)
