"""A tiny model that chats, with two autoencoders and what was found of one's features, as look-ups need it.

The autoencoders' directions are drawn at random, so that what a feature does is known from its rows. Of the first, the
feature ``PLANTED`` reads what tells texts of the sea from texts of the land.
"""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mistudio.activations import ActivationReader, CaptureConfig, capture
from mistudio.artifacts import Artifact, Store, artifact_uris, open_artifact, open_store
from mistudio.evaluate import EvaluateConfig, evaluate
from mistudio.explain import ExplainConfig, explain
from mistudio.find import FindConfig, find_features
from mistudio.instrument import Session, open_session
from mistudio.instrument.served import Served, open_served
from mistudio.report.step import report
from mistudio.sae import SparseAutoencoder, StandardConfig, TopKConfig
from mistudio.score.step import score
from mistudio.subject import HookPoint, SubjectConfig, SubjectSource, resolve_source
from tests.support.directions import random_directions
from tests.support.labelled_texts import LANDS, SEAS, made_up, saved_with_template
from tests.support.shared import shared_folder
from tests.support.tiny import WIDTH, tiny_corpus
from tests.support.tiny_run import publish_sae

HOOK, LATER_HOOK = "resid_post.1", "resid_post.2"
FEATURES = 64
PLANTED = 7
CPU = SubjectConfig(device="cpu")


class LookedUp(NamedTuple):
    """A store with a line from text to scores, and the model that it is of."""

    store: Store
    source: SubjectSource
    scores: Artifact
    later_sae: Artifact

    def open(self, mode: str = "rw") -> Served:
        """What look-ups are made on: the line, and an autoencoder of which nothing is known."""
        store = open_store(self.store.url, "r" if mode == "r" else "rw")
        return open_served(store, [self.scores.uri, self.later_sae.uri], self.source, CPU)


def looked_up(factory: pytest.TempPathFactory) -> LookedUp:
    """The store, filled once for all tests of a run."""
    folder = shared_folder(factory, "looked-up", _make)
    store = open_store(str(folder / "store"))
    scores, saes = (
        [open_artifact(store, uri) for uri in artifact_uris(store) if uri.startswith(f"{kind}/")]
        for kind in ("scores", "sae")
    )
    later = next(sae for sae in saes if sae.manifest.config["hook"] == LATER_HOOK)
    return LookedUp(store, resolve_source(str(folder / "model")), scores[0], later)


def _make(folder: Path) -> None:
    store = open_store(str(folder / "store"))
    source = saved_with_template(folder / "model")
    corpus = tiny_corpus(store, source, folder / "text")
    activations = capture(store, corpus, source, CPU, CaptureConfig(hooks=(HOOK, LATER_HOOK))).artifact
    sae = publish_sae(store, _planted(activations, source), activations)
    later = random_directions(TopKConfig(width=2 * FEATURES, k=6), WIDTH, _mean(activations, LATER_HOOK), seed=4)
    publish_sae(store, later, activations, LATER_HOOK)
    features = find_features(store, sae, source, CPU, FindConfig(contexts=6, lens_tokens=4, map=False)).artifact
    explanations = explain(store, features, source, CPU, ExplainConfig()).artifact
    scores = score(store, explanations, source, CPU).artifact
    evaluation = evaluate(store, sae, source, CPU, EvaluateConfig(ce_tokens=500)).artifact
    report(store, features, evaluation, scores=scores)


def _planted(activations: Artifact, source: SubjectSource) -> SparseAutoencoder:
    """Features that fire far out along their directions alone, and one on texts of the sea."""
    acts_ND = ActivationReader(activations, HOOK, "train").acts(0, 1000).float()
    sae = random_directions(StandardConfig(width=FEATURES), WIDTH, acts_ND.mean(dim=0), seed=3)
    sae.b_enc.sub_((acts_ND @ sae.W_enc.T).std(dim=0))
    with open_session((), source, CPU) as session:
        sea_ND, land_ND = (_tokens_of(session, words) for words in (SEAS, LANDS))
    apart_D = sea_ND.mean(dim=0) - land_ND.mean(dim=0)
    sae.W_enc[PLANTED], sae.b_enc[PLANTED] = _discriminant(sea_ND, land_ND)
    sae.W_dec[PLANTED] = apart_D / apart_D.norm()
    return sae


def _discriminant(one_ND: Tensor, other_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares on a target of 1 for the tokens of the one kind and of -1 for the others: weights and bias."""
    acts_ND = torch.cat([one_ND, other_ND])
    with_bias = torch.cat([acts_ND, torch.ones(len(acts_ND), 1)], dim=1)
    target_N1 = torch.cat([torch.ones(len(one_ND), 1), -torch.ones(len(other_ND), 1)])
    found = torch.linalg.lstsq(with_bias, target_N1).solution[:, 0]
    return found[:-1], found[-1]


def _mean(activations: Artifact, hook: str) -> Tensor:
    return ActivationReader(activations, hook, "train").acts(0, 200).float().mean(dim=0)


def _tokens_of(session: Session, words: list[str]) -> Tensor:
    readings = session.activations(made_up(words, 40, 5), [HOOK])
    return torch.cat([reading.acts[HookPoint.parse(HOOK)].float() for reading in readings])
