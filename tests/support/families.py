"""Tiny randomly initialised models of many families, built from their configurations."""

from collections.abc import Callable

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mistudio.subject.points import KINDS

LAYERS = 3
TEXT = [
    "the cat sat on the mat and the dog ate the hat of the cat\n",
    "naïve café 猫 sat, twice; a hat is a hat is a hat",
] * 4

_SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_KV = {"num_key_value_heads": 2}
_GEMMA = {**_KV, "head_dim": 8, "sliding_window": 16}
_GPT2 = {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}


def _sized(config_class: type, **more: object) -> tf.PreTrainedConfig:
    return config_class(**{**_SIZES, **more})


def _gpt_sized(config_class: type, **more: object) -> tf.PreTrainedConfig:
    return config_class(vocab_size=61, bos_token_id=1, eos_token_id=2, **{**_GPT2, **more})


CAUSAL: dict[str, Callable[[], tf.PreTrainedConfig]] = {
    "gpt2": lambda: _gpt_sized(tf.GPT2Config),
    "gpt_bigcode": lambda: _gpt_sized(tf.GPTBigCodeConfig),
    "gptj": lambda: _gpt_sized(tf.GPTJConfig, rotary_dim=4),
    "gpt_neox_parallel": lambda: _sized(tf.GPTNeoXConfig, use_parallel_residual=True),
    "gpt_neox_sequential": lambda: _sized(tf.GPTNeoXConfig, use_parallel_residual=False),
    "opt_pre_norm": lambda: _sized(tf.OPTConfig, ffn_dim=48, word_embed_proj_dim=32),
    "opt_post_norm": lambda: _sized(tf.OPTConfig, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False),
    "bloom": lambda: tf.BloomConfig(
        vocab_size=61, hidden_size=32, n_layer=LAYERS, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0
    ),
    "falcon_7b": lambda: _sized(tf.FalconConfig, multi_query=True, parallel_attn=True, bias=False),
    "falcon_40b": lambda: _sized(tf.FalconConfig, new_decoder_architecture=True, num_kv_heads=2),
    "falcon_rw": lambda: _sized(tf.FalconConfig, parallel_attn=False, alibi=True, multi_query=False),
    "llama": lambda: _sized(tf.LlamaConfig, **_KV),
    "mistral": lambda: _sized(tf.MistralConfig, **_KV, head_dim=8),
    "mixtral": lambda: _sized(tf.MixtralConfig, **_KV, num_local_experts=4),
    "qwen2": lambda: _sized(tf.Qwen2Config, **_KV),
    "qwen3": lambda: _sized(tf.Qwen3Config, **_KV, head_dim=8),
    "gemma2": lambda: _sized(tf.Gemma2Config, **_GEMMA),
    "gemma3": lambda: _sized(tf.Gemma3TextConfig, **_GEMMA),
    "phi": lambda: _sized(tf.PhiConfig),
    "phi3": lambda: _sized(tf.Phi3Config, **_KV),
    "stablelm": lambda: _sized(tf.StableLmConfig, **_KV),
    "olmo2": lambda: _sized(tf.Olmo2Config, **_KV),
    "cohere": lambda: _sized(tf.CohereConfig, **_KV),
    "granite": lambda: _sized(tf.GraniteConfig, **_KV, residual_multiplier=0.22),
}
ENCODERS: dict[str, Callable[[], tf.PreTrainedConfig]] = {
    "bert": lambda: _sized(tf.BertConfig),
    "roberta": lambda: _sized(tf.RobertaConfig),
    "distilbert": lambda: tf.DistilBertConfig(
        vocab_size=61, dim=32, n_layers=LAYERS, n_heads=4, hidden_dim=48, max_position_embeddings=64
    ),
}
# In a block, a module that is given what the MLP reads, and nothing else.
MLP_READERS = {
    **dict.fromkeys(CAUSAL, "mlp.gate_proj"),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), "mlp.c_fc"),
    **dict.fromkeys(("opt_pre_norm", "opt_post_norm"), "fc1"),
    **dict.fromkeys(("gpt_neox_parallel", "gpt_neox_sequential", "bloom"), "mlp.dense_h_to_4h"),
    **dict.fromkeys(("falcon_7b", "falcon_40b", "falcon_rw"), "mlp.dense_h_to_4h"),
    **dict.fromkeys(("bert", "roberta"), "intermediate.dense"),
    "gptj": "mlp.fc_in",
    "mixtral": "mlp.gate",
    "phi": "mlp.fc1",
    "phi3": "mlp.gate_up_proj",
    "distilbert": "ffn.lin1",
}
PARALLEL = ("gptj", "gpt_neox_parallel", "falcon_7b", "falcon_40b", "phi", "cohere")
NORMED_AFTER = ("opt_post_norm", *ENCODERS)
FAMILIES = (*CAUSAL, *ENCODERS)
# Hook points that there are, by family and kind.
PLACES = [
    (family, kind)
    for family in FAMILIES
    for kind in KINDS
    if not (kind == "resid_mid" and family in PARALLEL) and not (kind == "mlp_act" and family == "mixtral")
]


def build_model(family: str) -> tf.PreTrainedModel:
    """A model of a family, with the same random weights every time."""
    is_encoder = family in ENCODERS
    config = (ENCODERS if is_encoder else CAUSAL)[family]()
    return random_model(config, tf.AutoModelForMaskedLM if is_encoder else tf.AutoModelForCausalLM)


def random_model(config: tf.PreTrainedConfig, auto_class: type = tf.AutoModelForCausalLM) -> tf.PreTrainedModel:
    """A model with the same random weights every time; large ones, so that all parts of a block matter."""
    torch.manual_seed(0)
    model = auto_class.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def byte_level_tokenizer() -> tf.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with all 256 bytes and a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>")
