"""The demo subject's arithmetic: the Llama architecture, written for speed in training on a CPU.

A test compares the logits with those of transformers. What is faster: the weights of all layers lie in
one tensor a kind, matrices that share an input are applied as one, and only attention leaves bfloat16
(PyTorch's kernel for CPUs is faster in float32).

Legend: B sequences, T tokens, N = B x T, L layers, D model width, H heads, E head width (half of it for
the angles), M MLP width, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig

from mistudio.demo.config import DemoConfig
from mistudio.demo.text import BOS_ID, EOS_ID, IGNORED, Batch

_EPS = 1e-6
_ROPE_BASE = 10_000.0
_INIT_STD = 0.02

Weights = dict[str, Tensor]


def llama_config(config: DemoConfig) -> LlamaConfig:
    """The configuration that transformers loads the weights with."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.context_length,
        rms_norm_eps=_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_BASE},
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        dtype="float32",
    )


def new_weights(config: DemoConfig, seed: int) -> Weights:
    """Initial weights in float32, all layers in one tensor; at first the blocks add nothing to the residual."""
    L, D, M = config.layers, config.width, config.mlp_width
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * _INIT_STD

    return {
        "embedding": normal(config.vocab_size, D),
        "attention": torch.cat((normal(L, 3, D, D), torch.zeros(L, 1, D, D)), dim=1),  # query, key, value, output
        "mlp_in": normal(L, 2, M, D),  # gate, up
        "mlp_out": torch.zeros(L, D, M),
        "norms": torch.ones(2 * L + 1, D),  # before attention and MLP of each layer, and at the end
    }


def transformers_weights(weights: Weights) -> Weights:
    """The weights by the names that transformers gives them."""
    named = {"model.embed_tokens.weight": weights["embedding"], "model.norm.weight": weights["norms"][-1]}
    for layer, (attention, mlp_in, mlp_out) in enumerate(
        zip(weights["attention"], weights["mlp_in"], weights["mlp_out"], strict=True)
    ):
        own = dict(zip(("q_proj", "k_proj", "v_proj", "o_proj"), attention, strict=True))
        parts = {f"self_attn.{name}": weight for name, weight in own.items()}
        parts |= {"mlp.gate_proj": mlp_in[0], "mlp.up_proj": mlp_in[1], "mlp.down_proj": mlp_out}
        parts["input_layernorm"], parts["post_attention_layernorm"] = weights["norms"][2 * layer : 2 * layer + 2]
        named |= {f"model.layers.{layer}.{name}.weight": weight for name, weight in parts.items()}
    return {name: weight.detach().clone() for name, weight in named.items()}


class Llama:
    """The forward pass over given weights, in ``dtype``."""

    def __init__(self, weights: Weights, config: DemoConfig, dtype: torch.dtype) -> None:
        self.weights, self.config, self.dtype = weights, config, dtype
        E = config.width // config.heads
        frequencies = _ROPE_BASE ** (-torch.arange(0, E, 2, dtype=torch.float32) / E)
        angles_TE = torch.arange(config.context_length, dtype=torch.float32)[:, None] * frequencies
        self._cos_TE, self._sin_TE = angles_TE.cos(), angles_TE.sin()

    def loss(self, batch: Batch, *, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats over the targets that count."""
        logits_NV = self.logits(batch.ids_BT)
        return F.cross_entropy(logits_NV, batch.targets_BT.flatten(), ignore_index=IGNORED, reduction=reduction)

    def logits(self, ids_BT: Tensor) -> Tensor:
        """Logits of the next token, (N, V)."""
        size = (int(ids_BT.shape[0]), int(ids_BT.shape[1]))
        cast = {name: weight.to(self.dtype) for name, weight in self.weights.items()}
        *norms, final_norm = cast["norms"].unbind()
        layers = zip(cast["attention"], cast["mlp_in"], cast["mlp_out"], norms[::2], norms[1::2], strict=True)
        x_ND = F.embedding(ids_BT.flatten(), cast["embedding"])
        for attention, mlp_in, mlp_out, attention_norm, mlp_norm in layers:
            x_ND = x_ND + self._attention(self._norm(x_ND, attention_norm), attention, size)
            x_ND = x_ND + self._mlp(self._norm(x_ND, mlp_norm), mlp_in, mlp_out)
        return F.linear(self._norm(x_ND, final_norm), cast["embedding"])

    def _attention(self, x_ND: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
        """Causal attention; ``weights`` are query, key, value and output, (4, D, D)."""
        B, T = size
        inputs, output = torch.split_with_sizes(weights, (3, 1))
        heads_BHTE = F.linear(x_ND, inputs.flatten(0, 1)).view(B, T, 3 * self.config.heads, -1).transpose(1, 2).float()
        q_BHTE, k_BHTE, v_BHTE = heads_BHTE.chunk(3, dim=1)
        mixed_BHTE = F.scaled_dot_product_attention(self._rotate(q_BHTE), self._rotate(k_BHTE), v_BHTE, is_causal=True)
        return F.linear(mixed_BHTE.transpose(1, 2).reshape(B * T, -1).to(self.dtype), output[0])

    def _mlp(self, x_ND: Tensor, mlp_in: Tensor, mlp_out: Tensor) -> Tensor:
        gate_NM, up_NM = F.linear(x_ND, mlp_in.flatten(0, 1)).chunk(2, dim=-1)
        return F.linear(F.silu(gate_NM) * up_NM, mlp_out)

    def _rotate(self, x_BHTE: Tensor) -> Tensor:
        """Rotary position embedding (Su et al., 2021), halves paired as transformers does."""
        T = x_BHTE.shape[2]
        cos, sin = self._cos_TE[:T], self._sin_TE[:T]
        first, second = x_BHTE.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def _norm(self, x_ND: Tensor, scale_D: Tensor) -> Tensor:
        return F.rms_norm(x_ND, (self.config.width,), scale_D, _EPS)
