from pathlib import Path

import pytest

from mistudio.artifacts import Store, open_artifact, open_store
from mistudio.corpus.documents import Columns
from mistudio.corpus.sources import open_source
from mistudio.corpus.uploads import add_corpus, list_corpora, remove_corpus, upload_name
from mistudio.errors import CorpusError, DamagedArtifact, InputError, NotFound


def corpus_file(path: Path, content: str = '{"text": "one", "task": "t"}\n{"text": ""}\n{"text": "two"}\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(store: Store) -> list[str]:
    return [upload_name(artifact) for artifact in list_corpora(store)]


def test_an_added_corpus_is_found_by_name_listed_and_removed(tmp_path: Path, store: Store) -> None:
    assert names(store) == []
    path = corpus_file(tmp_path / "stories.jsonl")
    artifact, found = add_corpus(store, path)
    assert not found
    assert artifact.uri == "uploads/stories"
    assert artifact.manifest.summary == {"documents": 2, "text_bytes": 6, "tasks": 2, "dropped": 1}
    assert names(store) == ["stories"]
    local = list(open_source(str(path), store).documents())
    path.unlink()
    source = open_source("stories", store)
    assert source.uri == "upload:stories"
    assert list(source.documents()) == local
    remove_corpus(store, "stories")
    assert names(store) == list(store.list()) == []


def test_an_upload_has_the_digest_of_the_file_it_was(tmp_path: Path, store: Store) -> None:
    path = corpus_file(tmp_path / "a.jsonl")
    add_corpus(store, path, "other-name")
    assert open_source("other-name", store).digest == open_source(str(path), store).digest


def test_a_folder_is_kept_with_its_folders_whatever_its_files_are_called(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "my texts"
    corpus_file(folder / "work" / "notes (1).jsonl")
    corpus_file(folder / "manifest.json", '["from the manifest"]')
    artifact, _ = add_corpus(store, folder)
    assert upload_name(artifact) == "my_texts"
    assert artifact.paths() == ["files/manifest.json", "files/work/notes_1_.jsonl"]
    texts = [document.text for document in open_source("my_texts", store).documents()]
    assert texts == ["from the manifest", "one", "two"]


def test_two_files_that_would_be_kept_under_one_name_are_refused(tmp_path: Path, store: Store) -> None:
    corpus_file(tmp_path / "both" / "a b.jsonl")
    corpus_file(tmp_path / "both" / "a(b.jsonl")
    with pytest.raises(CorpusError, match=r"would both be kept as a_b\.jsonl"):
        add_corpus(store, tmp_path / "both")


def test_the_same_content_is_found_and_other_content_refused(tmp_path: Path, store: Store) -> None:
    path = corpus_file(tmp_path / "a.jsonl")
    first = add_corpus(store, path).artifact
    again = add_corpus(store, path)
    assert again.found
    assert again.artifact.digest == first.digest
    corpus_file(path, '{"text": "changed"}\n')
    with pytest.raises(CorpusError, match="already a corpus 'a' with other content.*mistudio corpus remove a"):
        add_corpus(store, path)
    assert open_artifact(store, "uploads/a").digest == first.digest


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", ".hidden", "..", "a\\b", "a b", "python-docs"])
def test_names_that_leave_the_folder_or_are_taken_are_refused(tmp_path: Path, store: Store, name: str) -> None:
    path = corpus_file(tmp_path / "a.jsonl")
    with pytest.raises(InputError):
        add_corpus(store, path, name)
    with pytest.raises(InputError):
        remove_corpus(store, name)
    assert list(store.list()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text"\n', r"a\.jsonl, line 2: broken JSON"),
        ("a.jsonl", '{"text": " "}\n', r"holds no document with text \(1 records without\)"),
        ("a.csv", "left,right\n1,2\n", "no usable text column"),
        ("a.parquet", "PAR1", "not a whole Parquet file"),
        ("a.docx", "PK", "not of a format"),
    ],
)
def test_a_corpus_that_cannot_be_read_to_its_end_is_not_kept(
    tmp_path: Path, store: Store, name: str, content: str, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        add_corpus(store, corpus_file(tmp_path / name, content))
    assert list(store.list()) == []


def test_a_missing_file_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(CorpusError, match="no file or folder"):
        add_corpus(store, tmp_path / "missing.jsonl")


def test_the_columns_of_an_upload_are_remembered_and_can_be_overruled(tmp_path: Path, store: Store) -> None:
    path = corpus_file(tmp_path / "films.csv", "title,review,stars\nX,good,5\n")
    add_corpus(store, path, columns=Columns(text="review", label="stars"))
    (document,) = open_source("films", store).documents()
    assert (document.text, document.label) == ("good", "5")
    (document,) = open_source("films", store, text_column="title").documents()
    assert (document.text, document.label) == ("X", "5")
    assert open_source("films", store).digest != open_source("films", store, text_column="title").digest


def test_what_a_killed_upload_left_does_not_end_up_in_the_next(tmp_path: Path, store: Store) -> None:
    with store.put("uploads/a/files/left-over.jsonl") as staged:
        staged.path.write_text('{"text": "left over"}\n')
    assert names(store) == []
    artifact, _ = add_corpus(store, corpus_file(tmp_path / "a.jsonl"))
    assert artifact.paths() == ["files/a.jsonl"]


def test_removing_an_unknown_corpus_names_the_known_ones(tmp_path: Path, store: Store) -> None:
    add_corpus(store, corpus_file(tmp_path / "known.jsonl"))
    with pytest.raises(NotFound, match="no uploaded corpus 'nope'; there are known"):
        remove_corpus(store, "nope")


def test_a_damaged_upload_is_refused(tmp_path: Path, store: Store) -> None:
    artifact, _ = add_corpus(store, corpus_file(tmp_path / "a.jsonl"))
    store.fetch(f"{artifact.uri}/files/a.jsonl").write_text(
        '{"text": "one", "task": "t"}\n{"text": ""}\n{"text": "TWO"}\n'
    )
    with pytest.raises(DamagedArtifact, match=r"files/a\.jsonl has other content"):
        list(open_source("a", store).documents())


def test_an_upload_says_who_made_it(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_GIT_COMMIT", "f" * 40)
    monkeypatch.setenv("MISTUDIO_IMAGE", "registry/batch@sha256:1")
    producer = add_corpus(store, corpus_file(tmp_path / "a.jsonl")).artifact.manifest.producer
    assert (producer.step, producer.git_commit, producer.image) == ("corpus add", "f" * 40, "registry/batch@sha256:1")


def test_an_uploaded_corpus_is_found_in_a_store_that_cannot_be_written(tmp_path: Path, store: Store) -> None:
    path = corpus_file(tmp_path / "a.jsonl")
    add_corpus(store, path)
    reader = open_store(store.url, "r")
    assert add_corpus(reader, path).found
    assert names(reader) == ["a"]
