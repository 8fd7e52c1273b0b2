"""Check that a model can be studied here, and say what it is.

The model is loaded and run once: a folder whose files look right can still hold a broken model.
"""

from pathlib import Path

import safetensors
import torch
from pydantic import BaseModel, ConfigDict, Field

from mistudio.errors import SubjectError
from mistudio.subject.config import SubjectConfig
from mistudio.subject.gguf_header import read_header
from mistudio.subject.gguf_types import main_type
from mistudio.subject.hooks import available_points, probe_ids
from mistudio.subject.load import Subject, forward_logits, load_subject
from mistudio.subject.source import SubjectSource
from mistudio.subject.tokens import check_vocabulary


class ModelReport(BaseModel):
    """What a model is, and where it can be hooked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    uri: str
    architecture: str
    is_causal: bool = Field(description="a token sees only the tokens before it")
    num_layers: int
    d_model: int = Field(description="width of the residual stream")
    vocab_size: int
    num_parameters: int
    max_positions: int | None = Field(description="longest sequence, in tokens; None where there is no bound")
    tokenizer: str
    tokenizer_size: int = Field(description="tokens that the tokenizer knows")
    dtype_on_disk: str
    device: str
    dtype: str
    middle_layer: int
    hook_points: tuple[str, ...] = Field(description="of the middle layer")
    digest: str
    tokenizer_digest: str


def validate_model(source: SubjectSource, config: SubjectConfig) -> ModelReport:
    """Load a model, run it once, and report what it is.

    Raises:
        SubjectError: it cannot be loaded, its tokenizer is not its own, or it computes values that are not finite.
    """
    subject = load_subject(source, config)
    check_vocabulary(subject.tokenizer, subject.vocab_size, source.name)
    _check_output(source, subject)
    middle = subject.num_layers // 2
    return ModelReport(
        name=source.name,
        uri=source.uri,
        architecture=type(subject.model).__name__,
        is_causal=subject.is_causal,
        num_layers=subject.num_layers,
        d_model=subject.d_model,
        vocab_size=subject.vocab_size,
        num_parameters=subject.model.num_parameters(),
        max_positions=subject.max_positions,
        tokenizer=type(subject.tokenizer).__name__,
        tokenizer_size=len(subject.tokenizer),
        dtype_on_disk=_dtype_on_disk(source, subject),
        device=str(subject.device),
        dtype=subject.dtype_name,
        middle_layer=middle,
        hook_points=tuple(map(str, available_points(subject, middle))),
        digest=source.digest,
        tokenizer_digest=source.tokenizer_digest,
    )


def _check_output(source: SubjectSource, subject: Subject) -> None:
    if subject.model.get_output_embeddings() is None:
        return
    if not torch.isfinite(forward_logits(subject, probe_ids(subject))).all():
        message = (
            f"{source.name} computes logits that are not finite as {subject.dtype_name}: its weights are damaged, or "
            "its number format is too narrow (try another dtype)."
        )
        raise SubjectError(message)


def _dtype_on_disk(source: SubjectSource, subject: Subject) -> str:
    """Number formats in the headers of the weight files; of a model on the hub, what its configuration says.

    Of a GGUF file, the quantisation of most of its weights.
    """
    if source.is_gguf:
        return main_type(read_header(Path(source.path)))
    files = sorted(Path(source.path).glob("*.safetensors"))
    if not files:
        return str(getattr(subject.text_config, "dtype", None) or "unknown").removeprefix("torch.")
    found = set()
    for path in files:
        with safetensors.safe_open(path, framework="pt") as handle:
            found |= {handle.get_slice(name).get_dtype() for name in handle.keys()}  # noqa: SIM118 - not a dict
    return ", ".join(sorted(found))
