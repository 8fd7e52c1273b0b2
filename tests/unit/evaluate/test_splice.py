"""Cross-entropy in the model against the same computed one sequence at a time, with a hook of the test's own."""

import copy
import dataclasses
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mistudio.activations import ActivationReader
from mistudio.artifacts import InputRef
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.ingest import ingest
from mistudio.corpus.reader import TokenCorpus
from mistudio.corpus.sources import open_source
from mistudio.errors import SubjectError
from mistudio.evaluate import splice
from mistudio.evaluate.splice import SpliceLosses, measure_splice
from mistudio.instrument import Ends
from mistudio.instrument.resume import Prefix
from mistudio.sae import NormLimit, SparseAutoencoder, TopKConfig, new_autoencoder
from mistudio.subject import (
    HookPoint,
    ResolvedHook,
    Subject,
    forward_logits,
    resolve_hooks,
    spliced,
    subject_from_model,
)
from tests.support.tiny import WIDTH, tiny_bert_tokenizer, tiny_documents
from tests.support.tiny_run import HOOK, TinyRun, identity_sae, zero_sae

ALL = 1_000_000


def random_sae() -> SparseAutoencoder:
    sae = new_autoencoder(TopKConfig(width=64, k=8), WIDTH)
    sae.for_training().initialise(torch.zeros(1, WIDTH), torch.Generator().manual_seed(0))
    return sae.requires_grad_(requires_grad=False)


def measure(run: TinyRun, sae: SparseAutoencoder, max_tokens: int = ALL, seed: int = 0) -> SpliceLosses:
    (place,) = resolve_hooks(run.subject, [HookPoint.parse(HOOK)])
    (losses,) = measure_splice(run.subject, place, [sae], TokenCorpus(run.corpus), max_tokens, seed)
    return losses


class Naive(NamedTuple):
    predictions: int
    ce: float
    kl: float


@torch.no_grad()
def naive_losses(run: TinyRun, replace: Callable[[Tensor], Tensor]) -> Naive:
    """One sequence at a time: ``replace`` all but the first position after block 1, predict the next token."""
    corpus, model = TokenCorpus(run.corpus), run.subject.model

    def hook(_module: torch.nn.Module, _args: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], replace(output[0, 1:])[None]], dim=1)

    count, ce, kl = 0, 0.0, 0.0
    for index in range(corpus.num_sequences("heldout")):
        ids = torch.tensor(corpus.sequence("heldout", index).token_ids.astype(np.int64))
        assert ids[0] == 0  # <s>
        clean_TV = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        handle = model.model.layers[1].register_forward_hook(hook)
        logits_TV = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        handle.remove()
        count += len(ids) - 1
        ce -= float(logits_TV.gather(1, ids[1:, None]).double().sum())
        kl += float((clean_TV.exp() * (clean_TV - logits_TV)).double().sum())
    return Naive(count, ce / count, kl / count)


def test_batches_with_padding_give_the_losses_of_one_sequence_at_a_time(llama: TinyRun) -> None:
    lengths = TokenCorpus(llama.corpus).lengths("heldout")
    assert lengths.min() < lengths.max()
    sae = random_sae()
    measured = measure(llama, sae)
    clean = naive_losses(llama, lambda x_TD: x_TD)
    rebuilt = naive_losses(llama, sae.reconstruct)
    zero = naive_losses(llama, torch.zeros_like)
    assert measured.predictions == clean.predictions == int(lengths.sum()) - len(lengths)
    assert measured.ce_clean == pytest.approx(clean.ce, rel=1e-5)
    assert measured.ce_spliced == pytest.approx(rebuilt.ce, rel=1e-5)
    assert measured.ce_zero == pytest.approx(zero.ce, rel=1e-5)
    assert measured.kl == pytest.approx(rebuilt.kl, rel=1e-4)
    assert measured.kl_zero == pytest.approx(zero.kl, rel=1e-4)
    assert measured.ce_recovered == pytest.approx((zero.ce - rebuilt.ce) / (zero.ce - clean.ce), rel=1e-4)
    assert measured.kl_recovered == pytest.approx(1 - rebuilt.kl / zero.kl, rel=1e-4)


