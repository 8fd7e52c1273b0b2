"""What all that is loaded by transformers shares: quiet, and a message that says what to do where it fails."""

import contextlib
import warnings
from collections.abc import Iterator

from mistudio.subject.source import SubjectSource


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing bars and printing advice while it loads."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def loading_problem(part: str, source: SubjectSource, error: Exception) -> str:
    """The message for a part of a model that could not be loaded, with the reason and what to do."""
    reason = str(error).strip() or type(error).__name__
    if "trust_remote_code" in reason:
        return (
            f"The {part} of {source.name} comes with Python code of its own. Read it, and if you trust it set "
            "trust_remote_code."
        )
    return f"Cannot load the {part} of {source.name} from {source.path}: {reason}"
