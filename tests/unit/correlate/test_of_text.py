"""A text's features are those of encoding it directly, on the tokens that count."""

import numpy as np
import pytest
import torch

from mistudio.activations import ActivationReader
from mistudio.correlate.config import CorrelateConfig
from mistudio.correlate.correlator import Correlator
from mistudio.correlate.queries import TextQuery
from mistudio.correlate.replies import Reply
from mistudio.errors import InputError, NotFound
from mistudio.features import FEATURES
from mistudio.features.tables import TableReader
from mistudio.instrument.messages import Message
from mistudio.instrument.served import Served
from mistudio.sae.limit import NormLimit
from mistudio.subject import run_captured
from tests.support.labelled_texts import LANDS, SEAS, made_up
from tests.support.looked_up import FEATURES as NUM_FEATURES
from tests.support.looked_up import HOOK, LATER_HOOK, PLANTED, LookedUp

TEXT = "the cat sat under the old tree and then a dog ran over the hat"
CHAT = (
    Message(role="user", content="the moon took a river"),
    Message(role="assistant", content="once the sun gave it often"),
)


def encoded(served: Served, ids: list[int], number: int = 0) -> np.ndarray:
    """Activations of all features on each token [T, F], by one pass and one product."""
    placed = served.session.placed(number)
    with torch.inference_mode():
        acts = run_captured(served.session.subject, [placed.ends.read], torch.tensor([ids]), None)
        return placed.sae.encode(acts[placed.ends.read.point][0].float()).numpy()


def text_ids(served: Served, text: str = TEXT) -> list[int]:
    return [int(token) for token in served.session.subject.tokenizer(text)["input_ids"]]


def by_token(reply: Reply) -> np.ndarray:
    """The hits' values on each token [T, F]; zeros for features that are no hits."""
    assert reply.tokens is not None
    values = np.zeros((len(reply.tokens), NUM_FEATURES))
    for hit in reply.hits:
        assert hit.by_token is not None
        values[:, hit.feature] = hit.by_token
    return values


def test_the_features_of_a_text_are_those_of_direct_encoding(correlator: Correlator, served: Served) -> None:
    reply = correlator.text(TextQuery(text=TEXT, top=1000, by_token=True))
    acts_TF = encoded(served, text_ids(served))[1:]  # the first token begins every text, and does not count
    np.testing.assert_allclose(by_token(reply), acts_TF, rtol=1e-4, atol=1e-5)
    assert {hit.feature for hit in reply.hits} == set(np.flatnonzero(acts_TF.max(axis=0)))
    assert [hit.value for hit in reply.hits] == sorted((hit.value for hit in reply.hits), reverse=True)
    best = reply.hits[0]
    assert best.value == pytest.approx(acts_TF.max(), rel=1e-4)
    assert best.values["mean"] == pytest.approx(acts_TF[:, best.feature].mean(), rel=1e-4)
    assert best.values["fires"] == (acts_TF[:, best.feature] > 0).sum()
    assert reply.num_tokens == len(acts_TF)


def test_a_reply_says_where_each_token_stands_in_the_text(correlator: Correlator) -> None:
    reply = correlator.text(TextQuery(text=TEXT, by_token=True))
    assert reply.tokens is not None
    assert [TEXT[token.start : token.end] for token in reply.tokens] == [token.text for token in reply.tokens]
    assert "".join(token.text for token in reply.tokens) == TEXT


def test_the_strongest_features_of_each_token_are_those_of_direct_encoding(
    correlator: Correlator, served: Served
) -> None:
    reply = correlator.text(TextQuery(text=TEXT, strongest=3))
    acts_TF = encoded(served, text_ids(served))[1:]
    assert reply.tokens is not None
    for token, acts_F in zip(reply.tokens, acts_TF, strict=True):
        order = np.argsort(-acts_F, kind="stable")[: min(3, int((acts_F > 0).sum()))]
        assert [each.feature for each in token.strongest] == order.tolist()
        np.testing.assert_allclose([each.value for each in token.strongest], acts_F[order], rtol=1e-4)


def test_every_hit_says_what_is_known_of_its_feature(correlator: Correlator, served: Served) -> None:
    reply = correlator.text(TextQuery(text=TEXT, top=3))
    features = served.features[0].features
    assert features is not None
    W_dec_FD = served.session.placed().sae.W_dec
    for hit in reply.hits:
        assert hit.autoencoder == served.features[0].name == HOOK
        assert hit.label == features.column("label")[hit.feature].as_py()
        assert hit.density == features.column("density")[hit.feature].as_py()
        assert hit.decoder_norm == pytest.approx(W_dec_FD[hit.feature].norm().item(), rel=1e-5)
        assert hit.page is not None
        assert hit.page.startswith("report/")
        assert hit.page.endswith(f"/dashboard.html#feature={hit.feature}")
    assert set(reply.lineage) == {"subject", "sae", "features", "explanations", "scores"}
    assert reply.lineage["sae"].digest == served.session.placed().digest


