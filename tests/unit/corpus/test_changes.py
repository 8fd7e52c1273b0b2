"""Corpora that change while they are read, that lead elsewhere, or that are no files at all."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from mistudio.artifacts import InputRef, Store
from mistudio.corpus import changes as changes_module
from mistudio.corpus import ingest as ingest_module
from mistudio.corpus import uploads as uploads_module
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.documents import CorpusSource, Document
from mistudio.corpus.ingest import ingest
from mistudio.corpus.reader import TokenCorpus
from mistudio.corpus.sources import open_source
from mistudio.corpus.uploads import add_corpus
from mistudio.errors import CorpusError, DamagedArtifact, InputError

LINES = "".join(f'{{"text": "Document {number}"}}\n' for number in range(60))
OTHER = LINES.replace("Document 59", "Documens 59")  # of the same length


@dataclass
class ChangedMidway:
    """A source of which something is changed before its document ``at``."""

    source: CorpusSource
    change: Callable[[], object]
    at: int = 20
    is_changed: bool = field(default=False)

    def __getattr__(self, name: str) -> object:
        return getattr(self.source, name)

    def documents(self, dropped: object = None) -> Iterator[Document]:
        for number, document in enumerate(self.source.documents()):
            if number == self.at and not self.is_changed:
                self.change()
                self.is_changed = True
            yield document


def run(store: Store, source: object, tokenizer: PreTrainedTokenizerBase, **config: object) -> TokenCorpus:
    ref = InputRef(uri="test:tokenizer", digest="0" * 64)
    settings = IngestConfig(**{"context_length": 16, "held_out_fraction": 0.3, **config})  # type: ignore[arg-type]
    return TokenCorpus(ingest(store, source, tokenizer, ref, settings).artifact)  # type: ignore[arg-type]


def replaced(path: Path) -> None:
    path.with_suffix(".new").write_text(OTHER)
    path.with_suffix(".new").replace(path)


def kept_times(path: Path) -> None:
    before = path.stat()
    path.write_text(OTHER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "appended": lambda path: path.write_text(LINES + '{"text": "more"}\n'),
    "cut": lambda path: path.write_text(LINES[:-30]),
    "written over, same length": lambda path: path.write_text(OTHER),
    "replaced": replaced,
    "times put back": kept_times,
    "gone": Path.unlink,
}


@pytest.mark.parametrize("shard_documents", [8, 2048])
@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_not_published_under_its_old_digest(
    tmp_path: Path,
    store: Store,
    causal_tokenizer: PreTrainedTokenizerBase,
    what: str,
    shard_documents: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingest_module, "SHARD_DOCUMENTS", shard_documents)
    path = tmp_path / "corpus.jsonl"
    path.write_text(LINES)
    source = ChangedMidway(open_source(str(path), store), lambda: CHANGES[what](path))
    with pytest.raises(CorpusError, match=r"corpus\.jsonl.*(has changed while it was read|No such file)"):
        run(store, source, causal_tokenizer)
    assert list(store.list()) == []  # nothing of it is gone on with either
    path.write_text(LINES)
    assert run(store, open_source(str(path), store), causal_tokenizer).statistics.documents == 60


def test_a_change_within_one_tick_of_the_disks_clock_is_seen(
    tmp_path: Path, store: Store, causal_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(LINES)
    now_ns = time.time_ns()
    monkeypatch.setattr(changes_module, "_state", lambda name, path: (1, 2, 3, now_ns, now_ns))
    with pytest.raises(CorpusError, match="has changed"):
        run(
            store,
            ChangedMidway(open_source(str(path), store), lambda: path.write_text(OTHER)),
            causal_tokenizer,
            max_tokens=100,
        )


def test_a_file_that_is_only_touched_and_one_that_is_not_are_published(
    tmp_path: Path, store: Store, causal_tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(LINES)
    source = ChangedMidway(open_source(str(path), store), path.touch)
    assert run(store, source, causal_tokenizer).statistics.documents == 60


def test_what_did_not_change_is_hashed_once(
    tmp_path: Path, store: Store, causal_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "SHARD_DOCUMENTS", 8)
    monkeypatch.setattr(changes_module, "_SETTLED_S", 0.0)
    hashed: list[Path] = []
    hash_file = changes_module.hash_file
    monkeypatch.setattr(changes_module, "hash_file", lambda path: (hashed.append(path), hash_file(path))[1])
    path = tmp_path / "corpus.jsonl"
    path.write_text(LINES)
    run(store, open_source(str(path), store), causal_tokenizer)
    assert hashed == [path]


def test_one_file_of_a_folder_that_changes_is_named(
    tmp_path: Path, store: Store, causal_tokenizer: PreTrainedTokenizerBase
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_text(LINES)
    source = ChangedMidway(open_source(str(folder), store), lambda: (folder / "a.jsonl").write_text(OTHER), at=70)
    with pytest.raises(CorpusError, match=r"^a\.jsonl has changed"):
        run(store, source, causal_tokenizer)


def test_an_upload_that_changes_in_the_store_is_damaged(
    tmp_path: Path, store: Store, causal_tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "mine.jsonl").write_text(LINES)
    artifact = add_corpus(store, tmp_path / "mine.jsonl").artifact
    stored = store.fetch(f"{artifact.uri}/files/mine.jsonl")
    source = ChangedMidway(open_source("mine", store), lambda: stored.write_text(OTHER))
    with pytest.raises(DamagedArtifact, match=r"mine\.jsonl has other content"):
        run(store, source, causal_tokenizer)


def test_a_local_dataset_that_changes_is_named(
    tmp_path: Path, store: Store, causal_tokenizer: PreTrainedTokenizerBase
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text(LINES)
    source = open_source(f"hf:{folder}", store)
    (folder / "a.jsonl").write_text(OTHER)
    with pytest.raises(CorpusError, match="hf:data@train has changed"):
        source.check_unchanged(to_the_end=True)  # type: ignore[attr-defined]


def test_what_is_added_is_what_was_read(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(LINES)
    read = uploads_module._read_through

    def read_while_it_changes(*given: object) -> object:
        path.write_text("broken")
        return read(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(uploads_module, "_read_through", read_while_it_changes)
    artifact = add_corpus(store, path).artifact
    assert artifact.manifest.summary["documents"] == 60
    assert artifact.file("files/mine.jsonl").read_text() == LINES


def test_a_broken_corpus_leaves_nothing_in_the_store(tmp_path: Path, store: Store) -> None:
    (tmp_path / "mine.jsonl").write_text("broken")
    with pytest.raises(CorpusError, match="broken JSON"):
        add_corpus(store, tmp_path / "mine.jsonl")
    assert list(store.list()) == []


# How a folder can lead out of itself.
LINKS: dict[str, Callable[[Path, Path], object]] = {
    "file": lambda folder, outside: (folder / "link.jsonl").symlink_to(outside / "secret.jsonl"),
    "folder": lambda folder, outside: (folder / "link").symlink_to(outside),
    "relative": lambda folder, outside: (folder / "link.txt").symlink_to("../outside/secret.jsonl"),
    "over another link": lambda folder, outside: (folder / "deep" / "link.jsonl").symlink_to(
        "../a.jsonl/../../x.jsonl"
    ),
    "nowhere": lambda folder, outside: (folder / "link.json").symlink_to(outside / "nothing"),
}


@pytest.mark.parametrize("form", ["{}", "hf:{}"])
@pytest.mark.parametrize("what", LINKS)
def test_a_folder_that_leads_out_of_itself_is_refused(tmp_path: Path, store: Store, what: str, form: str) -> None:
    folder, outside = tmp_path / "texts", tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.jsonl").write_text(LINES)
    (folder / "a.jsonl").write_text(LINES)
    LINKS[what](folder, outside)
    with pytest.raises(CorpusError, match="holds a link that leads out of it: (deep/)?link"):
        open_source(form.format(folder), store)
    if form == "{}":
        with pytest.raises(CorpusError, match="holds a link"):
            add_corpus(store, folder)


def test_links_within_a_folder_and_those_that_nothing_reads_are_let_be(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "one"}')
    (folder / "b.jsonl").symlink_to("a.jsonl")
    (folder / "readme").symlink_to("/etc/hostname")
    (folder / ".hidden.txt").symlink_to("/etc/hostname")
    (folder / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(folder)
    assert [document.text for document in open_source(str(tmp_path / "link"), store).documents()] == ["one", "one"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ["fifo", "device", "link to a device"])
def test_what_is_no_file_is_no_corpus(tmp_path: Path, store: Store, what: str) -> None:
    path = tmp_path / "corpus.jsonl"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "link to a device":
        path.symlink_to("/dev/zero")
    else:
        path = Path("/dev/zero")
    for use in (lambda: open_source(str(path), store), lambda: add_corpus(store, path)):
        with pytest.raises(CorpusError, match="is no plain file but a pipe, device or socket"):
            use()


@pytest.mark.parametrize(
    "name",
    ["~no_such_user/texts", "x" * 300, "x" * 5000, "x/" * 3000, "a\0b", "hf:", "hf:x:y:z", "~"],
    ids=["home", "long", "longer", "deep", "zero byte", "no dataset", "no dataset either", "a home without files"],
)
def test_a_name_that_can_be_no_corpus_is_a_short_message(
    tmp_path: Path, store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CorpusError) as error:
        open_source(name, store)
    assert len(str(error.value)) < 700
    with pytest.raises(InputError) as refused:
        add_corpus(store, Path(name), "x" * 5000)
    assert len(str(refused.value)) < 700
