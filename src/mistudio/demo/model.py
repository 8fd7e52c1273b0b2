"""The demo subject's arithmetic: the Llama architecture, written for speed in training on a CPU.

Weights carry the names that transformers gives them, and a test compares the logits with its own
implementation. What is faster: matrices that share an input are applied as one, logits are computed
where a target counts, and only attention leaves bfloat16 (PyTorch's CPU kernel is faster in float32).

Legend: B sequences, T tokens, N = B x T, D model width, H heads, E head width, M MLP width, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig

from mistudio.demo.config import DemoConfig
from mistudio.demo.text import BOS_ID, EOS_ID, IGNORED, Batch

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"

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
    """Initial weights in float32: normal matrices, norms of one, and no output from the blocks."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _initial(name, shape, generator) for name, shape in shapes(config).items()}


def shapes(config: DemoConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, by its name."""
    D, M = config.width, config.mlp_width
    found: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, D)}
    for layer in range(config.layers):
        block = f"model.layers.{layer}"
        found[f"{block}.input_layernorm.weight"] = (D,)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"{block}.self_attn.{name}.weight"] = (D, D)
        found[f"{block}.post_attention_layernorm.weight"] = (D,)
        found[f"{block}.mlp.gate_proj.weight"] = (M, D)
        found[f"{block}.mlp.up_proj.weight"] = (M, D)
        found[f"{block}.mlp.down_proj.weight"] = (D, M)
    found[FINAL_NORM] = (D,)
    return found


def _initial(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape)
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return torch.zeros(shape)
    return torch.randn(shape, generator=generator) * _INIT_STD


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
        targets_N = batch.targets_BT.flatten()
        counted = (targets_N != IGNORED).nonzero()[:, 0]
        logits_NV = F.linear(self.hidden(batch.ids_BT)[counted], self._cast(EMBEDDING))
        return F.cross_entropy(logits_NV, targets_N[counted], reduction=reduction)

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """What the logits are computed from, (N, D)."""
        size = (int(ids_BT.shape[0]), int(ids_BT.shape[1]))
        x_ND = F.embedding(ids_BT.flatten(), self._cast(EMBEDDING))
        for layer in range(self.config.layers):
            block = f"model.layers.{layer}"
            x_ND = x_ND + self._attention(self._norm(x_ND, f"{block}.input_layernorm.weight"), block, size)
            x_ND = x_ND + self._mlp(self._norm(x_ND, f"{block}.post_attention_layernorm.weight"), block)
        return self._norm(x_ND, FINAL_NORM)

    def _attention(self, x_ND: Tensor, block: str, size: tuple[int, int]) -> Tensor:
        B, T = size
        inputs = self._stack(*(f"{block}.self_attn.{name}_proj.weight" for name in "qkv"))
        heads_BHTE = F.linear(x_ND, inputs).view(B, T, 3 * self.config.heads, -1).transpose(1, 2).float()
        q_BHTE, k_BHTE, v_BHTE = heads_BHTE.chunk(3, dim=1)
        mixed_BHTE = F.scaled_dot_product_attention(self._rotate(q_BHTE), self._rotate(k_BHTE), v_BHTE, is_causal=True)
        mixed_ND = mixed_BHTE.transpose(1, 2).reshape(B * T, self.config.width).to(self.dtype)
        return F.linear(mixed_ND, self._cast(f"{block}.self_attn.o_proj.weight"))

    def _mlp(self, x_ND: Tensor, block: str) -> Tensor:
        inputs = self._stack(f"{block}.mlp.gate_proj.weight", f"{block}.mlp.up_proj.weight")
        gate_NM, up_NM = F.linear(x_ND, inputs).chunk(2, dim=-1)
        return F.linear(F.silu(gate_NM) * up_NM, self._cast(f"{block}.mlp.down_proj.weight"))

    def _rotate(self, x_BHTE: Tensor) -> Tensor:
        T = x_BHTE.shape[2]
        cos, sin = self._cos_TE[:T], self._sin_TE[:T]
        first, second = x_BHTE.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def _norm(self, x_ND: Tensor, name: str) -> Tensor:
        return F.rms_norm(x_ND, (self.config.width,), self._cast(name), _EPS)

    def _stack(self, *names: str) -> Tensor:
        return torch.cat([self._cast(name) for name in names])

    def _cast(self, name: str) -> Tensor:
        return self.weights[name].to(self.dtype)
