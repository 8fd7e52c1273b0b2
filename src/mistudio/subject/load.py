"""Load a language model to be studied: frozen, in eval mode, its transformer blocks found by structure.

transformers is imported where something is loaded: importing it takes longer than finding a published artifact.

Shape legend: B sequences, T tokens, V vocabulary.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mistudio.errors import SubjectError
from mistudio.subject.config import SubjectConfig
from mistudio.subject.devices import check_quantization, free_memory_bytes, pick_device, resolve_dtype
from mistudio.subject.facts import load_config, position_limit
from mistudio.subject.source import SubjectSource
from mistudio.subject.tokens import load_tokenizer, loading_problem, quiet_transformers

_MAX_NAMED_KEYS = 5
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

    @property
    def max_positions(self) -> int | None:
        """Longest sequence that the model was made for, in tokens; None where it has no such bound."""
        return position_limit(self.text_config)


def load_subject(source: SubjectSource, config: SubjectConfig) -> Subject:
    """Load model and tokenizer; weights come from safetensors only.

    Raises:
        SubjectError: the model cannot be loaded as asked; the message says why.
    """
    device = pick_device(config.device)
    check_quantization(config)
    _check_weight_files(source)
    dtype_name = resolve_dtype(config.dtype, device)
    auto_class, is_causal = choose_auto_class(load_config(source, config.trust_remote_code))
    arguments: dict[str, Any] = {
        "revision": source.revision,
        "dtype": getattr(torch, dtype_name),
        **_placement(config, device),
        "quantization_config": _quantization_settings(config, dtype_name),
        "trust_remote_code": config.trust_remote_code,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    try:
        with quiet_transformers():
            model, info = auto_class.from_pretrained(source.path, **arguments)
    except torch.OutOfMemoryError as error:
        message = (
            f"{source.name} does not fit on {device} as {dtype_name} with quantization {config.quantization}. "
            f"See what does: mistudio check-memory {source.path}"
        )
        raise SubjectError(message) from error
    except Exception as error:  # a broken file or configuration surfaces as any of a dozen exception types
        raise SubjectError(loading_problem("model", source, error)) from error
    _check_all_loaded(source, info)
    _keep_weights_as_they_are(model)
    tokenizer = load_tokenizer(source, config.trust_remote_code)
    return subject_from_model(model, tokenizer, is_causal=is_causal, dtype_name=dtype_name)


def subject_from_model(model: Any, tokenizer: Any, *, is_causal: bool = True, dtype_name: str = "float32") -> Subject:
    """Study a model that is already in memory; it is frozen and put in eval mode.

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
    return Subject(
        model=model,
        tokenizer=tokenizer,
        text_config=text_config,
        blocks=find_blocks(model, text_config),
        is_causal=is_causal,
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


def choose_auto_class(config: Any) -> tuple[Any, bool]:
    """The transformers class that loads a model of this configuration, and whether the model is causal.

    Raises:
        SubjectError: it is no language model of one transformer stack.
    """
    causal, masked, *others = _auto_classes()
    is_encoder = config.model_type in masked[1] and not getattr(config, "is_decoder", False)
    if not config.is_encoder_decoder:
        names = set(config.architectures or ())
        own_code = getattr(config, "auto_map", None) or {}
        for auto_class, known in (causal, masked, *others):
            if names & set(_flat(known.values())) or auto_class.__name__ in own_code:
                return auto_class, not is_encoder
        for auto_class, known in (masked, causal):
            if config.model_type in known:
                return auto_class, not is_encoder
    kind = "an encoder-decoder" if config.is_encoder_decoder else "not a language model that transformers knows"
    message = (
        f"{', '.join(config.architectures or ()) or config.model_type} is {kind}. "
        "Use a causal language model (as GPT-2, Llama) or an encoder with a masked-token head (as BERT)."
    )
    raise SubjectError(message)


def _auto_classes() -> tuple[tuple[Any, Any], ...]:
    """Classes of transformers, each with the names it knows by model type.

    In this order: a name in an earlier table decides. The last has no output embeddings.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    return (
        (transformers.AutoModelForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        (transformers.AutoModelForMaskedLM, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
        (transformers.AutoModelForImageTextToText, modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
        (transformers.AutoModel, modeling_auto.MODEL_MAPPING_NAMES),
    )


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


def _flat(names: Any) -> list[str]:
    return [name for entry in names for name in ([entry] if isinstance(entry, str) else entry)]


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
    folder = Path(source.path)
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


def _check_all_loaded(source: SubjectSource, info: Any) -> None:
    """Weights that a file lacks would be random ones: refuse them."""
    missing = sorted(info["missing_keys"])
    if missing:
        named = ", ".join(missing[:_MAX_NAMED_KEYS])
        message = (
            f"The weights of {source.name} are incomplete: {len(missing)} tensors are missing ({named}"
            f"{', …' if len(missing) > _MAX_NAMED_KEYS else ''})."
        )
        raise SubjectError(message)
