"""The page on using miStudio from Python: its code runs, from top to bottom, and all public names are there."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

import mistudio
from tests.support.tiny import tiny_documents, tiny_llama

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the page prints, a text for each of its blocks."""
    folder = tmp_path_factory.mktemp("page")
    tiny_llama(folder / "my-model")
    lines = [json.dumps(document) + "\n" for document in tiny_documents(80)]
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    texts = []
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("MISTUDIO_TRACKING", "off")
        for block in blocks:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block, str(PAGE), "exec"), names)
            texts.append(out.getvalue())
    return texts


def test_the_code_of_the_page_runs(printed: list[str]) -> None:
    steps, store, features, session, runs, errors = printed
    assert re.match(r"sae/[0-9a-f]{16} False 0\.\d+", steps)
    line = r"sae/\S+ corpus/\S+ folder:my-model\nfeatures/\S+\nexplanations/\S+\nscores/\S+\n"
    assert re.match(line + r"\['features/\w+'\]", store)
    assert len(features.splitlines()) >= 6
    assert session.count("(") == 2
    assert "latents are active on its tokens" in session
    assert re.search(r"evaluation/\w+ \S+\nfinished$", runs.strip())
    assert errors == "topk has no l1_coefficient (given: 0.02): leave it out. It has k.\n"


def test_every_public_name_is_there_and_in_the_docstring() -> None:
    for name in mistudio.__all__:
        assert getattr(mistudio, name) is not None
    described = set(re.findall(r"^(\w+)  +\S", mistudio.__doc__ or "", re.MULTILINE))
    assert described == set(mistudio.__all__)