def test_tokens_beyond_the_norm_limit_keep_their_activations_with_zeros_too(llama: TinyRun) -> None:
    reader = ActivationReader(llama.activations, HOOK, "heldout")
    length_N = reader.acts(0, len(reader)).float().norm(dim=1)
    saes = [random_sae() for _ in range(3)]
    saes[0].norm_limit = NormLimit(torch.zeros(WIDTH), float(length_N.median()) * 1.0001)
    saes[1].norm_limit = NormLimit(torch.zeros(WIDTH), 0.0)
    (place,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    half, nothing, everything = measure_splice(llama.subject, place, saes, TokenCorpus(llama.corpus), ALL, 0)

    def kept(x_TD: Tensor, y_TD: Tensor) -> Tensor:
        return torch.where(saes[0].keeps(x_TD)[:, None], y_TD, x_TD)

    rebuilt = naive_losses(llama, lambda x_TD: kept(x_TD, saes[0].reconstruct(x_TD)))
    zero = naive_losses(llama, lambda x_TD: kept(x_TD, torch.zeros_like(x_TD)))
    assert half.ce_spliced == pytest.approx(rebuilt.ce, rel=1e-5)
    assert half.ce_zero == pytest.approx(zero.ce, rel=1e-5)
    assert half.kl == pytest.approx(rebuilt.kl, rel=1e-4)
    assert half.kl_zero == pytest.approx(zero.kl, rel=1e-4)
    assert half.filtered_tokens == pytest.approx(len(length_N) // 2, abs=2)  # stored activations are rounded
    assert nothing.ce_spliced == nothing.ce_zero == nothing.ce_clean == half.ce_clean
    assert nothing.filtered_tokens == len(length_N)
    assert everything == measure(llama, random_sae())
    assert everything.filtered_tokens == 0


def generate(run: TinyRun, ids_BT: Tensor, num_tokens: int) -> Tensor:
    """The likeliest continuation by transformers' own loop, which reads each token once."""
    generated: Tensor = run.subject.model.generate(
        ids_BT,
        attention_mask=torch.ones_like(ids_BT),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
    )
    return generated


@torch.no_grad()
def test_generating_with_a_key_value_cache_says_what_reading_all_of_the_text_anew_says(llama: TinyRun) -> None:
    (place,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    sae, start_BT = random_sae(), torch.tensor([[0, 11, 12, 13], [0, 21, 22, 23]])
    anew_BT = start_BT
    with spliced(llama.subject, place, lambda x_BTD: sae.reconstruct(x_BTD.flatten(0, 1)).view_as(x_BTD)):
        cached_BT = generate(llama, start_BT, 12)
        for _ in range(12):
            next_B1 = forward_logits(llama.subject, anew_BT)[:, -1:].argmax(dim=-1)
            anew_BT = torch.cat([anew_BT, next_B1], dim=1)
    assert torch.equal(cached_BT, anew_BT)
    assert not torch.equal(cached_BT, generate(llama, start_BT, 12))


def test_several_autoencoders_in_one_pass_have_the_losses_of_each_alone(llama: TinyRun) -> None:
    (place,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    saes = [random_sae(), zero_sae(), identity_sae()]
    together = measure_splice(llama.subject, place, saes, TokenCorpus(llama.corpus), 500, 0)
    for losses, sae in zip(together, saes, strict=True):
        assert losses == measure(llama, sae, max_tokens=500)


def mlp_as_transcoder(run: TinyRun) -> Callable[[Tensor], Tensor]:
    """What block 1 adds to resid_mid in its second half: norm and MLP."""
    block = copy.deepcopy(run.subject.model.model.layers[1])  # without the hooks that measuring sets
    return lambda x_ND: block.mlp(block.post_attention_layernorm(x_ND))


def test_a_transcoder_reads_at_one_place_and_is_spliced_in_at_another(llama: TinyRun) -> None:
    perfect_mlp = mlp_as_transcoder(llama)

    class Transcoder(torch.nn.Module):
        W_dec = torch.zeros(1)
        norm_limit = None

        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def reconstruct(self, x_ND: Tensor) -> Tensor:
            return self.factor * perfect_mlp(x_ND)

    places = resolve_hooks(llama.subject, [HookPoint.parse("resid_mid.1"), HookPoint.parse("mlp_out.1")])
    saes = [Transcoder(1.0), Transcoder(0.0)]
    perfect, empty = measure_splice(llama.subject, Ends(*places), saes, TokenCorpus(llama.corpus), 1000, 0)
    assert perfect.ce_spliced == pytest.approx(perfect.ce_clean, rel=1e-5)
    assert perfect.kl == pytest.approx(0, abs=1e-5)
    assert empty.ce_spliced == pytest.approx(empty.ce_zero, rel=1e-6)
    assert empty.kl > 0.001


@pytest.mark.parametrize("batch_tokens", [1, 300, 1000])
def test_the_size_of_a_batch_does_not_matter(
    llama: TinyRun, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(llama, random_sae())
    monkeypatch.setattr(splice, "BATCH_TOKENS", batch_tokens)
    assert measure(llama, random_sae()) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("name", ["head", "resume.2"])
def test_a_model_that_has_to_run_whole_passes_has_the_same_losses(
    llama: TinyRun, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = measure(llama, random_sae(), max_tokens=500)
    assert llama.subject.cache[name]
    monkeypatch.setitem(llama.subject.cache, name, False)
    monkeypatch.setattr(splice, "LOGIT_BYTES", 100_000)
    assert measure(llama, random_sae(), max_tokens=500) == pytest.approx(apart, rel=1e-5)


def test_logits_are_compared_a_few_at_a_time(llama: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, at_once = llama.subject, list[int]()
    logits_of = splice.head_logits

    def noted(subject: Subject, stream_CE: Tensor) -> Tensor:
        at_once.append(len(stream_CE))
        return logits_of(subject, stream_CE)

    monkeypatch.setattr(splice, "head_logits", noted)
    monkeypatch.setattr(splice, "COMPARED_LOGITS", 1)
    monkeypatch.setattr(splice, "COMPARED_LEAST", 30)
    clean_NE, changed_NE, other_NE = torch.randn(3, 100, WIDTH, generator=torch.Generator().manual_seed(0)).mul(3)
    answer_N = torch.arange(100)
    rows = splice.compare(subject, clean_NE, [changed_NE, clean_NE, other_NE], answer_N)
    assert at_once == [30] * 12 + [10] * 4
    clean_NV, *others = (logits_of(subject, each).double().log_softmax(-1) for each in (clean_NE, changed_NE, other_NE))
    expected = [-clean_NV.gather(1, answer_N[:, None])[:, 0]]
    for each_NV in (others[0], clean_NV, others[1]):
        expected += [-each_NV.gather(1, answer_N[:, None])[:, 0], (clean_NV.exp() * (clean_NV - each_NV)).sum(dim=1)]
    torch.testing.assert_close(rows, torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert (rows[4] == 0).all()


def test_a_perfect_autoencoder_costs_nothing(llama: TinyRun) -> None:
    losses = measure(llama, identity_sae())
    assert losses.ce_spliced == pytest.approx(losses.ce_clean, rel=1e-6)
    assert losses.kl == pytest.approx(0, abs=1e-6)
    assert losses.ce_recovered == pytest.approx(1, abs=1e-5)


def test_an_autoencoder_that_rebuilds_nothing_is_as_bad_as_zeroing(llama: TinyRun) -> None:
    losses = measure(llama, zero_sae())
    assert losses.ce_zero > losses.ce_clean + 1
    assert losses.ce_spliced == losses.ce_zero
    assert losses.ce_recovered == 0
    assert losses.kl > 1


def test_the_autoencoder_sees_every_token_of_the_text_and_no_special_one(llama: TinyRun) -> None:
    seen: list[Tensor] = []

    class Spy(torch.nn.Module):
        W_dec = torch.zeros(1)
        norm_limit = None

        def reconstruct(self, x_TD: Tensor) -> Tensor:
            seen.append(x_TD)
            return x_TD

    measure(llama, Spy())
    reader = ActivationReader(llama.activations, HOOK, "heldout")
    captured = sorted(reader.acts(0, len(reader)).float().norm(dim=1).tolist())
    assert sorted(torch.cat(seen).norm(dim=1).tolist()) == pytest.approx(captured, rel=2e-3)


def test_without_special_tokens_the_first_token_is_not_asked_for(llama: TinyRun, tmp_path: Path) -> None:
    text = tmp_path / "plain.jsonl"
    text.write_text("".join(json.dumps(document) + "\n" for document in tiny_documents(20)))
    corpus = TokenCorpus(
        ingest(
            llama.store,
            open_source(str(text), llama.store),
            llama.subject.tokenizer,
            InputRef(uri=llama.source.uri, digest=llama.source.tokenizer_digest),
            IngestConfig(context_length=20, held_out_fraction=0.4, add_special_tokens=False),
        ).artifact
    )
    assert corpus.num_prefix == 0
    count, ce = 0, 0.0
    for index in range(corpus.num_sequences("heldout")):
        ids = torch.tensor(corpus.sequence("heldout", index).token_ids.astype(np.int64))
        log_probs_TV = llama.subject.model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        count += len(ids) - 1
        ce -= float(log_probs_TV.gather(1, ids[1:, None]).sum())
    (place,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    (losses,) = measure_splice(llama.subject, place, [identity_sae()], corpus, ALL, 0)
    assert losses.predictions == count
    assert losses.ce_clean == pytest.approx(ce / count, rel=1e-5)


def test_it_ends_when_the_figure_is_known_and_runs_zeros_and_control_no_more_than_they_need(
    llama: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splice, "_ROUND_TOKENS", 100)
    (place,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    corpus, saes = TokenCorpus(llama.corpus), [random_sae(), zero_sae()]
    whole, _ = measure_splice(llama.subject, place, saes, corpus, ALL, 0)
    assert whole.ce_recovered_half_width is not None
    wanted = 1.2 * whole.ce_recovered_half_width
    some, control = measure_splice(llama.subject, place, saes, corpus, ALL, 0, wanted)
    assert (some, control) == tuple(measure_splice(llama.subject, place, saes, corpus, ALL, 0, wanted))
    assert some == measure_splice(llama.subject, place, saes[:1], corpus, ALL, 0, wanted)[0]
    assert control.tokens < some.tokens < whole.tokens == corpus.lengths("heldout").sum()
    assert some.ce_recovered_half_width is not None
    assert some.ce_recovered_half_width <= wanted
    assert some.ce_recovered == pytest.approx(whole.ce_recovered, abs=2 * wanted)


def test_what_is_run_is_what_was_foretold(llama: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "two_at_once", nullcontext)  # PyTorch counts in one thread
    (place,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    corpus, saes, ends = TokenCorpus(llama.corpus), [random_sae()], Ends(place, place)
    measure_splice(llama.subject, ends, saes, corpus, 300, 0)  # tried out here
    with FlopCounterMode(display=False) as counted:
        measure_splice(llama.subject, ends, saes, corpus, 300, 0)
    foretold, tokens = splice.splice_flop(llama.subject, ends, 1, corpus, 300, 0, 0.0)
    assert 300 <= tokens < 340
    assert foretold == pytest.approx(counted.get_total_flops(), rel=0.25)  # padding, and the autoencoder


def test_any_half_width_that_is_asked_for_is_taken(llama: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "_ROUND_TOKENS", 100)
    (place,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    corpus = TokenCorpus(llama.corpus)
    (least,) = measure_splice(llama.subject, place, [random_sae()], corpus, ALL, 0, 1e-300)
    assert least.tokens == corpus.lengths("heldout").sum()


@pytest.mark.parametrize(("broken", "how"), [("W_dec", "with a reconstruction"), ("model", "as it is")])
def test_a_loss_that_is_none_is_refused(llama: TinyRun, broken: str, how: str) -> None:
    subject, sae = llama.subject, zero_sae()
    if broken == "model":
        subject = subject_from_model(copy.deepcopy(subject.model), subject.tokenizer)
        with torch.no_grad():
            subject.model.get_output_embeddings().weight[5, 0] = torch.nan
    else:
        with torch.no_grad():
            sae.b_dec.fill_(torch.nan)
    (place,) = resolve_hooks(subject, [HookPoint.parse(HOOK)])
    with pytest.raises(SubjectError, match=f"loss of the model {how}.* is not finite.*float32"):
        measure_splice(subject, place, [sae], TokenCorpus(llama.corpus), 300, 0)


def test_the_number_of_tokens_is_about_what_was_asked_for(llama: TinyRun) -> None:
    lengths = TokenCorpus(llama.corpus).lengths("heldout")
    assert measure(llama, zero_sae(), max_tokens=1).predictions <= lengths.max() - 1
    some = measure(llama, zero_sae(), max_tokens=300).predictions
    assert 300 - 300 / lengths.min() <= some < 300 + lengths.max()


def test_which_sequences_are_drawn_depends_on_the_seed_alone(llama: TinyRun) -> None:
    first, same, other = (measure(llama, zero_sae(), max_tokens=300, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first.ce_clean != other.ce_clean


def test_nothing_is_recovered_where_zeroing_costs_nothing() -> None:
    harmless = SpliceLosses(10, ce_clean=2.0, ce_zero=1.9, kl_zero=0.0, ce_spliced=2.0, kl=0.0)
    assert harmless.ce_recovered is None
    assert harmless.kl_recovered is None
    harmful = SpliceLosses(10, ce_clean=2.0, ce_zero=4.0, kl_zero=0.8, ce_spliced=2.5, kl=0.2)
    assert harmful.ce_recovered == 0.75
    assert harmful.kl_recovered == pytest.approx(0.75)


def test_an_encoder_is_asked_for_masked_tokens(bert: TinyRun) -> None:
    corpus = TokenCorpus(bert.corpus)
    perfect, zero = measure(bert, identity_sae()), measure(bert, zero_sae())
    text = int(corpus.lengths("heldout").sum()) - 2 * corpus.num_sequences("heldout")
    assert 0.11 * text < perfect.predictions < 0.19 * text
    assert perfect.ce_spliced == pytest.approx(perfect.ce_clean, rel=1e-6)
    assert perfect.kl == pytest.approx(0, abs=1e-6)
    assert zero.ce_spliced == zero.ce_zero
    assert zero.kl > 0.01
    assert zero.ce_clean == perfect.ce_clean


def test_sequences_of_which_nothing_is_asked_add_nothing(bert: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    (place,) = resolve_hooks(bert.subject, [HookPoint.parse(HOOK)])

    def nothing(_subject: Subject, ids_BT: Tensor, text_BT: Tensor, _generator: object) -> tuple[Tensor, Tensor]:
        return ids_BT, torch.zeros_like(text_BT)

    monkeypatch.setattr(splice, "_questions", nothing)
    assert measure_splice(bert.subject, place, [zero_sae(), zero_sae()], TokenCorpus(bert.corpus), 100, 0) == []


def test_an_encoder_reads_masks_and_never_loses_its_special_tokens(
    bert: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[Tensor, Tensor | None]] = []
    run_to = splice.run_to

    def spy(subject: Subject, hooks: list[ResolvedHook], ids_BT: Tensor, mask_BT: Tensor | None) -> Prefix:
        read.append((ids_BT, mask_BT))
        return run_to(subject, hooks, ids_BT, mask_BT)

    monkeypatch.setattr(splice, "run_to", spy)
    monkeypatch.setattr(splice, "BATCH_TOKENS", 600)
    losses = measure(bert, zero_sae())
    corpus, mask_id = TokenCorpus(bert.corpus), bert.subject.tokenizer.mask_token_id
    originals = [corpus.sequence("heldout", i).token_ids.tolist() for i in range(corpus.num_sequences("heldout"))]
    masked = sum(int((ids_BT == mask_id).sum()) for ids_BT, _ in read)
    known = sum(ids.count(mask_id) for ids in originals)
    assert losses.predictions <= masked <= losses.predictions + known
    for ids_BT, mask_BT in read:
        lengths_B = mask_BT.sum(dim=1) if mask_BT is not None else torch.full((len(ids_BT),), ids_BT.shape[1])
        assert (ids_BT[:, 0] == 2).all()
        assert (ids_BT.gather(1, lengths_B[:, None] - 1) == 3).all()
        for ids, length in zip(ids_BT.tolist(), lengths_B.tolist(), strict=True):
            assert any(
                len(original) == length and all(a in (b, mask_id) for a, b in zip(ids, original, strict=False))
                for original in originals
            )


def test_an_encoder_without_a_mask_token_cannot_be_asked(bert: TinyRun) -> None:
    subject = dataclasses.replace(bert.subject, tokenizer=tiny_bert_tokenizer())
    (place,) = resolve_hooks(subject, [HookPoint.parse(HOOK)])
    assert measure_splice(subject, place, [zero_sae()], TokenCorpus(bert.corpus), ALL, 0) == []


def test_a_model_without_a_head_cannot_be_asked(llama: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama.subject.model, "get_output_embeddings", lambda: None)
    (place,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    assert measure_splice(llama.subject, place, [zero_sae()], TokenCorpus(llama.corpus), ALL, 0) == []
