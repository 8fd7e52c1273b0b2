"""Figures of shared passes, against plain whole passes over one context at a time, in every family of models."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional

from mistudio.corpus.reader import TokenCorpus
from mistudio.find.ablation import _another, ablate
from mistudio.find.attribution import attribute
from mistudio.find.contexts import hashed
from mistudio.find.passages import join_alike
from mistudio.find.reading import HookedSubject, Readings
from mistudio.instrument import Ends
from mistudio.sae import TopKConfig, new_autoencoder
from mistudio.subject import HookPoint, forward_logits, observed, resolve_hooks, run_captured, spliced
from mistudio.subject.load import subject_from_model
from mistudio.subject.trace import StopForward
from tests.support.families import CAUSAL, ENCODERS, build_model, byte_level_tokenizer
from tests.support.tiny_run import TinyRun

FEATURES, STEPS, SEED = 64, 4, 5
ENDS = (("resid_post.1", "resid_post.1"), ("mlp_in.1", "mlp_out.1"), ("attn_out.0", "attn_out.0"))


def opened(family: str, llama: TinyRun, reads: str = "resid_post.1", writes: str = "resid_post.1") -> HookedSubject:
    subject = subject_from_model(build_model(family), byte_level_tokenizer())
    points = resolve_hooks(subject, [HookPoint.parse(reads), HookPoint.parse(writes)])
    sae = new_autoencoder(TopKConfig(width=FEATURES, k=12), 32)
    sae.for_training().initialise(torch.zeros(1, 32), torch.Generator().manual_seed(1))
    return HookedSubject(subject, Ends(*points), sae, TokenCorpus(llama.corpus))


@pytest.fixture(scope="module")
def read() -> Readings:
    """Contexts of one length and of several, some the beginning of others, some the same."""
    draw = np.random.default_rng(0)
    one, two = (draw.integers(3, 61, 22).astype(np.int32) for _ in range(2))
    texts = [one, one, one[:15], one[:9], two, two[:21], draw.integers(3, 61, 5).astype(np.int32)]
    peaks = [len(ids) - 1 - place % 3 for place, ids in enumerate(texts)]
    features = [7, 9, 7, 30, 31, 12, 50]
    return Readings(np.array(features), np.zeros(len(texts), dtype=np.int64), np.array(peaks), texts)


class Plain(NamedTuple):
    """One context in whole passes."""

    hooked: HookedSubject
    ids: torch.Tensor
    feature: int

    def acts(self) -> torch.Tensor:
        point = self.hooked.ends.read
        x_TD = run_captured(self.hooked.subject, [point], self.ids)[point.point][0]
        acts_T = self.hooked.sae.encode(x_TD)[:, self.feature].detach()
        acts_T[0] = 0  # the special token
        return acts_T

    def losses(self, direction_E: torch.Tensor) -> torch.Tensor:
        acts_T1 = self.acts()[:, None]
        with torch.no_grad(), spliced(self.hooked.subject, self.hooked.ends.write, lambda y: y - acts_T1 * direction_E):
            logits_TV = forward_logits(self.hooked.subject, self.ids)[0, :-1]
        return functional.cross_entropy(logits_TV, self.ids[0, 1:], reduction="none")

    def ablation(self) -> list[float]:
        W_dec = self.hooked.sae.W_dec.detach()
        lot = torch.from_numpy(hashed(np.array([self.feature], dtype=np.uint64), SEED).astype(np.int64))
        (other,) = _another(torch.tensor([self.feature]), lot, FEATURES).tolist()
        own_E, other_E = W_dec[self.feature], functional.normalize(W_dec[other], dim=0) * W_dec[self.feature].norm()
        clean_T, zeroed_T, control_T = (self.losses(each) for each in (own_E * 0, own_E, other_E))
        fires_T = (self.acts() > 0)[:-1]
        fires_T[0] = False
        behind_T = (fires_T.int().cumsum(dim=0) > 0) & ~fires_T
        pairs = ((zeroed_T, fires_T), (zeroed_T, behind_T), (control_T, fires_T))
        return [float((changed_T - clean_T)[where_T].mean()) for changed_T, where_T in pairs]

    def attribution(self, peak: int) -> tuple[torch.Tensor, torch.Tensor]:
        embed = self.hooked.subject.model.get_input_embeddings()
        with torch.no_grad():
            own = embed(self.ids)
            every = embed(torch.arange(self.hooked.subject.vocab_size)[None])[0]
        change = own - every.mean(dim=0)
        change[:, 0] = 0
        at_text = self.gradient(own, peak) * own
        at_text[:, 0] = 0
        points = STEPS - 1
        summed = sum(self.gradient(own - (1 - (step + 0.5) / points) * change, peak) for step in range(points))
        return at_text.sum(dim=-1)[0], (summed * change / points).sum(dim=-1)[0]

    def gradient(self, embedded: torch.Tensor, peak: int) -> torch.Tensor:
        leaf, found = embedded.clone().requires_grad_(True), list[torch.Tensor]()

        def stop(x_BTD: torch.Tensor) -> None:
            found.append(x_BTD)
            raise StopForward

        embed = self.hooked.subject.model.get_input_embeddings()
        handle = embed.register_forward_hook(lambda *_called: leaf)
        try:
            with observed(self.hooked.subject, self.hooked.ends.read, stop):
                self.hooked.subject.model(input_ids=self.ids)
        except StopForward:
            pass
        finally:
            handle.remove()
        value = found[0][0, peak] @ self.hooked.sae.W_enc[self.feature].detach()
        return torch.autograd.grad(value, leaf)[0]


def plain(hooked: HookedSubject, read: Readings) -> list[Plain]:
    return [
        Plain(hooked, torch.tensor([ids.tolist()]), int(feature))
        for ids, feature in zip(read.token_ids, read.feature, strict=True)
    ]


def check_ablation(hooked: HookedSubject, read: Readings) -> None:
    found = np.stack(ablate(hooked, read, SEED), axis=1)
    np.testing.assert_allclose(found, [each.ablation() for each in plain(hooked, read)], atol=2e-4, rtol=1e-3)
    assert np.nanmax(np.abs(found)) > 1e-3


@pytest.mark.parametrize("family", CAUSAL)
def test_ablation_is_that_of_whole_passes_over_one_context_at_a_time(
    family: str, llama: TinyRun, read: Readings
) -> None:
    check_ablation(opened(family, llama), read)


@pytest.mark.parametrize("ends", ENDS[1:], ids=" ".join)
def test_so_it_is_inside_a_block(ends: tuple[str, str], llama: TinyRun, read: Readings) -> None:
    check_ablation(opened("qwen3", llama, *ends), read)


@pytest.mark.parametrize("family", [*CAUSAL, *ENCODERS])
def test_attribution_is_that_of_one_pass_a_step_over_one_context_at_a_time(
    family: str, llama: TinyRun, read: Readings
) -> None:
    hooked = opened(family, llama)
    found = attribute(hooked, read, STEPS)
    for each, peak, gradient, integrated in zip(plain(hooked, read), read.peak, *found, strict=True):
        expected = each.attribution(int(peak))
        np.testing.assert_allclose(gradient, expected[0], atol=2e-4, rtol=1e-3)
        np.testing.assert_allclose(integrated, expected[1], atol=2e-4, rtol=1e-3)


def test_the_first_blocks_and_the_head_run_no_more_than_they_have_to(llama: TinyRun, read: Readings) -> None:
    hooked = opened("llama", llama)
    ablate(hooked, read, SEED)  # what is tried out on the model first is over
    tokens: dict[str, int] = dict.fromkeys(("first", "last", "head"), 0)

    def counting(name: str) -> Callable[..., None]:
        def count(_module: object, _args: object, output: torch.Tensor) -> None:
            tokens[name] += output.shape[0] * output.shape[1]

        return count

    model = hooked.subject.model
    counted = {"first": model.model.layers[0].mlp, "last": model.model.layers[2].mlp, "head": model.lm_head}
    handles = [module.register_forward_hook(counting(name)) for name, module in counted.items()]
    ablate(hooked, read, SEED)
    for handle in handles:
        handle.remove()
    whole = 3 * sum(map(len, read.token_ids))
    assert tokens["first"] <= 3 * 22 < whole / 3  # three passages, padded to the longest
    assert tokens["last"] <= (3 + 2 * len(read.token_ids)) * 22
    assert tokens["head"] < whole / 2


def test_contexts_that_begin_alike_are_read_as_the_longest_of_them() -> None:
    texts = [[1, 2, 3], [1, 2], [5], [1, 2, 3, 256], [1, 3], [1, 2, 3], [258]]
    passages = join_alike([np.array(each, dtype=np.int32) for each in texts])
    by_passage = {
        tuple(texts[longest]): sorted(passages.members(np.array([place]))[0].tolist())
        for place, longest in enumerate(passages.longest)
    }
    assert by_passage == {(1, 2, 3, 256): [0, 1, 3, 5], (1, 3): [4], (5,): [2], (258,): [6]}
    assert passages.members(np.array([1, 0]))[1].tolist() == [0, 1, 1, 1, 1]
