"""Tiny GGUF files, written as llama.cpp's converter does, from tiny models of the kinds that it reads."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers as tf
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.support.tiny import tiny_documents

LAYERS = 2
WIDTH = 64
CHAT = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
_SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_CONTROL, _NORMAL = 3, 1


def byte_tokenizer() -> Tokenizer:
    """Byte-level BPE with digits apart, as SmolLM's; ids 0 and 1 are the begin and the end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [document["text"] for document in tiny_documents()] + ["1234 2025 12 99 1,000 aren't we'll"] * 40
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def model_of(architecture: str, vocab_size: int = 384) -> Any:
    """A tiny model with the same random weights every time, large ones, so that each of them matters."""
    torch.manual_seed(0)
    sizes = {"vocab_size": vocab_size, **_SIZES}
    if architecture == "gpt2":
        config = tf.GPT2Config(
            vocab_size=vocab_size, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=128, n_inner=96
        )
        model: Any = tf.GPT2LMHeadModel(config)
    elif architecture == "qwen2":
        model = tf.Qwen2ForCausalLM(tf.Qwen2Config(**sizes, tie_word_embeddings=True))
    elif architecture == "qwen3":
        model = tf.Qwen3ForCausalLM(tf.Qwen3Config(**sizes, head_dim=32))
    elif architecture == "gemma3":
        config = tf.Gemma3TextConfig(**sizes, head_dim=32, sliding_window=16, query_pre_attn_scalar=32)
        model = tf.Gemma3ForCausalLM(config)
    elif architecture == "gemma2":
        config = tf.Gemma2Config(**sizes, head_dim=32, sliding_window=16, query_pre_attn_scalar=32)
        model = tf.Gemma2ForCausalLM(config)
    else:
        model = tf.LlamaForCausalLM(tf.LlamaConfig(**sizes, tie_word_embeddings=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def write_gguf(
    path: Path,
    model: Any,
    architecture: str = "llama",
    kind: Kind = Kind.F32,
    *,
    more: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    without: tuple[str, ...] = (),
    pre: str | None = "smollm",
) -> Path:
    """Write a model as a GGUF file; matrices whose rows fit are quantised as ``kind``, all else stays float32.

    Args:
        path: of the file.
        model: of :func:`model_of`.
        architecture: by llama.cpp's name.
        kind: quantisation.
        more: keys and values beside those of the model, which they replace.
        tensors: tensors beside those of the model.
        without: tensors to leave out.
        pre: how text is split, by llama.cpp's name; None leaves the key out.
    """
    writer = GGUFWriter(path, architecture)
    for key, value in {**_sizes(model, architecture), **(more or {})}.items():
        _add(writer, key, value)
    _add_tokenizer(writer, pre)
    for name, values in {**_weights(model, architecture), **(tensors or {})}.items():
        if name not in without:
            fits = values.ndim == 2 and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
            used = kind if fits else Kind.F32
            writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(values), used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _sizes(model: Any, architecture: str) -> dict[str, Any]:
    config = model.config
    sizes = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads,
        "feed_forward_length": 96,
    }
    if architecture == "gpt2":
        sizes["attention.layer_norm_epsilon"] = float(config.layer_norm_epsilon)
    else:
        sizes["attention.head_count_kv"] = config.num_key_value_heads
        sizes["attention.layer_norm_rms_epsilon"] = float(config.rms_norm_eps)
        rotations = config.rope_parameters.get("full_attention", config.rope_parameters)
        sizes["rope.freq_base"] = float(rotations["rope_theta"])
    if architecture == "llama":
        sizes |= {"vocab_size": config.vocab_size, "rope.dimension_count": WIDTH // 4}
    if architecture in ("qwen3", "gemma2", "gemma3"):
        sizes |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if architecture in ("gemma2", "gemma3"):
        sizes["attention.sliding_window"] = config.sliding_window
    if architecture == "gemma2":
        sizes |= {
            "attn_logit_softcapping": float(config.attn_logit_softcapping),
            "final_logit_softcapping": float(config.final_logit_softcapping),
        }
    return {f"{architecture}.{key}": value for key, value in sizes.items()}


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adders[type(value)](key, value)


def _add_tokenizer(writer: GGUFWriter, pre: str | None) -> None:
    tokenizer = byte_tokenizer()
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    merges = [" ".join(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in ("<s>", "</s>") else _NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(CHAT)


def _weights(model: Any, architecture: str) -> dict[str, np.ndarray]:
    """Weights by llama.cpp's names, changed as its converter changes them."""
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, LAYERS)
    weights = {}
    for name, parameter in model.named_parameters():
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        weights[found] = _changed(parameter.detach().float().numpy(), found, model, architecture)
    return weights


def _changed(values: np.ndarray, name: str, model: Any, architecture: str) -> np.ndarray:
    config = model.config
    if architecture == "llama" and ("attn_q." in name or "attn_k." in name):
        heads = config.num_attention_heads if "attn_q." in name else config.num_key_value_heads
        return values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
    transposed = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
    if architecture == "gpt2" and name.endswith(transposed):
        return values.T
    return values + 1 if architecture in ("gemma2", "gemma3") and name.endswith("norm.weight") else values
