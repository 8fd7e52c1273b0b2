"""A token's features are those whose decoder rows write it, and those that were found to be active on it."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.correlate import token_tables
from mistudio.correlate.correlator import Correlator
from mistudio.correlate.of_token import lens_logits
from mistudio.correlate.queries import TokenQuery
from mistudio.correlate.replies import Hit, Reply
from mistudio.correlate.token_tables import TokenTables
from mistudio.errors import ConfigError, InputError, StorageError
from mistudio.instrument.served import Served
from mistudio.settings import validated
from mistudio.subject import unembed
from tests.support.looked_up import FEATURES, LATER_HOOK


def of(reply: Reply, measure: str) -> list[Hit]:
    return [hit for hit in reply.hits if hit.measure == measure]


def token_of(served: Served, text: str) -> int:
    (token,) = served.session.subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    return int(token)


def peaked_on(served: Served) -> int:
    """A token that a top context peaks on and that is among the lift tokens of a feature."""
    features = served.features[0].features
    assert features is not None
    lifted = {token for feature in range(FEATURES) for token in features.row(feature)["lift_token_ids"]}
    contexts = (context for feature in range(FEATURES) for context in features.contexts(feature, {"top": 1}))
    return next(token for each in contexts if (token := each["token_ids"][each["peak"]]) in lifted)


def test_the_lens_of_a_token_is_the_unembedding_of_all_decoder_rows(correlator: Correlator, served: Served) -> None:
    """The final norm's weight, then the output embeddings: written out here for the model that it is."""
    token = token_of(served, " cat")
    model = served.session.subject.model
    W_dec_FD = served.session.placed().sae.W_dec.detach()
    with torch.no_grad():
        expected_F = W_dec_FD @ (model.model.norm.weight * model.lm_head.weight[token])
    torch.testing.assert_close(lens_logits(served.session.subject, W_dec_FD, token), expected_F)
    reply = correlator.token(TokenQuery(token=token, ways=("lens",), top=5))
    best = expected_F.topk(5)
    assert [hit.feature for hit in reply.hits] == best.indices.tolist()
    np.testing.assert_allclose([hit.value for hit in reply.hits], best.values, rtol=1e-4)
    worst = expected_F.topk(5, largest=False)
    suppressed = correlator.token(TokenQuery(token=token, ways=("lens",), top=5, suppressed=True))
    assert [hit.feature for hit in suppressed.hits] == worst.indices.tolist()


def test_the_rank_is_the_tokens_place_among_all_that_the_feature_promotes(
    correlator: Correlator, served: Served
) -> None:
    token = token_of(served, " cat")
    for hit in correlator.token(TokenQuery(token=token, ways=("lens",), top=3)).hits:
        logits_V = unembed(served.session.subject, served.session.placed().sae.W_dec[[hit.feature]])[0]
        assert hit.values["rank"] == (logits_V > logits_V[token]).sum() + 1


def test_the_lens_agrees_with_the_promoted_tokens_of_the_table(correlator: Correlator, served: Served) -> None:
    features = served.features[0].features
    assert features is not None
    row = features.row(11)
    token, logit = row["promoted_token_ids"][0], row["promoted_logits"][0]
    reply = correlator.token(TokenQuery(token=token, ways=("lens",), top=1000))
    (hit,) = [hit for hit in reply.hits if hit.feature == 11]
    assert hit.value == pytest.approx(logit, rel=1e-4)
    assert hit.values["rank"] == 1


def test_contexts_are_the_features_whose_top_contexts_peak_on_the_token(correlator: Correlator, served: Served) -> None:
    features = served.features[0].features
    assert features is not None
    peaks: dict[int, Counter[int]] = defaultdict(Counter)
    for feature in range(features.num_features):
        for context in features.contexts(feature, {"top": 100}):
            peaks[context["token_ids"][context["peak"]]][feature] += 1
    token = max(peaks, key=lambda one: len(peaks[one]))
    hits = of(correlator.token(TokenQuery(token=token, ways=("contexts",), top=1000)), "contexts")
    assert {hit.feature for hit in hits} == set(peaks[token])
    twice = correlator.token(TokenQuery(token=token, ways=("contexts", "contexts"), top=1000))
    assert list(twice.hits) == hits
    for hit in hits:
        total = len(features.contexts(hit.feature, {"top": 100}))
        assert hit.value == pytest.approx(peaks[token][hit.feature] / total, rel=1e-5)
    assert [hit.value for hit in hits] == sorted((hit.value for hit in hits), reverse=True)


