from pathlib import Path

import pytest

from mistudio.artifacts import Store
from mistudio.corpus.sources import open_source
from mistudio.corpus.uploads import add_corpus
from mistudio.errors import CorpusError


def corpus_file(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    return path


def texts_of(corpus: str | Path, store: Store) -> list[str]:
    return [document.text for document in open_source(str(corpus), store).documents()]


def test_a_file_is_read_again_and_again(tmp_path: Path, store: Store) -> None:
    source = open_source(str(corpus_file(tmp_path / "a.jsonl", "x", "y")), store)
    assert source.uri == "file:a.jsonl"
    assert list(source.documents()) == list(source.documents()) != []


def test_a_folder_is_all_its_readable_files_in_order(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "texts"
    corpus_file(folder / "b.jsonl", "b")
    corpus_file(folder / "a" / "deep.jsonl", "deep")
    corpus_file(folder / ".hidden.jsonl", "hidden")
    corpus_file(folder / ".git" / "in.jsonl", "hidden")
    (folder / "README.md").write_text("not read")
    source = open_source(str(folder), store)
    assert source.uri == "folder:texts"
    assert [(document.text, document.task) for document in source.documents()] == [("deep", "deep"), ("b", "b")]


def test_an_error_in_a_folder_names_the_file(tmp_path: Path, store: Store) -> None:
    corpus_file(tmp_path / "texts" / "a.jsonl", "a")
    (tmp_path / "texts" / "b.jsonl").write_text("{broken\n")
    with pytest.raises(CorpusError, match=r"^b\.jsonl, line 1: broken JSON"):
        texts_of(tmp_path / "texts", store)


def test_the_digest_follows_content_name_and_columns_and_not_the_place(tmp_path: Path, store: Store) -> None:
    here = open_source(str(corpus_file(tmp_path / "here" / "a.jsonl", "x")), store).digest
    there = open_source(str(corpus_file(tmp_path / "there" / "a.jsonl", "x")), store).digest
    other_content = open_source(str(corpus_file(tmp_path / "other" / "a.jsonl", "z")), store).digest
    other_name = open_source(str(corpus_file(tmp_path / "there" / "b.jsonl", "x")), store).digest
    other_columns = open_source(str(tmp_path / "here" / "a.jsonl"), store, label_column="text").digest
    assert here == there
    assert len({here, other_content, other_name, other_columns}) == 4


def test_python_docs_is_built_in(store: Store) -> None:
    source = open_source("python-docs", store)
    assert source.uri == "builtin:python-docs"
    assert len(source.digest) == 64
    assert next(source.documents()).text.strip()
    with pytest.raises(CorpusError, match="no columns to choose"):
        open_source("python-docs", store, text_column="text")


def test_an_existing_path_comes_before_an_upload_of_that_name(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_corpus(store, corpus_file(tmp_path / "up.jsonl", "uploaded"), "stories")
    monkeypatch.chdir(tmp_path)
    assert texts_of("stories", store) == ["uploaded"]
    corpus_file(tmp_path / "stories" / "a.jsonl", "local")
    assert texts_of("stories", store) == ["local"]


def test_an_unknown_corpus_says_what_was_tried(tmp_path: Path, store: Store) -> None:
    add_corpus(store, corpus_file(tmp_path / "films.jsonl", "x"))
    missing = tmp_path / "no" / "such.jsonl"
    with pytest.raises(CorpusError, match=rf"python-docs.*{missing}.*those are: films.*hf:NAME"):
        open_source(str(missing), store)


@pytest.mark.parametrize("name", ["", "../films", ".", "a b"])
def test_odd_names_are_refused_and_no_file_is_reached(
    tmp_path: Path, store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(CorpusError):
        open_source(name, store)


def test_a_file_of_an_unknown_format_is_refused(tmp_path: Path, store: Store) -> None:
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(CorpusError, match=r"a\.docx is not of a format.*\.txt, \.csv, \.json, \.jsonl, \.parquet"):
        open_source(str(tmp_path / "a.docx"), store)


def test_a_folder_without_a_readable_file_is_refused(tmp_path: Path, store: Store) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorpusError, match="holds no file that can be read"):
        open_source(str(tmp_path / "folder"), store)


@pytest.mark.parametrize("corpus", ["hf:", "hf:a@", "hf:a:b:c", "hf:@train"])
def test_a_malformed_dataset_name_is_refused(store: Store, corpus: str) -> None:
    with pytest.raises(CorpusError, match="write hf:NAME"):
        open_source(corpus, store)


def test_all_real_corpora_are_read_to_their_end(shared_data: Path, store: Store) -> None:
    paths = sorted((shared_data / "corpora").glob("*.jsonl"))
    assert len(paths) == 9
    for path in paths:
        documents = list(open_source(str(path), store).documents())
        assert len(documents) == path.read_bytes().count(b"\n"), path.name
        assert {document.task for document in documents} == {path.stem}
        labelled = path.stem.startswith(("sentiment", "toxicity"))
        assert {document.label for document in documents} == ({"0", "1"} if labelled else {None})


def test_some_tasks_of_python_docs(store: Store) -> None:
    whole, some = open_source("python-docs", store), open_source("python-docs:prose,docstring", store)
    assert some.uri == "builtin:python-docs:docstring,prose"
    assert {document.task for document in some.documents()} == {"prose", "docstring"}
    assert [each for each in whole.documents() if each.task != "code"] == list(some.documents())
    digests = {open_source(f"python-docs:{tasks}", store).digest for tasks in ("prose,docstring", "docstring, prose")}
    assert digests == {some.digest} != {whole.digest}
    assert open_source("python-docs:code,prose,docstring", store).digest == whole.digest


@pytest.mark.parametrize("tasks", ["poetry", "", "prose,", "prose;code"])
def test_tasks_that_python_docs_does_not_have_are_refused(tasks: str, store: Store) -> None:
    with pytest.raises(CorpusError, match=r"is no task.*prose, docstring, code"):
        open_source(f"python-docs:{tasks}", store)
