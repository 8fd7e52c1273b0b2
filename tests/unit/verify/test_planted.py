"""The planted line end to end, as small as it gets, and reading concepts off activations whose answer is known."""

import numpy as np
import pytest
import torch

from mistudio.artifacts import Store, artifact_uris, open_artifact, open_store
from mistudio.demo import DemoConfig
from mistudio.sae import TopKConfig, load_autoencoder, new_autoencoder
from mistudio.subject import load_tokenizer
from mistudio.verify.concepts import CONCEPTS, WORDS
from mistudio.verify.explained import explained
from mistudio.verify.grammar import Grammar
from mistudio.verify.planted import Tokens, concept_figures, tokens_of
from mistudio.verify.subjects import PlantedConfig, planted_line, word_tokenizer

TINY = PlantedConfig(
    documents=150,
    lm=DemoConfig(
        name="tiny",
        tokens=20_000,
        vocab_size=300,
        width=32,
        layers=2,
        heads=2,
        mlp_width=32,
        evaluated_bytes=2_000,
    ),
    hook="resid_post.0",
    width=64,
    k=4,
    sae_tokens=30_000,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


def test_every_word_is_one_token() -> None:
    tokenizer = word_tokenizer(WORDS)
    text = Grammar(0, 1).labelled[0].text
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.split(" ")) + 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_the_line_is_made_once_and_its_labels_belong_to_its_tokens(store: Store) -> None:
    line = planted_line(store, TINY, seed=0)
    made = {uri: open_artifact(store, uri).manifest.created_at for uri in artifact_uris(store)}
    assert {uri.split("/")[0] for uri in made} == {"subject", "corpus", "activations", "sae"}
    assert planted_line(store, TINY, seed=0).sae.uri == line.sae.uri
    assert {uri: open_artifact(store, uri).manifest.created_at for uri in artifact_uris(store)} == made

    grammar = Grammar(0, TINY.documents)
    tokens = tokens_of(line, grammar, TINY.hook, "heldout")
    # A bird's label stands where the token is a bird: the first layer still tells, so a probe of it has to be perfect.
    from mistudio.activations import ActivationReader

    ids = ActivationReader(line.activations, TINY.hook, "heldout").meta(0, len(tokens.acts_TD))["token_id"]
    names = [load_tokenizer(line.source).decode([token]).strip() for token in ids]
    is_bird = np.isin(names, ["robin", "sparrow", "crow", "eagle", "owl", "heron"])
    assert is_bird.any()
    assert (tokens.labels_TC[:, CONCEPTS.index("bird")] == is_bird).all()


def test_programs_of_a_lines_latents_are_scored_on_documents_that_they_were_not_made_from(store: Store) -> None:
    line = planted_line(store, TINY, seed=0)
    grammar, sae = Grammar(0, TINY.documents), load_autoencoder(line.sae)
    latents = {"determiner": 0, "stop": 1}
    found = explained(line, grammar, sae, TINY.hook, latents, seed=0)
    assert [each.concept for each in found] == list(latents)
    assert all(0 <= each.f1 <= 1 and each.named in CONCEPTS and each.text for each in found)
    assert explained(line, grammar, sae, TINY.hook, latents, seed=0) == found


def concept_tokens(seed: int, num_tokens: int = 3000) -> Tokens:
    """Activations with a direction of its own for each concept, and a little noise."""
    draw = np.random.default_rng(seed)
    labels_TC = draw.random((num_tokens, len(CONCEPTS))) < 0.05
    noise_TD = 0.01 * draw.standard_normal((num_tokens, len(CONCEPTS)))
    return Tokens(torch.from_numpy(labels_TC + noise_TD).float(), labels_TC)


def test_concepts_with_latents_of_their_own_are_read_in_full_and_controls_are_not() -> None:
    sae = new_autoencoder(TopKConfig(width=len(CONCEPTS), k=8), len(CONCEPTS))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(len(CONCEPTS)))
        sae.b_enc.fill_(-0.2)
        sae.W_dec.copy_(torch.eye(len(CONCEPTS)))
    figures = concept_figures(sae, concept_tokens(0), concept_tokens(1), seed=0)
    assert [each.concept for each in figures] == list(CONCEPTS)
    assert np.mean([each.sae.single for each in figures]) > 0.98
    assert np.mean([each.sae.f1 for each in figures]) > 0.97
    assert np.mean([each.dense for each in figures]) > 0.99
    assert np.mean([each.random.single for each in figures]) < 0.75
    assert np.mean([each.shuffled.group for each in figures]) == pytest.approx(0.5, abs=0.03)
    assert [each.sae.firing.latent for each in figures] == list(range(len(CONCEPTS)))