def test_the_difference_is_from_the_mean_over_the_training_tokens(correlator: Correlator, served: Served) -> None:
    reply = correlator.text(TextQuery(text=TEXT, top=1000, pool="difference"))
    features = served.features[0].features
    assert features is not None
    background_F = features.column("density").to_numpy() * features.column("mean").to_numpy()
    acts_TF = encoded(served, text_ids(served))[1:]
    difference_F = acts_TF.mean(axis=0) - background_F
    expected = [feature for feature in np.argsort(-difference_F, kind="stable") if difference_F[feature] > 0]
    assert [hit.feature for hit in reply.hits] == expected
    np.testing.assert_allclose([hit.value for hit in reply.hits], difference_F[expected], rtol=1e-3, atol=1e-6)


def test_the_deviation_from_the_histogram_is_that_of_the_training_tokens(
    correlator: Correlator, served: Served
) -> None:
    """Against all activations of the captured training tokens, encoded anew."""
    features = served.features[0].features
    assert features is not None
    reader = ActivationReader(served.features[0].line.activations, HOOK, "train")
    acts_ND = reader.acts(0, features.about.num_tokens).float()
    acts_NF = served.session.placed().sae.encode(acts_ND).detach().double().numpy()
    reply = correlator.text(TextQuery(text=TEXT, top=1000, pool="standardised"))
    acts_TF = encoded(served, text_ids(served))[1:].astype(np.float64)
    assert len(reply.hits) > 5
    for hit in reply.hits:
        exact = (acts_TF[:, hit.feature].mean() - acts_NF[:, hit.feature].mean()) / acts_NF[:, hit.feature].std()
        assert hit.value == pytest.approx(exact, rel=0.03, abs=0.01)


def test_only_the_messages_of_the_roles_count(correlator: Correlator, served: Served) -> None:
    """The template writes <s><|user|>\\n…</s>\\n<|assistant|>\\n…</s>\\n."""
    whole = correlator.text(TextQuery(messages=CHAT, top=1000, by_token=True))
    assert whole.tokens is not None
    ids = [token.id for token in whole.tokens]
    acts_TF = encoded(served, ids)
    for roles in (None, ("user",), ("assistant",), ("user", "assistant")):
        reply = correlator.text(TextQuery(messages=CHAT, roles=roles, top=1000, by_token=True))
        assert reply.tokens is not None
        counts_T = np.array([token.role in (roles or ("user", "assistant")) for token in reply.tokens])
        assert 0 < counts_T.sum() < len(ids)
        assert [token.left_out is None for token in reply.tokens] == counts_T.tolist()
        np.testing.assert_allclose(by_token(reply), np.where(counts_T[:, None], acts_TF, 0), rtol=1e-4, atol=1e-5)
    said = {role: "".join(token.text for token in whole.tokens if token.role == role) for role in ("user", "assistant")}
    assert said == {one.role: one.content for one in CHAT}
    assert whole.tokens[0].left_out == "special"
    assert {token.left_out for token in whole.tokens} == {None, "special", "template"}


def test_a_role_that_no_message_has_is_refused_with_those_that_are_there(correlator: Correlator) -> None:
    with pytest.raises(InputError, match="no message is of system; the chat has user, assistant"):
        correlator.text(TextQuery(messages=CHAT, roles=("system",)))


def test_an_empty_text_has_no_features_and_says_so(correlator: Correlator) -> None:
    reply = correlator.text(TextQuery(text="", by_token=True, strongest=2))
    assert (reply.hits, reply.tokens, reply.num_tokens) == ((), (), 0)
    assert "empty" in reply.warnings[0]


def test_special_tokens_alone_have_no_features_and_say_so(correlator: Correlator) -> None:
    reply = correlator.text(TextQuery(ids=(0, 1, 1), by_token=True))
    assert (reply.hits, reply.num_tokens) == ((), 0)
    assert reply.tokens is not None
    assert [token.left_out for token in reply.tokens] == ["special"] * 3
    assert "No token counts" in reply.warnings[0]


def test_a_text_that_spells_a_special_token_is_text(correlator: Correlator) -> None:
    reply = correlator.text(TextQuery(text="</s>", by_token=True))
    assert reply.tokens is not None
    assert "".join(token.text for token in reply.tokens) == "</s>"
    assert all(token.left_out is None for token in reply.tokens)


