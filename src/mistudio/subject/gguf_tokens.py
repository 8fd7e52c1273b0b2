"""The tokenizer of a GGUF file."""

import tempfile
from pathlib import Path
from typing import Any

from mistudio.subject.gguf_header import GgufHeader


def tokenizer_of(path: Path, header: GgufHeader) -> Any:
    """The tokenizer that a GGUF file describes."""
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.gguf").symlink_to(path)
        return PreTrainedTokenizerFast.from_pretrained(folder, gguf_file="model.gguf")
