"""Features of a tiny run in tables of many files and row groups, and a made-up run with explanations and scores."""

import pytest

from mistudio.artifacts import Artifact, open_input, open_store
from mistudio.features import FeatureSet
from mistudio.find import context_tables, tables
from tests.support.fake_meaning import publish_meaningful_run
from tests.support.found import found_features
from tests.support.tiny_run import llama_run


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_tables, "_ROWS_OF_GROUP", 100)
        patch.setattr(context_tables, "_GROUPS_OF_FILE", 5)
        patch.setattr(tables, "_FEATURES_OF_GROUP", 10)
        patch.setattr(tables, "_NEIGHBOUR_FEATURES_OF_GROUP", 7)
        patch.setattr(tables, "_PLACES_OF_GROUP", 20)
        return found_features(llama_run(tmp_path_factory), map=True)


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    store = open_store(str(tmp_path_factory.mktemp("told")))
    features, _, scores = publish_meaningful_run(store, 40, dead=[4, 9], person={2: "what a person saw"})
    explanations = open_input(store, scores.manifest.inputs["explanations"], "explanations")
    return FeatureSet(features, explanations, scores)
