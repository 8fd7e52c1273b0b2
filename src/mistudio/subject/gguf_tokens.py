"""The tokenizer of a GGUF file: transformers', made to split text as the file says.

A byte-level tokenizer first splits text with regular expressions and then merges inside the pieces. The file only names
those expressions (``tokenizer.ggml.pre``). transformers knows some of the names and takes GPT-2's expression for all
others, whose tokens then differ silently: SmolLM2's digits stand alone, and would be numbers. The names and what they
stand for are those of llama.cpp (``src/llama-vocab.cpp``); where it writes an expression of a model's own
``tokenizer.json`` in another way, for an engine that lacks character classes, that of the ``tokenizer.json`` is taken.
"""

import tempfile
from pathlib import Path
from typing import Any

from mistudio.errors import SubjectError
from mistudio.plain_text import shortened
from mistudio.subject.gguf_header import GgufHeader

_MODELS = ("gpt2", "llama", "gemma4", "t5")
_BYTE_LEVEL = "gpt2"
_SENTENCEPIECE = "llama"
# Of these, transformers chooses by architecture what to do with a first space.
_OWN_SPACES = ("gemma", "gemma2", "gemma3", "phi3")

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SHORTENED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_SHORTENED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_SHORTENED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN35 = (
    rf"{_SHORTENED}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_CAPITALS, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD_START = r"[^\r\n\p{L}\p{N}]?"
_TEKKEN = (
    rf"{_WORD_START}{_CAPITALS}*{_SMALL}+|{_WORD_START}{_CAPITALS}+{_SMALL}*|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_GPT4O = (
    rf"{_WORD_START}{_CAPITALS}*{_SMALL}+{_SHORTENED}?|{_WORD_START}{_CAPITALS}+{_SMALL}*{_SHORTENED}?|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_SEED = rf"{_SHORTENED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

_LLAMA3_NAMES = "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"
# What text is split with, one expression after the other, by the names that files give.
_GROUPS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (_GPT2,),
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert exaone4 mpt olmo jais "
        "trillion granite-docling jina-v1-en jina-v2-code roberta-bpe",
    ),
    ((r"\p{N}", _GPT2), "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    ((_LLAMA3,), _LLAMA3_NAMES),
    ((_LLAMA3,), "dbrx smaug-bpe chatglm-bpe glm4"),
    ((_QWEN2,), "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2"),
    ((_QWEN35,), "qwen35"),
    ((_TEKKEN,), "tekken"),
    ((_GPT4O,), "gpt-4o llama4 kanana2 talkie minimax-m2"),
    ((_SEED,), "seed-coder"),
    ((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"), "falcon"),
    ((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), "default"),
    ((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}"), "deepseek-coder"),
    ((_BLOOM,), "bloom poro-chat gpt3-finnish"),
    ((_BLOOM, r"\p{N}"), "viking"),
)
SPLITS = {name: expressions for expressions, names in _GROUPS for name in names.split()}
# Words that are tokens are taken whole, however they would be merged.
_WHOLE_WORDS = frozenset([*_LLAMA3_NAMES.split(), "tekken"])
# The first token of each text is the begin token, where the file does not say whether it is.
_BEGUN = _WHOLE_WORDS


def tokenizer_of(path: Path, header: GgufHeader) -> Any:
    """The tokenizer that a GGUF file describes.

    Args:
        path: of the file.
        header: of the file.

    Raises:
        SubjectError: it has none, or one of a kind that is not read.
    """
    from transformers import PreTrainedTokenizerFast

    kind = header.metadata.get("tokenizer.ggml.model")
    if kind not in _MODELS:
        which = "It has no tokenizer" if kind in (None, "none", "no_vocab") else f"Its tokenizer is {shortened(kind)}"
        message = f"{path.name}: {which}; read are {', '.join(_MODELS)}. Use the model in Hugging Face format."
        raise SubjectError(message)
    with tempfile.TemporaryDirectory() as folder:
        # transformers wants the suffix, which the files of Ollama do not have.
        (Path(folder) / "model.gguf").symlink_to(path)
        file = "model.gguf"
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=file)  # our own  # nosec B615
    if kind == _BYTE_LEVEL:
        _split_as_told(tokenizer, header)
    elif kind == _SENTENCEPIECE and header.architecture not in _OWN_SPACES:
        _begin_as_told(tokenizer, header)
    return tokenizer


def tokenizer_doubts(header: GgufHeader) -> str | None:
    """What there is to say where the tokens may be others than the model was trained on; None if nothing."""
    if header.metadata.get("tokenizer.ggml.model") != _BYTE_LEVEL:
        return None
    name = header.metadata.get("tokenizer.ggml.pre")
    if name is None:
        return (
            "The file does not say how its tokenizer splits text (tokenizer.ggml.pre), so it is split as llama.cpp "
            "does then: tokens may differ from those that the model was trained on. A newer conversion says it."
        )
    if name in SPLITS:
        return None
    return (
        f"How the tokenizer splits text is named {shortened(name)} (tokenizer.ggml.pre), which is not known here, so "
        "it is split as transformers does: tokens may differ from those that the model was trained on. The model in "
        "Hugging Face format has them exactly."
    )


def _split_as_told(tokenizer: Any, header: GgufHeader) -> None:
    from tokenizers import Regex, pre_tokenizers

    name = header.metadata.get("tokenizer.ggml.pre") or "default"
    backend = tokenizer.backend_tokenizer
    if name in SPLITS:
        splits = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in SPLITS[name]]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, last])
    if name in _WHOLE_WORDS:
        backend.model.ignore_merges = True
    if name in _BEGUN and "tokenizer.ggml.add_bos_token" not in header.metadata and tokenizer.bos_token is not None:
        tokenizer.add_bos_token = True


def _begin_as_told(tokenizer: Any, header: GgufHeader) -> None:
    """Put no space before the text where the file says so; transformers always does."""
    from tokenizers import decoders, pre_tokenizers

    if header.metadata.get("tokenizer.ggml.add_space_prefix", True):
        return
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
