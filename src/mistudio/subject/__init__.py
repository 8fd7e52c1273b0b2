"""The language model under study: find it, load it, read and change what flows through it."""

from typing import TYPE_CHECKING

from mistudio.subject.config import SubjectConfig
from mistudio.subject.devices import device_name, pick_device, resolve_dtype
from mistudio.subject.points import HookPoint
from mistudio.subject.source import SubjectSource, artifact_source, resolve_source
from mistudio.subject.tokens import load_tokenizer, token_strings

if TYPE_CHECKING:
    from mistudio.subject.hooks import ResolvedHook, resolve_hooks, run_captured, spliced
    from mistudio.subject.lens import unembed
    from mistudio.subject.load import Subject, forward_logits, load_subject, subject_from_model
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "load", "hooks", "lens")

__all__ = [
    "HookPoint",
    "ResolvedHook",
    "Subject",
    "SubjectConfig",
    "SubjectSource",
    "artifact_source",
    "device_name",
    "forward_logits",
    "load_subject",
    "load_tokenizer",
    "pick_device",
    "resolve_dtype",
    "resolve_hooks",
    "resolve_source",
    "run_captured",
    "spliced",
    "subject_from_model",
    "token_strings",
    "unembed",
]
