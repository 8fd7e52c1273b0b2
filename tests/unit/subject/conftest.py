"""Fixtures: tiny models in memory, and one in a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf

from mistudio.subject import Subject, subject_from_model
from tests.support.families import CAUSAL, build_model, byte_level_tokenizer


@pytest.fixture(scope="session")
def subject_of() -> Callable[[str], Subject]:
    """Subjects by family; each is built once."""
    built: dict[str, Subject] = {}

    def get(family: str) -> Subject:
        if family not in built:
            built[family] = subject_from_model(build_model(family), None)
        return built[family]

    return get


@pytest.fixture(scope="session")
def ids_BT() -> torch.Tensor:
    return torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(7))


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A tiny Llama with its tokenizer, as save_pretrained writes it."""
    folder = tmp_path / "tiny-llama"
    tokenizer = byte_level_tokenizer()
    config = CAUSAL["llama"]()
    config.vocab_size = len(tokenizer)
    torch.manual_seed(1)
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
