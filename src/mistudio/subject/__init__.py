"""The language model under study: find it, load it, read and change what flows through it."""

from typing import TYPE_CHECKING

from mistudio.subject.config import SubjectConfig
from mistudio.subject.devices import device_name, pick_device, resolve_dtype
from mistudio.subject.points import HookPoint
from mistudio.subject.source import SubjectSource, artifact_source, resolve_source
from mistudio.subject.tokens import load_tokenizer, token_strings

if TYPE_CHECKING:
    from mistudio.subject.batches import TextRows, TokenBatch, text_rows, token_batch
    from mistudio.subject.hooks import ResolvedHook, observed, resolve_hooks, run_captured, spliced
    from mistudio.subject.lens import unembed, unembedding_rows
    from mistudio.subject.load import Subject, forward_logits, load_subject, subject_from_model
    from mistudio.subject.taps import unedited
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "load", "hooks", "taps", "lens", "batches")

__all__ = [
    "HookPoint",
    "ResolvedHook",
    "Subject",
    "SubjectConfig",
    "SubjectSource",
    "TextRows",
    "TokenBatch",
    "artifact_source",
    "device_name",
    "forward_logits",
    "load_subject",
    "load_tokenizer",
    "observed",
    "pick_device",
    "resolve_dtype",
    "resolve_hooks",
    "resolve_source",
    "run_captured",
    "spliced",
    "subject_from_model",
    "text_rows",
    "token_batch",
    "token_strings",
    "unedited",
    "unembed",
    "unembedding_rows",
]
