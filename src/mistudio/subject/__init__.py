"""The language model under study: find it, load it, read and change what flows through it."""

from mistudio.subject.config import SubjectConfig
from mistudio.subject.devices import pick_device, resolve_dtype
from mistudio.subject.hooks import HookPoint, ResolvedHook, resolve_hooks, run_captured, spliced
from mistudio.subject.lens import unembed
from mistudio.subject.load import Subject, forward_logits, load_subject, subject_from_model
from mistudio.subject.source import SubjectSource, artifact_source, resolve_source
from mistudio.subject.tokens import load_tokenizer, token_strings

__all__ = [
    "HookPoint",
    "ResolvedHook",
    "Subject",
    "SubjectConfig",
    "SubjectSource",
    "artifact_source",
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
