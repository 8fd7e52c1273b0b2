"""What a model's configuration says is asked of transformers once, and asked again when the model is another."""

import json
import shutil
from pathlib import Path

import pytest

from mistudio.errors import SubjectError
from mistudio.subject import facts, resolve_source
from mistudio.subject.facts import ModelFacts, load_config, model_facts, num_layers, position_limit


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the models that transformers is asked about."""
    paths: list[str] = []
    monkeypatch.setattr(facts, "load_config", lambda source, *rest: (paths.append(source.path), load_config(source))[1])
    return paths


def test_facts_are_those_of_transformers_and_are_kept(model_folder: Path, tmp_path: Path, asked: list[str]) -> None:
    source = resolve_source(str(model_folder))
    config = load_config(source)
    expected = ModelFacts(
        num_layers=num_layers(config), max_positions=position_limit(config), vocab_size=config.vocab_size
    )
    copy = resolve_source(str(shutil.copytree(model_folder, tmp_path / "copy")))
    assert [model_facts(each, False, tmp_path / "facts") for each in (source, source, copy)] == [expected] * 3
    assert asked == [str(model_folder)]


def test_another_configuration_is_asked_for(model_folder: Path, tmp_path: Path, asked: list[str]) -> None:
    before = model_facts(resolve_source(str(model_folder)), False, tmp_path / "facts")
    path = model_folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "num_hidden_layers": 7}))
    after = model_facts(resolve_source(str(model_folder)), False, tmp_path / "facts")
    assert (after.num_layers, after.max_positions) == (7, before.max_positions)
    assert len(asked) == 2


def test_what_code_of_the_model_says_is_not_kept(model_folder: Path, tmp_path: Path, asked: list[str]) -> None:
    source = resolve_source(str(model_folder))
    for _ in range(2):
        model_facts(source, True, tmp_path / "facts")
    assert len(asked) == 2
    assert not (tmp_path / "facts").exists()


def test_a_damaged_file_is_written_anew(model_folder: Path, tmp_path: Path, asked: list[str]) -> None:
    source = resolve_source(str(model_folder))
    first = model_facts(source, False, tmp_path / "facts")
    (path,) = (tmp_path / "facts").iterdir()
    path.write_text("{")
    assert [model_facts(source, False, tmp_path / "facts") for _ in range(2)] == [first, first]
    assert len(asked) == 2


def test_facts_that_cannot_be_kept_are_told_all_the_same(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "facts").write_text("a file, no folder")
    assert model_facts(resolve_source(str(model_folder)), False, tmp_path / "facts").num_layers


def test_a_model_that_cannot_be_read_is_refused_each_time(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "config.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(SubjectError, match="Cannot load the configuration of tiny-llama"):
            model_facts(resolve_source(str(model_folder)), False, tmp_path / "facts")


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_hidden_layers", 10**9), ("hidden_size", 10**9), ("vocab_size", -1), ("vocab_size", 10**12)],
)
def test_sizes_that_no_model_has_are_refused(model_folder: Path, name: str, value: int) -> None:
    path = model_folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), name: value}))
    with pytest.raises(SubjectError, match=f"{name} {value}"):
        load_config(resolve_source(str(model_folder)))
