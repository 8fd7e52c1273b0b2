"""A feature's relatives, and a vector's: by cosine, and as the table of neighbours has them."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from mistudio.correlate.correlator import Correlator
from mistudio.correlate.queries import FeatureQuery, TextQuery, TokenQuery, VectorQuery
from mistudio.errors import InputError, NotFound, SubjectError
from mistudio.instrument.served import Served, open_served
from mistudio.sae import TopKConfig, new_autoencoder
from tests.support.looked_up import CPU, FEATURES, LATER_HOOK, LookedUp
from tests.support.tiny import MLP_WIDTH, WIDTH
from tests.support.tiny_run import publish_sae

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


def test_a_transcoder_reads_and_writes_at_points_of_their_own(own: LookedUp) -> None:
    """It reads the stream, and writes inside an MLP, which is wider and has no logit lens."""
    transcoder = new_autoencoder(TopKConfig(width=64, k=4), WIDTH, MLP_WIDTH)
    transcoder.for_training().initialise(torch.zeros(1, WIDTH), torch.Generator().manual_seed(0))
    with own.open() as first:
        activations = first.features[0].line.activations
    sae = publish_sae(own.store, transcoder, activations, "resid_mid.1", "mlp_act.1")
    with open_served(own.store, [sae.uri], own.source, CPU) as served:
        correlator = Correlator(served)
        assert correlator.vector(VectorQuery(vector=(1.0,) * MLP_WIDTH, top=2)).hits[0].measure == "decoder"
        assert correlator.vector(VectorQuery(vector=(1.0,) * WIDTH, sides=("encoder",))).hits[0].measure == "encoder"
        with pytest.raises(InputError, match=f"mlp_act.1, where .* writes, have {MLP_WIDTH}"):
            correlator.vector(VectorQuery(vector=(1.0,) * WIDTH))
        with pytest.raises(
            SubjectError, match=r"the logit lens reads the residual stream, and .* writes at mlp_act\.1"
        ):
            correlator.token(TokenQuery(token=5, ways=("lens",)))
        assert correlator.token(TokenQuery(token=5)).hits == ()
        text = correlator.text(TextQuery(text="the cat sat", top=1000, by_token=True))
        assert text.hook == "resid_mid.1"
        value_HT = np.array([hit.by_token for hit in text.hits])
        assert (value_HT > 0).sum(axis=0).max() <= 4
