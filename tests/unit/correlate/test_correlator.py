"""Look-ups from several threads at once, beside steering, and by an index where the store has one."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from mistudio.artifacts import artifact_uris, open_artifact
from mistudio.correlate.correlator import Correlator
from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.index.config import IndexConfig
from mistudio.correlate.index.step import index
from mistudio.correlate.pages import Pages
from mistudio.correlate.queries import (
    QUERIES,
    ConceptQuery,
    ExamplesQuery,
    FeatureQuery,
    Query,
    TextQuery,
    TokenQuery,
    VectorQuery,
)
from mistudio.correlate.replies import Reply
from mistudio.instrument.served import Served
from mistudio.report.config import ReportConfig
from mistudio.report.step import report
from mistudio.subject import run_captured, spliced
from tests.support.labelled_texts import LANDS, SEAS, made_up
from tests.support.looked_up import LATER_HOOK, LookedUp
from tests.support.tiny import WIDTH

ASKED: tuple[Query, ...] = (
    TextQuery(text="the cat sat under the old tree", pool="standardised", by_token=True),
    TextQuery(text="a dog ran over the hat", autoencoder=LATER_HOOK, strongest=3),
    ConceptQuery(concept="cat"),
    TokenQuery(token=" cat"),
    FeatureQuery(feature=5),
    ExamplesQuery(positive=tuple(made_up(SEAS, 9, 1)), negative=tuple(made_up(LANDS, 9, 2))),
    VectorQuery(vector=(1.0,) * WIDTH, sides=("decoder", "encoder")),
)


def test_every_query_has_a_method_and_comes_back_as_json(correlator: Correlator) -> None:
    assert {type(query) for query in ASKED} == set(QUERIES.values())
    for query in ASKED:
        reply = correlator.ask(query)
        assert QUERIES[reply.look_up] is type(query)
        assert reply.hits
        assert Reply.model_validate_json(reply.model_dump_json()) == reply


def test_many_threads_at_once_get_what_one_gets(served: Served, correlator: Correlator) -> None:
    """A correlator that nothing was asked of yet, so that all that is made once is made under way."""
    expected = [correlator.ask(query) for query in ASKED]
    fresh = Correlator(served)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(fresh.ask, ASKED * 4))
    assert found == expected * 4


def test_steering_beside_them_changes_no_look_up(served: Served, correlator: Correlator) -> None:
    """Another thread holds an edit open, in which its own passes are run."""
    expected = [correlator.ask(query) for query in ASKED]
    is_open, may_end = threading.Event(), threading.Event()
    placed = served.session.placed()

    def steer() -> float:
        with spliced(served.session.subject, placed.ends.read, torch.zeros_like), torch.inference_mode():
            acts = run_captured(served.session.subject, [placed.ends.read], torch.tensor([[0, 5, 6]]), None)
            is_open.set()
            assert may_end.wait(60)
            return float(acts[placed.ends.read.point].abs().max())

    with ThreadPoolExecutor(1) as pool:
        steered = pool.submit(steer)
        assert is_open.wait(60)
        try:
            found = [correlator.ask(query) for query in ASKED]
        finally:
            may_end.set()
        assert steered.result() == 0
    assert found == expected


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_an_index_in_the_store_is_searched(own: LookedUp, kind: str) -> None:
    with own.open() as served:
        exact = Correlator(served)
        queries = (FeatureQuery(feature=5, relations=("decoder",)), VectorQuery(vector=(1.0, *[0.5] * (WIDTH - 1))))
        expected = [exact.ask(query) for query in queries]
        assert {reply.index for reply in expected} == {None}
        config = IndexConfig.model_validate({"kind": kind, "recall": 0.5, "queries": 20})
        made = index(own.store, served.features[0].line.sae, config).artifact
        found = [Correlator(served).ask(query) for query in queries]
        assert {reply.index for reply in found} == {made.uri}
        for one, other in zip(found, expected, strict=True):
            shared = {hit.feature for hit in one.hits} & {hit.feature for hit in other.hits}
            assert len(shared) >= 0.8 * len(other.hits)


def test_an_index_that_is_published_later_is_found(own: LookedUp, monkeypatch: pytest.MonkeyPatch) -> None:
    query = FeatureQuery(feature=5, relations=("decoder",))
    monkeypatch.setattr("mistudio.correlate.dictionary._LOOK_AGAIN_S", 1e9)
    with own.open() as served:
        correlator = Correlator(served)
        assert correlator.ask(query).index is None
        made = index(own.store, served.features[0].line.sae, IndexConfig(kind="flat", queries=20)).artifact
        assert correlator.ask(query).index is None  # the store is not asked with each query
        monkeypatch.setattr("mistudio.correlate.dictionary._LOOK_AGAIN_S", -1.0)
        assert Dictionary(served.session.placed(), served.features[0]).decoder()[1] == made.uri


def test_a_report_of_some_features_has_pages_of_those_alone(own: LookedUp) -> None:
    with own.open() as served:
        known = served.features[0]
        whole = known.line.find("scores")
        (uri,) = (uri for uri in artifact_uris(own.store) if uri.startswith("evaluation/"))
        features = known.line.features
        assert features is not None
        evaluation = open_artifact(own.store, uri)
        part = report(own.store, features, evaluation, ReportConfig(max_features=5), scores=whole).artifact
    pages = Pages(part)
    shown = [feature for feature in range(64) if pages.of(feature) is not None]
    assert len(shown) == 5
    assert pages.of(shown[0]) == f"{part.uri}/dashboard.html#feature={shown[0]}"
    embedded = part.file("dashboard.html").read_text()
    assert f'"feature":[{",".join(map(str, shown))}]' in embedded
    assert np.diff(shown).min() > 0
