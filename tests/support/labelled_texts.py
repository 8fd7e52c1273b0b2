"""A tiny model that chats, and examples of two kinds of text."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import transformers as tf

from mistudio.artifacts import Store, open_store
from mistudio.subject import SubjectSource, resolve_source
from tests.support.tiny import tiny_llama

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
)
SEAS = ["sun", "moon", "tree", "river", "sat", "saw"]
LANDS = ["cat", "dog", "hat", "mat", "ran", "gave"]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> SubjectSource:
    return saved_with_template(tmp_path_factory.mktemp("model"))


def saved_with_template(folder: Path) -> SubjectSource:
    """A tiny model whose tokenizer has a template for chats, in ``folder``."""
    tiny_llama(folder)
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return resolve_source(str(folder))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def made_up(words: Sequence[str], count: int, seed: int) -> list[str]:
    """Texts of the same few words, no two alike."""
    draw = random.Random(seed)
    return [f"{' '.join(draw.choices(words, k=draw.randint(4, 20)))} {number}" for number in range(count)]


def write_lines(path: Path, lines: Sequence[Any]) -> str:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return str(path)


def labelled(count: int = 40) -> list[dict[str, Any]]:
    """So many texts of each class, in turn."""
    pairs = zip(made_up(SEAS, count, 1), made_up(LANDS, count, 2), strict=True)
    return [line for sea, land in pairs for line in ({"text": sea, "label": 1}, {"text": land, "label": 0})]
