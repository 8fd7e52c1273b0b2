"""Logit lens of directions, against the model's own way from the residual stream to the logits.

Shape legend: B sequences, T tokens, F directions, D model width, V vocabulary.
"""

import dataclasses
from collections.abc import Callable

import pytest
import torch
import transformers as tf
from torch import Tensor

from mistudio.errors import SubjectError
from mistudio.subject import (
    HookPoint,
    Subject,
    forward_logits,
    resolve_hooks,
    spliced,
    subject_from_model,
    unembed,
    unembedding_rows,
)
from tests.support.families import CAUSAL, ENCODERS, LAYERS, build_model

SubjectOf = Callable[[str], Subject]


@pytest.mark.parametrize("family", CAUSAL)
def test_the_lens_gives_what_a_stream_and_its_opposite_make_of_the_logits(
    family: str, subject_of: SubjectOf, ids_BT: Tensor
) -> None:
    subject = subject_of(family)
    x_BTD = torch.randn(*ids_BT.shape, 32, generator=torch.Generator().manual_seed(5))
    # All biases drop out of the difference; what is left of the norm is its division by the size of x.
    difference_FV = (logits_from(subject, ids_BT, x_BTD) - logits_from(subject, ids_BT, -x_BTD)).flatten(0, 1)
    agreement = torch.nn.functional.cosine_similarity(unembed(subject, x_BTD.flatten(0, 1)), difference_FV, dim=-1)
    torch.testing.assert_close(agreement, torch.ones_like(agreement), rtol=0, atol=1e-5)


def logits_from(subject: Subject, ids_BT: Tensor, stream_BTD: Tensor) -> Tensor:
    [hook] = resolve_hooks(subject, [HookPoint("resid_post", LAYERS - 1)])
    with spliced(subject, hook, lambda _: stream_BTD):
        logits_BTV = forward_logits(subject, ids_BT)
    cap = getattr(subject.text_config, "final_logit_softcapping", None)
    return torch.atanh(logits_BTV / cap) * cap if cap else logits_BTV


@pytest.mark.parametrize("family", ENCODERS)
def test_the_lens_of_an_encoder_passes_over_the_hidden_layer_of_its_head(family: str, subject_of: SubjectOf) -> None:
    subject = subject_of(family)
    directions_FD = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    expected = directions_FD @ subject.model.get_output_embeddings().weight.T
    torch.testing.assert_close(unembed(subject, directions_FD), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", [*CAUSAL, *ENCODERS])
def test_the_rows_of_tokens_give_their_logits_alone(family: str, subject_of: SubjectOf) -> None:
    subject = subject_of(family)
    directions_FD = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    ids = [5, 0, 17]
    found_FK = directions_FD @ unembedding_rows(subject, ids).T
    torch.testing.assert_close(found_FK, unembed(subject, directions_FD)[:, ids], rtol=1e-4, atol=1e-4)


def test_the_rows_of_a_packed_head_are_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head whose weight cannot be read, as a quantised one's, is asked."""

    class Packed(torch.nn.Module):
        def __init__(self, head: torch.nn.Linear) -> None:
            super().__init__()
            self._head, self.in_features, self.bias = head, head.in_features, head.bias

        def forward(self, x: Tensor) -> Tensor:
            return self._head(x)

    subject = subject_from_model(build_model(next(iter(CAUSAL))), None)
    expected_KD = unembedding_rows(subject, [3, 8])
    readout = subject.cache["readout"]
    monkeypatch.setitem(subject.cache, "readout", dataclasses.replace(readout, head=Packed(readout.head)))
    torch.testing.assert_close(unembedding_rows(subject, [3, 8]), expected_KD)


@pytest.mark.parametrize("centred", [True, False])
def test_an_odd_width_is_no_problem(centred: bool) -> None:
    shape = {"vocab_size": 61, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
    if centred:
        model = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=61, n_embd=33, n_layer=2, n_head=3))
    else:
        model = tf.LlamaForCausalLM(tf.LlamaConfig(hidden_size=33, head_dim=8, **shape))
    norm = model.transformer.ln_f if centred else model.model.norm
    norm.weight.data = torch.randn(33)
    x_FD = torch.randn(3, 33)
    scaled = (x_FD - x_FD.mean(-1, keepdim=True) if centred else x_FD) * norm.weight
    expected = scaled @ model.get_output_embeddings().weight.T
    torch.testing.assert_close(unembed(subject_from_model(model, None), x_FD), expected.detach(), rtol=1e-4, atol=1e-5)


def test_the_lens_works_in_two_bytes(subject_of: SubjectOf) -> None:
    x_FD = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    narrow = subject_from_model(build_model("gemma3").to(torch.bfloat16), None)
    lens_FV = unembed(narrow, x_FD)
    assert lens_FV.dtype == torch.float32
    torch.testing.assert_close(lens_FV, unembed(subject_of("gemma3"), x_FD), rtol=0.05, atol=0.05)


def test_a_model_without_output_embeddings_is_refused() -> None:
    config = CAUSAL["llama"]()
    subject = subject_from_model(tf.LlamaModel(config), None)
    with pytest.raises(SubjectError, match="LlamaModel has no output embeddings"):
        unembed(subject, torch.zeros(1, 32))
