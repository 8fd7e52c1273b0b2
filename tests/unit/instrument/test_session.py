"""Sessions: what they read is what was captured and what dense encoding gives, token by token, in many families."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch import Tensor

from mistudio.activations import ActivationReader, CaptureConfig, capture
from mistudio.artifacts import Artifact, open_artifact, open_store
from mistudio.corpus.tokens import find_specials
from mistudio.errors import ConfigError, InputError, SubjectError
from mistudio.instrument import Ends, PlacedAutoencoder, Session, TextTokens, open_session, place_autoencoder, readings
from mistudio.sae import NormLimit, SparseAutoencoder, StandardConfig, TopKConfig, load_autoencoder, new_autoencoder
from mistudio.subject import HookPoint, Subject, SubjectConfig, resolve_hooks, run_captured, subject_from_model
from tests.support.directions import random_directions
from tests.support.families import CAUSAL, ENCODERS, byte_level_tokenizer
from tests.support.tiny import CONTEXT_LENGTH, WIDTH, tiny_llama
from tests.support.tiny_run import CPU, HOOK, TinyRun, identity_sae, publish_sae

FAMILIES = ("gpt2", "gpt_neox_parallel", "opt_post_norm", "llama", "gemma2", "mixtral", "bert", "distilbert")
LATENTS = [40, 3, 3, 63]


@pytest.fixture
def session(llama: TinyRun, sae: Artifact, thresholded: Artifact) -> Iterator[Session]:
    with open_session([sae, thresholded], llama.source, CPU) as opened:
        yield opened


def family_session(family: str, config: TopKConfig | StandardConfig) -> Session:
    """A model of the family that knows the bytes, and an autoencoder with random directions at its middle."""
    tokenizer = byte_level_tokenizer()
    torch.manual_seed(0)
    settings = {**CAUSAL, **ENCODERS}[family]()
    settings.vocab_size = len(tokenizer)
    auto_class = tf.AutoModelForMaskedLM if family in ENCODERS else tf.AutoModelForCausalLM
    subject = subject_from_model(auto_class.from_config(settings), tokenizer)
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", 1)])
    sae = random_directions(config, hook.width)
    return Session(subject, [PlacedAutoencoder(sae, Ends(hook, hook), "sae", "0")])


def alone(subject: Subject, tokens: TextTokens, point: str = HOOK) -> Tensor:
    """Activations of one text read by itself, without a batch."""
    specials = find_specials(subject.tokenizer)
    ids = [*specials.prefix, *tokens.token_ids.tolist(), *specials.suffix]
    (hook,) = resolve_hooks(subject, [HookPoint.parse(point)])
    whole = run_captured(subject, [hook], torch.tensor([ids]))[hook.point][0]
    return whole[len(specials.prefix) : len(ids) - len(specials.suffix)]


def dense(sae: SparseAutoencoder, subject: Subject, tokens: TextTokens) -> np.ndarray:
    return sae.encode(alone(subject, tokens)).numpy()


@pytest.mark.parametrize("config", [TopKConfig(width=64, k=5), StandardConfig(width=64)], ids=["topk", "standard"])
def test_a_reading_says_on_which_tokens_nothing_is_active_for_their_length(config: TopKConfig | StandardConfig) -> None:
    texts = ["the cat sat on the mat", "a hat is a hat"]
    session = family_session("llama", config)
    sae = session.placed().sae
    free = list(session.read(texts, LATENTS))
    assert not any(reading.beyond_T.any() for reading in free)
    length_N = torch.cat([alone(session.subject, reading.tokens).norm(dim=1) for reading in free])
    sae.norm_limit = NormLimit(torch.zeros(sae.d_in), float(length_N.quantile(0.6)))
    for one, other, before in zip(session.read(texts, LATENTS), session.active(texts), free, strict=True):
        expected_T = (alone(session.subject, one.tokens).norm(dim=1) > sae.norm_limit.distance).numpy()
        assert one.beyond_T.tolist() == other.beyond_T.tolist() == expected_T.tolist()
        np.testing.assert_allclose(one.value_TL, np.where(expected_T[:, None], 0, before.value_TL), rtol=1e-5)
        assert not expected_T[other.token_A].any()
        assert expected_T.any()


@pytest.mark.parametrize("config", [TopKConfig(width=64, k=5), StandardConfig(width=64)], ids=["topk", "standard"])
@pytest.mark.parametrize("family", FAMILIES)
def test_readings_are_dense_encodings_of_each_text_alone(family: str, config: TopKConfig | StandardConfig) -> None:
    texts = ["the cat sat on the mat", "a", "naïve café 猫 sat, twice; a hat is a hat", ""]
    session = family_session(family, config)
    chosen, active = list(session.read(texts, LATENTS)), list(session.active(texts))
    assert [reading.tokens.text for reading in chosen] == [reading.tokens.text for reading in active] == texts
    sae, fired = session.placed().sae, 0
    for one, other in zip(chosen[:-1], active[:-1], strict=True):
        expected_TF = dense(sae, session.subject, one.tokens)
        np.testing.assert_allclose(one.value_TL, expected_TF[:, LATENTS], rtol=1e-3, atol=1e-4)
        rebuilt_TF = np.zeros_like(expected_TF)
        rebuilt_TF[other.token_A, other.latent_A] = other.value_A
        np.testing.assert_allclose(rebuilt_TF, expected_TF, rtol=1e-3, atol=1e-4)
        fired += int((one.value_TL > 0).sum())
    assert fired
    assert chosen[-1].value_TL.shape == (0, len(LATENTS))
    assert len(active[-1].token_A) == 0


def test_readings_of_the_corpus_text_are_what_was_captured(llama: TinyRun, session: Session, texts: list[str]) -> None:
    reader, sae = ActivationReader(llama.activations, HOOK, "heldout"), session.placed().sae
    meta, captured_NF = reader.meta(0, len(reader)), sae.encode(reader.acts(0, len(reader)).float()).numpy()
    documents = {}
    for document in np.unique(meta["document"]).tolist():
        row_R = np.flatnonzero(meta["document"] == document)
        row_R = row_R[np.argsort(meta["position"][row_R])]
        documents[tuple(meta["token_id"][row_R].tolist())] = captured_NF[row_R]
    readings = list(session.read(texts, LATENTS, context_length=CONTEXT_LENGTH))
    known = [(one, documents[key]) for one in readings if (key := tuple(one.tokens.token_ids.tolist())) in documents]
    assert sum(len(one.tokens.token_ids) > CONTEXT_LENGTH for one, _ in known) > 2
    differing = total = 0
    for one, captured_TF in known:
        # Captured activations are in float16: two latents that are nearly equal may change places.
        close = np.isclose(one.value_TL, captured_TF[:, LATENTS], rtol=1e-2, atol=1e-2)
        differing, total = differing + int((~close).sum()), total + close.size
    assert differing <= 0.005 * total


def test_every_autoencoder_of_a_session_can_be_read(session: Session) -> None:
    for number in (0, 1):
        for reading in session.read(["the cat", "sat (twice) on 猫 and the hat"], LATENTS, autoencoder=number):
            expected_TF = dense(session.placed(number).sae, session.subject, reading.tokens)
            np.testing.assert_allclose(reading.value_TL, expected_TF[:, LATENTS], rtol=1e-3, atol=1e-4)


def test_activations_at_several_hook_points_come_from_one_reading(session: Session, texts: list[str]) -> None:
    for reading in session.activations(texts, ["resid_mid.1", "mlp_act.0"]):
        assert {str(point) for point in reading.acts} == {"resid_mid.1", "mlp_act.0"}
        for point, acts_TD in reading.acts.items():
            if 0 < len(reading.tokens.token_ids) < 100:  # in one sequence
                expected = alone(session.subject, reading.tokens, str(point))
                torch.testing.assert_close(acts_TD, expected, rtol=1e-3, atol=1e-4)


def test_texts_without_end_are_read_a_few_at_a_time(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "_CHARACTERS_AT_ONCE", 40)
    taken = []

    def coming() -> Iterator[str]:
        number = 0
        while True:
            number += 1
            taken.append(number)
            yield f"text {number} of the cat"

    found = list(islice(session.read(coming(), [0]), 5))
    assert [reading.tokens.text for reading in found] == [f"text {number} of the cat" for number in range(1, 6)]
    assert len(taken) <= 6


def test_the_size_of_a_group_does_not_matter(
    session: Session, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(session.active(texts))
    monkeypatch.setattr(readings, "_TEXTS_AT_ONCE", 3)
    for one, other in zip(whole, session.active(texts), strict=True):
        assert one.token_A.tolist() == other.token_A.tolist()
        np.testing.assert_allclose(one.value_A, other.value_A, rtol=1e-3, atol=1e-4)


def test_several_threads_may_read_from_one_session(session: Session, texts: list[str]) -> None:
    expected = [reading.value_TL for reading in session.read(texts, LATENTS)]
    with ThreadPoolExecutor(4) as pool:
        for together in pool.map(lambda _: list(session.read(texts, LATENTS)), range(8)):
            for reading, value_TL in zip(together, expected, strict=True):
                np.testing.assert_allclose(reading.value_TL, value_TL, rtol=1e-4, atol=1e-5)


def test_a_session_knows_what_was_loaded_by_digest(
    llama: TinyRun, session: Session, sae: Artifact, thresholded: Artifact
) -> None:
    assert session.digests == {
        llama.source.uri: llama.source.digest,
        sae.uri: sae.digest,
        thresholded.uri: thresholded.digest,
    }
    assert str(session.placed().ends.read.point) == HOOK
    assert torch.equal(session.placed(1).sae.W_enc, load_autoencoder(thresholded).W_enc)


def test_a_transcoder_has_two_hook_points(llama: TinyRun) -> None:
    artifact = publish_sae(llama.store, identity_sae(), llama.activations, "mlp_in.1", "mlp_out.1")
    with open_session(artifact, llama.source, CPU) as session:
        assert session.placed().ends.hooks == ["mlp_in.1", "mlp_out.1"]
        (reading,) = session.read(["the cat"], [0])
        expected = alone(session.subject, reading.tokens, "mlp_in.1")[:, 0].clamp(min=0)
        np.testing.assert_allclose(reading.value_TL[:, 0], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_model_alone_can_be_read(llama: TinyRun) -> None:
    with open_session(source=llama.source, config=CPU) as session:
        (reading,) = session.activations(["the cat"], [HOOK])
        assert reading.acts[HookPoint.parse(HOOK)].shape == (len(reading.tokens.token_ids), WIDTH)
        with pytest.raises(ConfigError, match="no autoencoder 0 in this session: it has 0"):
            session.read(["the cat"], [0])


def test_without_more_the_model_is_loaded_as_it_was_captured(llama: TinyRun) -> None:
    store, source, half = llama.store, llama.source, SubjectConfig(device="cpu", dtype="bfloat16")
    activations = capture(store, llama.corpus, source, half, CaptureConfig(hooks=(HOOK,))).artifact
    artifact = publish_sae(store, identity_sae(), activations)
    with pytest.raises(InputError, match="give it as model"):
        open_session(artifact)
    with open_session(artifact, source) as session:
        assert session.subject.dtype_name == "bfloat16"
    with open_session(artifact, source, CPU) as session:
        assert session.subject.dtype_name == "float32"


def test_an_autoencoder_of_another_model_is_refused(tmp_path_factory: pytest.TempPathFactory, sae: Artifact) -> None:
    other = tiny_llama(tmp_path_factory.mktemp("other"), seed=5)
    with pytest.raises(InputError, match="but .* has other content"):
        open_session(sae, other, CPU)


def test_an_autoencoder_of_another_width_is_refused(llama: TinyRun, session: Session) -> None:
    wide = new_autoencoder(StandardConfig(width=64), WIDTH + 1)
    artifact = publish_sae(llama.store, wide, llama.activations)
    with pytest.raises(SubjectError, match=r"components, and those at resid_post\.1 have 32: it is not of this model"):
        place_autoencoder(session.subject, artifact)


def test_a_served_store_needs_the_autoencoder_alone(
    llama: TinyRun, sae: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> None:
    served = open_store(str(tmp_path_factory.mktemp("served")))
    for path in (*sae.paths(), "manifest.json"):
        served.create(f"{sae.uri}/{path}", llama.store.read(f"{sae.uri}/{path}"))
    alone_there = open_artifact(served, sae.uri, "sae")
    with open_session(alone_there, llama.source, CPU) as session:
        assert session.digests[sae.uri] == sae.digest
    with pytest.raises(ConfigError, match="give the model"):
        open_session(alone_there)


def test_nothing_to_load_is_refused() -> None:
    with pytest.raises(ConfigError, match="give the model"):
        open_session()


def test_a_closed_session_says_so(llama: TinyRun, sae: Artifact) -> None:
    with open_session(sae, llama.source, CPU) as session:
        pass
    assert session.autoencoders == ()
    with pytest.raises(SubjectError, match="This session is closed"):
        _ = session.subject
    with pytest.raises(SubjectError, match="This session is closed"):
        session.read(["the cat"], [0])
    session.close()


def test_a_latent_that_is_not_there_is_refused(session: Session) -> None:
    with pytest.raises(InputError, match="no latent 64"):
        next(session.read(["the cat"], [0, 64]))


@pytest.mark.parametrize(
    ("texts", "latents", "message"),
    [
        ("the cat", [0], "texts is one text: give a list"),
        (["the cat"], [1.9], "1.9 is no number of a latent"),
        (["the cat"], [True], "True is no number of a latent"),
        (["the cat"], ["1"], "'1' is no number of a latent"),
        ([None], [0], "None is neither a text nor a chat"),
        ([5], [0], "5 is neither a text nor a chat"),
        ([[{"role": "user"}]], [0], "is neither a text nor a chat"),
    ],
)
def test_what_cannot_be_read_is_refused(session: Session, texts: Any, latents: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(session.read(texts, latents))
