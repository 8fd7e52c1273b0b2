import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mistudio.corpus import python_docs
from mistudio.corpus.documents import Document
from mistudio.errors import CorpusError

MODULE = '''"""{docstring}"""
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple

raise SystemExit("a corpus must not run what it reads: its files are parsed, and nothing in them happens")


# How far.
@staticmethod
def reach(a):
    """{docstring} reach"""
    return a + 1


class Arm:
    """{docstring} arm"""


TABLE = [
{table}
]
'''


@pytest.fixture
def stdlib(tmp_path: Path) -> Path:
    folder = tmp_path / "lib"
    (folder / "pydoc_data").mkdir(parents=True)
    (folder / "test").mkdir()
    filled = MODULE.format(docstring="Words of a docstring. " * 20, table="    12345,\n" * 400)
    (folder / "module.py").write_text(filled)
    (folder / "test" / "test_module.py").write_text("x = 1\n" * 200)
    shared = "A paragraph that two topics share. " * 8
    topics = {"short": shared, "long": f"{shared}\n\n{'Only the long topic says this. ' * 10}"}
    (folder / "pydoc_data" / "topics.py").write_text(f"topics = {topics!r}\n")
    return folder


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    """The text of this Python."""
    return list(python_docs.documents())


def by_task(stdlib: Path, task: str) -> list[str]:
    return [document.text for document in python_docs.documents(stdlib) if document.task == task]


def test_this_python_has_all_three_tasks_in_documents_of_a_useful_size(documents: list[Document]) -> None:
    sizes = Counter[str]()
    for document in documents:
        assert len(document.text) >= python_docs.MIN_CHARS
        sizes[document.task] += len(document.text)
    assert set(sizes) == {"prose", "docstring", "code"}
    assert sizes["code"] > 2_000_000
    assert sizes["docstring"] > 500_000
    assert sorted(len(document.text) for document in documents)[len(documents) // 2] < 3_000


def test_no_text_occurs_twice() -> None:
    texts = [document.text for document in python_docs.documents()]
    assert len(texts) == len(set(texts))


def test_a_short_prefix_mixes_the_tasks() -> None:
    documents = list(python_docs.documents())
    counts = Counter(document.task for document in documents[:300])
    assert min(counts[task] for task in ("prose", "docstring", "code")) >= 10


def test_the_order_does_not_depend_on_pythons_own_hashes(documents: list[Document]) -> None:
    program = (
        "import hashlib; from mistudio.corpus import python_docs;"
        "print(hashlib.sha256(repr(list(python_docs.documents())).encode()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == hashlib.sha256(repr(documents).encode()).hexdigest()


def test_docstrings_are_cut_out_of_the_code(stdlib: Path) -> None:
    [code] = by_task(stdlib, "code")
    assert "Words of a docstring" not in code
    assert "# How far.\n@staticmethod\ndef reach(a):\n    return a + 1" in code
    assert code.rstrip().endswith("class Arm:\n    pass")


def test_tables_are_left_out(stdlib: Path) -> None:
    assert "12345" not in "".join(by_task(stdlib, "code"))


def test_docstrings_carry_their_dotted_names(stdlib: Path) -> None:
    text = "\n".join(by_task(stdlib, "docstring"))
    assert [line for line in text.split("\n") if line.startswith("module")] == ["module", "module.reach", "module.Arm"]


def test_a_paragraph_that_topics_share_is_kept_once(stdlib: Path) -> None:
    assert "".join(by_task(stdlib, "prose")).count("A paragraph that two topics share") == 8


def test_tests_are_not_read(stdlib: Path) -> None:
    assert "x = 1" not in "".join(by_task(stdlib, "code"))


@pytest.mark.parametrize("data", [b"def f(:\n", b"x = '\xff\xfe'\n", b"# coding: no-such\n", b"x = 1\0\n"])
def test_a_file_that_does_not_parse_or_decode_is_skipped_and_named(stdlib: Path, data: bytes) -> None:
    (stdlib / "broken.py").write_bytes(data)
    assert python_docs.skipped(stdlib) == ["broken.py"]
    assert by_task(stdlib, "code")


def test_the_digest_follows_content_and_names(stdlib: Path) -> None:
    first = python_docs.digest(stdlib)
    assert python_docs.digest(stdlib) == first
    (stdlib / "module.py").rename(stdlib / "other.py")
    renamed = python_docs.digest(stdlib)
    (stdlib / "other.py").write_text("x = 1\n")
    assert len({first, renamed, python_docs.digest(stdlib)}) == 3


def test_a_folder_without_python_files_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="Install it"):
        next(python_docs.documents(tmp_path))
