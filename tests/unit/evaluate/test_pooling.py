"""Pooled vectors against the same computed one document at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mistudio.artifacts import Draft
from mistudio.corpus.reader import TokenCorpus
from mistudio.evaluate import pooling
from mistudio.evaluate.pooling import Passage, Pooler
from mistudio.sae import SparseAutoencoder, StandardConfig, TopKConfig, new_autoencoder
from mistudio.subject import HookPoint, batches, resolve_hooks, run_captured
from tests.support.tiny import WIDTH
from tests.support.tiny_run import HOOK, TinyRun


def saes() -> list[SparseAutoencoder]:
    made = [new_autoencoder(config, WIDTH) for config in (TopKConfig(width=64, k=4), StandardConfig(width=80))]
    for number, sae in enumerate(made):
        sae.for_training().initialise(torch.zeros(8, WIDTH), torch.Generator().manual_seed(number))
    return made


def passages_of(corpus: TokenCorpus, most: int = 99) -> list[Passage]:
    document_S = corpus.documents("heldout")
    firsts = np.flatnonzero(np.diff(document_S, prepend=-1)).tolist()
    stops = [*firsts[1:], len(document_S)]
    return [Passage(a, min(b, a + most), "t", "a") for a, b in zip(firsts, stops, strict=True)]


def acts_of(run: TinyRun, corpus: TokenCorpus, passage: Passage) -> Tensor:
    """Activations of all tokens of the text, one sequence at a time."""
    hooks = resolve_hooks(run.subject, [HookPoint.parse(HOOK)])
    parts = []
    for index in range(passage.first, passage.stop):
        ids = torch.tensor(corpus.sequence("heldout", index).token_ids.astype(np.int64))[None]
        acts_TD = run_captured(run.subject, hooks, ids)[hooks[0].point][0]
        parts.append(acts_TD[corpus.num_prefix : len(acts_TD) - corpus.num_suffix])
    return torch.cat(parts)


def pooler_of(run: TinyRun, pool: str, batch_tokens: int = 200) -> Pooler:
    (hook,) = resolve_hooks(run.subject, [HookPoint.parse(HOOK)])
    return Pooler(run.subject, hook, TokenCorpus(run.corpus), pool, batch_tokens)


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize(("pool", "batch_tokens", "block"), [("mean", 200, 5), ("max", 200, 5), ("mean", 1, 256)])
def test_each_row_is_the_mean_or_maximum_over_the_documents_text(
    kind: str, pool: str, batch_tokens: int, block: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: TinyRun = request.getfixturevalue(kind)
    monkeypatch.setattr(pooling, "_BLOCK_DOCUMENTS", block)
    corpus = TokenCorpus(run.corpus)
    passages = passages_of(corpus)
    assert max(passage.stop - passage.first for passage in passages) > 1
    draft = Draft(run.store, f"pooled/{kind}{pool}{batch_tokens}")
    pooled = pooler_of(run, pool, batch_tokens).run(draft, "heldout", passages, saes())
    assert pooled.acts.shape == (len(passages), WIDTH)
    for row, passage in enumerate(passages):
        acts_ND = acts_of(run, corpus, passage)
        reduced = acts_ND.mean(dim=0) if pool == "mean" else acts_ND.amax(dim=0)
        np.testing.assert_allclose(pooled.acts[row], reduced.numpy(), rtol=1e-3, atol=1e-5)
        for latents, sae in zip(pooled.latents, saes(), strict=True):
            acts_NF = sae.encode(acts_ND)
            expected = acts_NF.mean(dim=0) if pool == "mean" else acts_NF.amax(dim=0)
            np.testing.assert_allclose(latents[[row]].toarray()[0], expected.detach().numpy(), rtol=1e-3, atol=1e-4)


def test_only_the_first_sequences_of_a_document_are_read(llama: TinyRun) -> None:
    corpus = TokenCorpus(llama.corpus)
    passages = passages_of(corpus, most=1)
    pooled = pooler_of(llama, "mean").run(Draft(llama.store, "pooled/first"), "heldout", passages, [])
    for row, passage in enumerate(passages):
        np.testing.assert_allclose(
            pooled.acts[row], acts_of(llama, corpus, passage).mean(dim=0).numpy(), rtol=1e-3, atol=1e-5
        )


def test_blocks_that_are_done_are_not_done_again(llama: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "_BLOCK_DOCUMENTS", 4)
    passages = passages_of(TokenCorpus(llama.corpus))
    draft = Draft(llama.store, "pooled/resumed")
    whole = pooler_of(llama, "mean").run(draft, "heldout", passages, saes())
    assert len(draft.work_names()) == -(-len(passages) // 4)
    draft.remove_work("heldout-00001.safetensors")
    ran: list[int] = []
    monkeypatch.setattr(
        batches, "run_captured", lambda *args: (ran.append(len(args[2])), run_captured(*args))[1], raising=True
    )
    again = pooler_of(llama, "mean").run(draft, "heldout", passages, saes())
    assert sum(ran) == sum(passage.stop - passage.first for passage in passages[4:8])
    np.testing.assert_array_equal(again.acts, whole.acts)
    for one, other in zip(again.latents, whole.latents, strict=True):
        assert (one != other).nnz == 0