def test_lift_is_as_the_table_has_it(correlator: Correlator, served: Served) -> None:
    features = served.features[0].features
    assert features is not None
    row = next(row for feature in range(FEATURES) if (row := features.row(feature))["lift_token_ids"])
    token = row["lift_token_ids"][0]
    hits = of(correlator.token(TokenQuery(token=token, ways=("lift",), top=1000)), "lift")
    (hit,) = [hit for hit in hits if hit.feature == row["feature"]]
    assert hit.value == pytest.approx(row["lift_values"][0], rel=1e-5)


def test_the_tables_turned_round_are_written_once_with_memory_for_some_pairs(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = served.features[0].features
    assert features is not None
    tokens = range(served.session.subject.vocab_size + 2)
    whole = [every(TokenTables(features.artifact), token) for token in tokens]
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path))
    monkeypatch.setattr(token_tables, "_PAIRS_AT_ONCE", 7)
    assert [every(TokenTables(features.artifact), token) for token in tokens] == whole
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file() and token_tables.FOLDER in path.parts)
    assert [path.name for path in made] == ["pairs.npy", "starts.npy"] * 2
    monkeypatch.delattr(token_tables, "_write")  # nothing is made anew
    assert [every(TokenTables(features.artifact), token) for token in tokens] == whole


def test_tables_that_cannot_be_read_are_made_anew_and_a_folder_that_cannot_be_written_is_named(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = served.features[0].features
    assert features is not None
    token = peaked_on(served)
    whole = every(TokenTables(features.artifact), token)
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path))
    every(TokenTables(features.artifact), token)
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:100])
    assert every(TokenTables(features.artifact), token) == whole
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="name another folder in MISTUDIO_SCRATCH"):
        TokenTables(features.artifact).lift(token)


def every(tables: TokenTables, token: int) -> list[list[float]]:
    return [column.tolist() for found in (tables.contexts(token), tables.lift(token)) for column in found]


def test_all_ways_that_are_known_are_gone_where_none_is_named(correlator: Correlator, served: Served) -> None:
    token = peaked_on(served)
    assert {hit.measure for hit in correlator.token(TokenQuery(token=token)).hits} == {"logit", "contexts", "lift"}
    other = correlator.token(TokenQuery(token=token, autoencoder=LATER_HOOK))
    assert {hit.measure for hit in other.hits} == {"logit"}
    with pytest.raises(InputError, match="ways: contexts: nothing is known"):
        correlator.token(TokenQuery(token=token, autoencoder=LATER_HOOK, ways=("contexts",)))


def test_a_token_is_given_as_text_with_the_space_before_it(correlator: Correlator, served: Served) -> None:
    by_text = correlator.token(TokenQuery(token=" cat"))
    assert by_text == correlator.token(TokenQuery(token=token_of(served, " cat")))
    assert by_text.tokens is not None
    assert by_text.tokens[0].text == " cat"


def test_a_text_of_several_tokens_is_refused_and_they_are_named(correlator: Correlator, served: Served) -> None:
    ids = served.session.subject.tokenizer(" cat cat", add_special_tokens=False)["input_ids"]
    with pytest.raises(InputError, match=rf"is 2 tokens: ' cat' \({ids[0]}\), ' cat' \({ids[1]}\)\. Give the id"):
        correlator.token(TokenQuery(token=" cat cat"))


@pytest.mark.parametrize("token", ["", "a" * 1001, "\ud800", -1, True, 1.5, None])
def test_what_is_neither_an_id_nor_a_text_is_refused_in_one_sentence(token: object) -> None:
    with pytest.raises(
        ConfigError, match=r"^token: give its id, from 0, or a text of 1 to 1,000 characters; not [^;]+$"
    ):
        validated(TokenQuery, {"token": token})


def test_a_token_that_the_model_does_not_know_is_refused(correlator: Correlator) -> None:
    with pytest.raises(InputError, match="there is no token 320000"):
        correlator.token(TokenQuery(token=320_000))
