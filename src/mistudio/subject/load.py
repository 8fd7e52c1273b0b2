"""Load a language model to be studied: frozen, in eval mode, its transformer blocks found by structure.

transformers is imported where something is loaded: importing it takes longer than finding a published artifact.

Shape legend: B sequences, T tokens, V vocabulary.
"""

import logging
import re
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mistudio.errors import SubjectError
from mistudio.subject.causality import sees_only_before
from mistudio.subject.classes import auto_classes_for
from mistudio.subject.config import SubjectConfig
from mistudio.subject.devices import check_quantization, free_memory_bytes, pick_device, resolve_dtype
from mistudio.subject.facts import load_config, position_limit
from mistudio.subject.gguf_plain import weights_folder
from mistudio.subject.loading import loading_problem, quiet_transformers
from mistudio.subject.source import SubjectSource, check_indexes
from mistudio.subject.tokens import load_tokenizer

_MAX_NAMED_KEYS = 5
_POOLER = re.compile(r"(^|\.)pooler\.")
_PROBE_TOKENS = 6
_PROBE_SEED = 0
_LARGE_SIBLING = 0.1  # a second list beside the blocks with more of their parameters than this is a part of them


@dataclass(eq=False)
class Subject:
    """A loaded language model under study.

    Attributes:
        model: the model, frozen and in eval mode.
        tokenizer: its tokenizer.
        text_config: the configuration of its text part.
        blocks: its transformer blocks, in order.
        is_causal: whether a token sees only the tokens before it.
        device: where token ids go.
        dtype_name: number format of what the blocks compute, for example ``bfloat16``.
        cache: what has been found out about the model by probing it, by name.
    """

    model: Any
    tokenizer: Any
    text_config: Any
    blocks: nn.ModuleList
    is_causal: bool
    device: torch.device
    dtype_name: str
    cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def num_layers(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.text_config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model has an embedding for."""
        return int(self.text_config.vocab_size)

    @cached_property
    def max_positions(self) -> int | None:
        """Longest sequence that the model was made for, in tokens; None where it has no such bound."""
        return position_limit(self.text_config, self.model)

    @cached_property
    def ending_ids(self) -> frozenset[int]:
        """Tokens that end a text, as the tokenizer and the model's settings for generation say."""
        more = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        named = [self.tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])]
        return frozenset(int(token) for token in named if token is not None)


