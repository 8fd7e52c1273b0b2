"""A feature's relatives, and a vector's: by cosine, and as the table of neighbours has them."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from mistudio.correlate.correlator import Correlator
from mistudio.correlate.queries import FeatureQuery, VectorQuery
from mistudio.errors import InputError, NotFound
from mistudio.instrument.served import Served
from tests.support.looked_up import FEATURES, LATER_HOOK
from tests.support.tiny import WIDTH

TOGETHER = ("correlation", "pmi", "jaccard")


def cosines(rows_FD: torch.Tensor, vector_D: torch.Tensor) -> np.ndarray:
    found: np.ndarray = (functional.normalize(rows_FD.detach(), dim=1) @ functional.normalize(vector_D, dim=0)).numpy()
    return found


def test_the_nearest_directions_are_those_of_all_cosines(correlator: Correlator, served: Served) -> None:
    W_dec_FD = served.session.placed().sae.W_dec.detach()
    reply = correlator.feature(FeatureQuery(feature=5, relations=("decoder",), top=6))
    cosine_F = cosines(W_dec_FD, W_dec_FD[5])
    cosine_F[5] = -np.inf
    order = np.argsort(-cosine_F)[:6]
    assert [hit.feature for hit in reply.hits] == order.tolist()
    np.testing.assert_allclose([hit.value for hit in reply.hits], cosine_F[order], rtol=1e-4)


def test_what_fires_together_is_as_the_table_has_it(correlator: Correlator, served: Served) -> None:
    features = served.features[0].features
    assert features is not None
    feature = next(each for each in range(FEATURES) if set(TOGETHER) <= set(features.neighbours(each)))
    for relation in TOGETHER:
        reply = correlator.feature(FeatureQuery(feature=feature, relations=(relation,), top=3))
        expected = features.neighbours(feature)[relation][:3]
        assert [hit.feature for hit in reply.hits] == [other for other, _ in expected]
        np.testing.assert_allclose([hit.value for hit in reply.hits], [value for _, value in expected], rtol=1e-4)
        assert {hit.measure for hit in reply.hits} == {relation}


def test_relations_that_nothing_is_known_of_are_left_out_unless_they_are_named(correlator: Correlator) -> None:
    reply = correlator.feature(FeatureQuery(feature=5, autoencoder=LATER_HOOK))
    assert {hit.measure for hit in reply.hits} == {"decoder"}
    with pytest.raises(InputError, match="relations: jaccard: nothing is known"):
        correlator.feature(FeatureQuery(feature=5, autoencoder=LATER_HOOK, relations=("jaccard",)))


def test_a_feature_out_of_range_is_not_found(correlator: Correlator) -> None:
    with pytest.raises(NotFound, match=f"there is no feature {FEATURES}; resid_post.1 has {FEATURES}"):
        correlator.feature(FeatureQuery(feature=FEATURES))
    with pytest.raises(ValidationError):
        FeatureQuery(feature=-1)


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_a_vector_is_compared_with_all_rows_of_a_side(correlator: Correlator, served: Served, side: str) -> None:
    sae = served.session.placed(1).sae
    vector_D = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    rows_FD = sae.W_dec if side == "decoder" else sae.W_enc
    cosine_F = cosines(rows_FD, vector_D)
    for opposite in (False, True):
        query = VectorQuery.model_validate(
            {"vector": vector_D.tolist(), "sides": [side], "opposite": opposite, "autoencoder": LATER_HOOK, "top": 4}
        )
        reply = correlator.vector(query)
        order = np.argsort(cosine_F if opposite else -cosine_F)[:4]
        assert [hit.feature for hit in reply.hits] == order.tolist()
        np.testing.assert_allclose([hit.value for hit in reply.hits], cosine_F[order], rtol=1e-3)


def test_a_features_own_direction_finds_it(correlator: Correlator, served: Served) -> None:
    vector = tuple((100 * served.session.placed().sae.W_dec[9]).tolist())
    reply = correlator.vector(VectorQuery(vector=vector, sides=("decoder", "encoder"), top=1))
    assert [(hit.measure, hit.feature, round(hit.value, 4)) for hit in reply.hits] == [
        ("decoder", 9, 1.0),
        ("encoder", 9, 1.0),
    ]


def test_a_vector_of_another_width_is_refused(correlator: Correlator) -> None:
    with pytest.raises(InputError, match=f"it has 5 components, and activations at resid_post.1.* have {WIDTH}"):
        correlator.vector(VectorQuery(vector=(1.0,) * 5))


def test_a_vector_of_zeros_is_refused(correlator: Correlator) -> None:
    with pytest.raises(InputError, match="it is zero"):
        correlator.vector(VectorQuery(vector=(0.0,) * WIDTH))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        VectorQuery(vector=(value,) * WIDTH)


def test_a_vector_or_a_direction_is_needed() -> None:
    with pytest.raises(ValidationError, match="give a vector or the name of a direction"):
        VectorQuery()