def test_ids_are_read_as_they_are(correlator: Correlator, served: Served) -> None:
    ids = text_ids(served)
    reply = correlator.text(TextQuery(ids=tuple(ids), top=1000, by_token=True))
    acts_TF = encoded(served, ids)
    acts_TF[0] = 0
    np.testing.assert_allclose(by_token(reply), acts_TF, rtol=1e-4, atol=1e-5)
    bare = correlator.text(TextQuery(ids=tuple(ids[1:]), top=1000, by_token=True))
    np.testing.assert_allclose(by_token(bare), encoded(served, ids[1:]), rtol=1e-4, atol=1e-5)


def test_an_id_that_the_model_does_not_know_is_refused(correlator: Correlator) -> None:
    with pytest.raises(InputError, match="there is no token 99999"):
        correlator.text(TextQuery(ids=(5, 99_999)))


def test_a_long_text_is_read_in_pieces(served: Served) -> None:
    config = CorrelateConfig(piece_tokens=8)
    reply = Correlator(served, config).text(TextQuery(text=TEXT, top=1000, by_token=True))
    ids = text_ids(served)
    assert len(ids) > 9
    pieces = [encoded(served, [ids[0], *ids[start : start + 7]])[1:] for start in range(1, len(ids), 7)]
    np.testing.assert_allclose(by_token(reply), np.concatenate(pieces), rtol=1e-4, atol=1e-5)


def test_too_long_a_text_and_too_many_values_are_refused(served: Served) -> None:
    short = Correlator(served, CorrelateConfig(max_tokens=16, max_values=100))
    with pytest.raises(InputError, match="at most 16 are read"):
        short.text(TextQuery(text=TEXT * 4))
    with pytest.raises(InputError, match="a reply has at most 100"):
        short.text(TextQuery(text="the cat sat", top=50, by_token=True))


def test_tokens_beyond_the_norm_limit_do_not_count(line: LookedUp) -> None:
    with line.open() as own:
        placed = own.session.placed()
        ids = text_ids(own)
        with torch.inference_mode():
            acts_TD = run_captured(own.session.subject, [placed.ends.read], torch.tensor([ids]), None)[
                placed.ends.read.point
            ][0]
        centre_D = torch.zeros(acts_TD.shape[1])
        far_T = acts_TD.norm(dim=1)
        placed.sae.norm_limit = NormLimit(centre_D, float(far_T[1:].sort().values[-2]) - 1e-4)
        reply = Correlator(own).text(TextQuery(text=TEXT, by_token=True))
        assert reply.tokens is not None
        expected = (~placed.sae.keeps(acts_TD[1:])).tolist()
        assert 0 < sum(expected) < len(expected)
        assert [token.left_out == "beyond_norm" for token in reply.tokens] == expected
        assert reply.num_tokens == len(expected) - sum(expected)


def test_an_autoencoder_is_named_by_its_hook_point_or_uri(
    correlator: Correlator, served: Served, line: LookedUp
) -> None:
    for name in (LATER_HOOK, line.later_sae.uri):
        reply = correlator.text(TextQuery(text=TEXT, autoencoder=name, top=1))
        assert (reply.autoencoder, reply.hook) == (LATER_HOOK, LATER_HOOK)
        acts_TF = encoded(served, text_ids(served), number=1)[1:]
        assert reply.hits[0].feature == acts_TF.max(axis=0).argmax()
        assert reply.hits[0].label is reply.hits[0].density is reply.hits[0].page is None
        assert set(reply.lineage) == {"subject", "sae"}
    with pytest.raises(NotFound, match=r"no autoencoder 'resid_post.9' here; there is resid_post.1, resid_post.2"):
        correlator.text(TextQuery(text=TEXT, autoencoder="resid_post.9"))


def test_a_background_that_is_not_known_is_refused(correlator: Correlator) -> None:
    with pytest.raises(InputError, match="nothing is known of the features of resid_post.2"):
        correlator.text(TextQuery(text=TEXT, autoencoder=LATER_HOOK, pool="difference"))


def test_the_planted_feature_fires_on_its_texts_and_not_on_others(correlator: Correlator) -> None:
    def mean(words: list[str]) -> float:
        reply = correlator.text(TextQuery(text=" ".join(made_up(words, 5, 11)), pool="mean", top=1000))
        return next((hit.value for hit in reply.hits if hit.feature == PLANTED), 0.0)

    assert mean(SEAS) > 3 * mean(LANDS)


def test_the_histograms_of_the_table_fit_its_edges(served: Served) -> None:
    features = served.features[0].features
    assert features is not None
    (batch,) = TableReader(features.artifact, FEATURES).batches(["histogram"])
    assert all(len(each) == len(features.about.histogram_edges) - 1 for each in batch["histogram"])