def load_subject(source: SubjectSource, config: SubjectConfig) -> Subject:
    """Load model and tokenizer; weights come from safetensors only.

    Raises:
        SubjectError: the model cannot be loaded as asked; the message says why.
    """
    device = pick_device(config.device)
    check_quantization(config)
    _check_weight_files(source)
    dtype_name = resolve_dtype(config.dtype, device)
    classes = auto_classes_for(load_config(source, config.trust_remote_code))
    arguments: dict[str, Any] = {
        "revision": source.revision,
        "dtype": getattr(torch, dtype_name),
        **_placement(config, device),
        "quantization_config": _quantization_settings(config, dtype_name),
        "trust_remote_code": config.trust_remote_code,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    for auto_class in classes:
        kept = weights_folder(source, auto_class, dtype_name) if source.is_gguf else nullcontext(source.path)
        with kept as path:
            where = f"{device} as {dtype_name}"
            model, missing = _loaded(source, path, auto_class, arguments, where, config.quantization)
        if not missing:
            break
    _check_all_loaded(source, missing)
    _keep_weights_as_they_are(model)
    tokenizer = load_tokenizer(source, config.trust_remote_code)
    return subject_from_model(model, tokenizer, dtype_name=dtype_name)


def _loaded(
    source: SubjectSource, path: str, auto_class: Any, arguments: dict[str, Any], where: str, quantization: str
) -> tuple[Any, list[str]]:
    """A model, and the names of the tensors that the files lack."""
    try:
        with quiet_transformers():
            model, info = auto_class.from_pretrained(path, **arguments)
    except torch.OutOfMemoryError as error:
        message = (
            f"{source.name} does not fit on {where} with quantization {quantization}. "
            f"See what does: mistudio check-memory {source.path}"
        )
        raise SubjectError(message) from error
    except Exception as error:  # a broken file or configuration surfaces as any of a dozen exception types
        raise SubjectError(loading_problem("model", source, error)) from error
    # What pools the last layer to one vector is never read.
    return model, sorted(name for name in info["missing_keys"] if not _POOLER.search(name))


def subject_from_model(model: Any, tokenizer: Any, *, dtype_name: str = "float32") -> Subject:
    """Study a model that is already in memory; it is frozen and put in eval mode, and run once.

    Raises:
        SubjectError: its transformer blocks cannot be found.
    """
    model.eval()
    model.requires_grad_(False)
    text_config = model.config.get_text_config()
    text_config.use_cache = False  # no step of ours reads a key-value cache from a plain forward pass
    device = model.get_input_embeddings().weight.device
    if device.type == "meta":  # the weights are offloaded: accelerate moves token ids to where they are needed
        device = torch.device("cpu")
    blocks = find_blocks(model, text_config)
    ids_T = probe_row(int(text_config.vocab_size), position_limit(text_config, model)).to(device)
    others_T = torch.cat([ids_T[:1], (ids_T[1:] + 1) % int(text_config.vocab_size)])
    return Subject(
        model=model,
        tokenizer=tokenizer,
        text_config=text_config,
        blocks=blocks,
        is_causal=sees_only_before(model, blocks, ids_T, others_T),
        device=device,
        dtype_name=dtype_name,
    )


@torch.no_grad()
def forward_logits(subject: Subject, input_ids_BT: Tensor, attention_mask_BT: Tensor | None = None) -> Tensor:
    """Logits [B, T, V] of the whole model.

    Raises:
        SubjectError: the model has no output embeddings, so it predicts no tokens.
    """
    if subject.model.get_output_embeddings() is None:
        message = f"{type(subject.model).__name__} has no output embeddings: it predicts no tokens."
        raise SubjectError(message)
    logits: Tensor = subject.model(input_ids=input_ids_BT, attention_mask=attention_mask_BT).logits
    return logits


def probe_row(vocab_size: int, max_positions: int | None) -> Tensor:
    """A few random token ids [T], the same every time."""
    num_tokens = min(_PROBE_TOKENS, max_positions or _PROBE_TOKENS)
    return torch.randint(vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(_PROBE_SEED))


def find_blocks(model: nn.Module, text_config: Any) -> nn.ModuleList:
    """The transformer blocks: of all lists with one module a layer, the one with most parameters.

    Raises:
        SubjectError: there is no such list.
    """
    num_layers = getattr(text_config, "num_hidden_layers", None)
    candidates = []
    for parent in model.modules():
        lists = [child for child in parent.children() if isinstance(child, nn.ModuleList) and len(child) == num_layers]
        sizes = sorted(_num_parameters(child) for child in lists)
        if len(lists) > 1 and sizes[-2] > _LARGE_SIBLING * sizes[-1]:
            message = (
                f"{type(model).__name__} keeps the parts of its layers in {len(lists)} separate lists, so there are "
                "no blocks to hook. It is not supported."
            )
            raise SubjectError(message)
        candidates += lists
    if not candidates:
        message = (
            f"{type(model).__name__} has no list of {num_layers} transformer blocks, so its layers cannot be "
            "told apart. Models that share one block between layers are not supported."
        )
        raise SubjectError(message)
    return max(candidates, key=_num_parameters)


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _placement(config: SubjectConfig, device: torch.device) -> dict[str, Any]:
    """Where the layers go, as transformers wants to be told."""
    if config.device_map == "none":
        return {"device_map": {"": device}}
    placement = {"device_map": "auto", "offload_folder": config.offload_folder}
    if config.max_memory_gb is None:
        return placement
    limits: dict[str | int, int] = {"cpu": free_memory_bytes(torch.device("cpu"))}
    limits["cpu" if device.type == "cpu" else device.index] = int(config.max_memory_gb * 1e9)
    return {**placement, "max_memory": limits}


def _keep_weights_as_they_are(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for processors with AVX512-bf16.

    Its kernel for them takes only some shapes and computes in bfloat16, whatever the number format.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _quantization_settings(config: SubjectConfig, dtype_name: str) -> Any:
    if config.quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    # It warns of its casts to float16 at every product.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype_name)
    )


def _check_weight_files(source: SubjectSource) -> None:
    folder = Path(source.path)  # a GGUF file is none
    if folder.is_dir():
        check_indexes(folder)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
    if pickles:
        message = (
            f"{source.name} has its weights only as pickle ({pickles[0]}), which can run any code when it is read. "
            "Convert it to safetensors first (save_pretrained of a recent transformers writes them)."
        )
    else:
        message = f"{source.name} has no weights: there is no *.safetensors file in {folder}."
    raise SubjectError(message)


def _check_all_loaded(source: SubjectSource, missing: list[str]) -> None:
    """Weights that a file lacks would be random ones: refuse them."""
    if missing:
        named = ", ".join(missing[:_MAX_NAMED_KEYS])
        message = (
            f"The weights of {source.name} are incomplete: {len(missing)} tensors are missing ({named}"
            f"{', …' if len(missing) > _MAX_NAMED_KEYS else ''})."
        )
        raise SubjectError(message)
