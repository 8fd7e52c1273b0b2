"""The catalogue: what a store holds, by kind, age and digest, and what was made from what."""

import errno
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mistudio.artifacts import (
    Artifact,
    Catalog,
    InputRef,
    Line,
    Manifest,
    Producer,
    Store,
    add_reference,
    ancestry,
    open_artifact,
    open_store,
    remove_artifact,
    scratch_folder,
)
from mistudio.artifacts import catalog as catalog_module
from mistudio.artifacts.index import INDEX_NAME
from mistudio.artifacts.kinds import KINDS, qualified_kind, schema_version
from mistudio.errors import DamagedArtifact, InputError, NotFound
from tests.unit.artifacts.conftest import Publish

OUTSIDE = InputRef(uri="folder:stories260K", digest="d" * 64)


def made(store: Store, uri: str, second: int = 0, version: int | None = None, **inputs: InputRef) -> Artifact:
    """An artifact of the kind that its prefix says, without files, created so many seconds after noon."""
    kind = uri.partition("/")[0]
    manifest = Manifest(
        kind=qualified_kind(kind, version or schema_version(kind)),
        config={"uri": uri},
        seed=0,
        inputs=inputs,
        files=(),
        summary={},
        producer=Producer(step="test", version="0"),
        created_at=f"2025-01-01T12:{second // 60:02d}:{second % 60:02d}+00:00",
    )
    assert store.create(f"{uri}/manifest.json", manifest.to_json())
    return Artifact(store, uri, manifest)


def made_line(store: Store, name: str = "1", second: int = 0) -> dict[str, Artifact]:
    """A whole line, the scores last."""
    line = {"corpus": made(store, f"corpus/{name}", second, tokenizer=OUTSIDE)}
    line["activations"] = made(store, f"activations/{name}", second + 1, corpus=line["corpus"].ref, subject=OUTSIDE)
    line["sae"] = made(store, f"sae/{name}", second + 2, activations=line["activations"].ref)
    line["features"] = made(store, f"features/{name}", second + 3, sae=line["sae"].ref, subject=OUTSIDE)
    line["explanations"] = made(store, f"explanations/{name}", second + 4, features=line["features"].ref)
    line["scores"] = made(store, f"scores/{name}", second + 5, explanations=line["explanations"].ref)
    return line


@pytest.fixture
def reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of the store that are read, as they are."""
    found: list[str] = []
    read = store.read
    monkeypatch.setattr(store, "read", lambda name: (found.append(name), read(name))[1])
    return found


def test_the_newest_of_a_kind_is_found_and_the_newest_of_those_one_asks_for(store: Store) -> None:
    for number, second in enumerate((3, 9, 5)):
        made(store, f"sae/{number}", second)
    catalog = Catalog(store)
    assert catalog.latest("sae").uri == "sae/1"
    assert catalog.latest("sae", where=lambda entry: entry.config["uri"] != "sae/1").uri == "sae/2"
    assert [entry.uri for entry in catalog.newest("sae")] == ["sae/1", "sae/2", "sae/0"]
    assert [entry.uri for entry in catalog.newest("sae", limit=2)] == ["sae/1", "sae/2"]
    for kind in ("features", "nothing"):
        with pytest.raises(NotFound, match=f"no artifact of kind mistudio.{kind}/\\d+ in the store"):
            catalog.latest(kind)


def test_the_newest_is_one_that_this_version_of_the_library_reads(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "sae", 2)
    made(store, "sae/old", 9, version=1)
    ours = made(store, "sae/ours", 1)
    assert Catalog(store).latest("sae").uri == ours.uri
    assert len(Catalog(store).entries("sae")) == 2


def test_an_artifact_is_found_by_its_digest_or_the_beginning_of_it(store: Store) -> None:
    artifacts = [made(store, f"sae/{number}") for number in range(40)]
    catalog = Catalog(store)
    for artifact in artifacts[:5]:
        assert catalog.by_digest(artifact.digest).uri == artifact.uri
        assert catalog.by_digest(artifact.digest[:12]).uri == artifact.uri
    with pytest.raises(NotFound, match="no artifact with digest ffffffffff"):
        catalog.by_digest("f" * 10)
    for bad in ("abc", "zzzzzzzz", "../../etc"):
        with pytest.raises(InputError, match="is no digest"):
            catalog.by_digest(bad)


def test_the_beginning_of_two_digests_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        made(store, f"sae/{number}")
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "digest", property(lambda self: f"abcdef{self.config['uri'][-1]}".ljust(64, "0")))
        catalog = Catalog(store)
        with pytest.raises(InputError, match="Several digests begin with abcdef: sae/0, sae/1"):
            catalog.by_digest("abcdef")
        assert catalog.by_digest("abcdef1").uri == "sae/1"


def test_parents_and_children_are_known_by_content(store: Store) -> None:
    line = made_line(store)
    catalog = Catalog(store)
    other = made(store, "features/2", sae=InputRef(uri=line["sae"].uri, digest="e" * 64))
    evaluation = made(store, "evaluation/1", sae=line["sae"].ref)
    assert {role: parent.uri for role, parent in catalog.parents(line["activations"]).items()} == {"corpus": "corpus/1"}
    assert [entry.uri for entry in catalog.children(line["sae"])] == ["evaluation/1", "features/1"]
    assert [entry.uri for entry in catalog.children(line["sae"], "evaluation")] == [evaluation.uri]
    assert catalog.children(line["scores"]) == []
    assert catalog.dependents(line["sae"].uri) == ["evaluation/1", "features/1", other.uri]


def test_what_other_processes_publish_remove_or_damage_is_seen(store: Store, reads: list[str]) -> None:
    catalog, other = Catalog(store), open_store(store.url)
    assert catalog.entries() == []
    made(other, "sae/1", 1)
    assert catalog.latest("sae").uri == "sae/1"
    made(other, "sae/2", 2)
    assert catalog.latest("sae").uri == "sae/2"
    remove_artifact(other, "sae/2")
    assert catalog.latest("sae").uri == "sae/1"
    made(other, "sae/2", 3, subject=OUTSIDE)  # with other content than before
    assert [entry.created_at[-8:-6] for entry in catalog.newest("sae")] == ["03", "01"]
    other.fetch("sae/2/manifest.json").write_bytes(b"broken")
    assert catalog.latest("sae").uri == "sae/1"
    (damaged,) = [entry for entry in catalog.entries("sae") if entry.damage]
    assert damaged.uri == "sae/2"
    assert "not a valid manifest" in str(damaged.damage)
    assert catalog.dependents("sae/1") == []


def test_a_manifest_that_changed_without_a_trace_is_refused(store: Store) -> None:
    path = store.fetch(f"{made(store, 'sae/1').uri}/manifest.json")
    catalog = Catalog(store)
    assert catalog.latest("sae").uri == "sae/1"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedArtifact, match="sae/1"):
        catalog.latest("sae")


def test_one_that_is_removed_before_it_is_opened_is_passed_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made(store, "sae/1", 1)
    made(store, "sae/2", 2)
    catalog = Catalog(store)
    opened = catalog_module.open_artifact

    def remove_first(store: Store, uri: str) -> Artifact:
        if uri == "sae/2":
            remove_artifact(store, uri)
        return opened(store, uri)

    monkeypatch.setattr(catalog_module, "open_artifact", remove_first)
    assert catalog.latest("sae").uri == "sae/1"


def test_each_manifest_is_read_once_on_a_machine(store: Store, reads: list[str]) -> None:
    made_line(store)
    assert len(Catalog(store).entries()) == 6
    assert len(reads) == 6
    reads.clear()
    again = Catalog(store)
    assert len(again.entries()) == 6
    assert again.dependents("sae/1") == ["features/1"]
    assert reads == []
    made(store, "sae/2")
    assert len(again.entries()) == 7
    assert reads == ["sae/2/manifest.json"]


def write_many(store: Store, lines: int) -> None:
    """Manifests of so many whole lines, written past the store, which would take its time for safety."""
    template = made_line(open_store(f"{store.url}-template"))
    for number in range(lines):
        for kind, artifact in template.items():
            folder = Path(store.url, kind, f"{number:016x}")
            folder.mkdir(parents=True)
            config = {"uri": f"{kind}/{number:016x}"}
            inputs = {
                role: ref if ":" in ref.uri else ref.model_copy(update={"uri": f"{role}/{number:016x}"})
                for role, ref in artifact.manifest.inputs.items()
            }
            created = f"2025-01-01T12:{number // 60:02d}:{number % 60:02d}+00:00"
            changed = {"config": config, "inputs": inputs, "created_at": created}
            content = artifact.manifest.model_copy(update=changed).to_json()
            (folder / "manifest.json").write_bytes(content)


def test_the_newest_line_of_ten_thousand_artifacts_is_found_by_reading_its_own_manifest(
    store: Store, reads: list[str]
) -> None:
    write_many(store, 1667)
    assert Catalog(store).newest_line().artifact.uri == f"scores/{1666:016x}"
    assert len(reads) == 6 * 1667 + 1
    reads.clear()
    assert Catalog(store).newest_line().artifact.uri == f"scores/{1666:016x}"
    assert reads == [f"scores/{1666:016x}/manifest.json"]


@pytest.mark.parametrize("damage", ["not a database", "other tables"])
def test_an_index_that_cannot_be_used_is_done_without(store: Store, damage: str) -> None:
    path = scratch_folder(store) / INDEX_NAME
    made_line(store)
    if damage == "not a database":
        path.write_bytes(b"x" * 5000)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE artifacts (uri TEXT PRIMARY KEY, kind TEXT, created_at TEXT, digest TEXT)")
    assert len(Catalog(store).entries()) == 6
    assert Catalog(store).newest_line().artifact.uri == "scores/1"
    if damage == "not a database":
        assert path.read_bytes().startswith(b"SQLite")


def test_an_index_with_rows_that_another_wrote_is_done_without(store: Store) -> None:
    made_line(store)
    assert len(Catalog(store).entries()) == 6
    with sqlite3.connect(scratch_folder(store) / INDEX_NAME) as connection:
        connection.execute("UPDATE artifacts SET content = 'no JSON'")
    assert len(Catalog(store).entries()) == 6


def test_a_manifest_that_cannot_be_read_or_names_no_kind_hides_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_line(store)
    path = store.fetch("scores/1/manifest.json")
    path.write_text(re.sub(r"mistudio\.scores/\d+", "mistudio.scores/abc", path.read_text()))
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **named: Any) -> Any:
        if self.as_posix().endswith("features/1/manifest.json"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return opened(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    problems = {entry.uri: entry.damage for entry in Catalog(store).entries()}
    assert len(problems) == 6
    assert {uri for uri, problem in problems.items() if problem} == {"scores/1", "features/1"}


def test_a_store_that_is_read_only_is_catalogued_and_left_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made_line(store)
    before = sorted(Path(store.url).rglob("*"))
    assert Catalog(open_store(store.url, "r")).newest_line().artifact.uri == "scores/1"
    assert sorted(Path(store.url).rglob("*")) == before
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)  # where nothing can be kept
    assert len(Catalog(open_store(store.url, "r")).entries()) == 6


def test_a_catalogue_lets_go_of_its_index(store: Store) -> None:
    made_line(store)
    with Catalog(store) as catalog:
        assert catalog.newest_line().artifact.uri == "scores/1"
    with pytest.raises(sqlite3.ProgrammingError):
        catalog._index.versions()


def test_the_newest_line_is_the_one_worked_on_last(store: Store) -> None:
    made_line(store, "1", second=0)
    assert Catalog(store).newest_line().artifact.uri == "scores/1"
    made_line(store, "2", second=10)
    assert Catalog(store).newest_line().artifact.uri == "scores/2"
    made(store, "sae/3", 20)
    assert Catalog(store).newest_line().artifact.uri == "sae/3"
    made(store, "corpus/4", 30)
    made(store, "features/4", 25)
    assert Catalog(store).newest_line().artifact.uri == "features/4"
    made(store, "explanations/4", 25)  # in the same second
    assert Catalog(store).newest_line().artifact.uri == "explanations/4"


def test_a_line_is_opened_as_it_is_asked_for(store: Store, reads: list[str]) -> None:
    published = made_line(store)
    line = Line(store, published["scores"])
    assert reads == []
    assert line.explanations is not None
    assert line.explanations.uri == "explanations/1"
    assert reads == ["explanations/1/manifest.json"]
    assert line.sae.uri == "sae/1"
    assert len(reads) == 3
    assert line.scores is published["scores"]
    assert line.features is not None
    assert (line.features.uri, line.activations.uri, line.corpus.uri) == ("features/1", "activations/1", "corpus/1")
    assert line.subject == OUTSIDE
    assert len(reads) == 5


def test_a_line_that_starts_later_has_nothing_before(store: Store) -> None:
    published = made_line(store)
    line = Line(store, published["sae"])
    assert (line.scores, line.explanations, line.features) == (None, None, None)
    assert (line.sae, line.corpus.uri) == (published["sae"], "corpus/1")
    text = Line(store, published["corpus"])
    assert text.corpus is published["corpus"]
    with pytest.raises(InputError, match=r"corpus/1 \(mistudio\.corpus/\d+\) was not made from anything of kind sae"):
        _ = text.sae


def test_what_stands_beside_the_line_leads_to_it(store: Store) -> None:
    published = made_line(store)
    evaluation = made(store, "evaluation/1", sae=published["sae"].ref, subject=OUTSIDE)
    assert Line(store, evaluation).activations.uri == "activations/1"
    assert Line(store, evaluation).features is None


def test_a_line_that_is_broken_says_so(store: Store) -> None:
    published = made_line(store)
    remove_artifact(store, "activations/1")
    line = Line(store, published["scores"])
    assert line.sae.uri == "sae/1"
    with pytest.raises(NotFound, match="activations/1"):
        _ = line.corpus
    made(store, "activations/1", 50)
    with pytest.raises(DamagedArtifact, match="activations/1"):
        _ = line.corpus


def test_a_graph_has_every_ancestor_once_parents_first(store: Store) -> None:
    published = made_line(store)
    evaluation = made(store, "evaluation/1", sae=published["sae"].ref, subject=OUTSIDE)
    graph = Catalog(store).graph(published["features"], evaluation)
    uris = [node.ref.uri for node in graph.nodes.values()]
    assert sorted(uris) == sorted(
        ["folder:stories260K", "corpus/1", "activations/1", "sae/1", "features/1", "evaluation/1"]
    )
    for edge in graph.edges:
        assert list(graph.nodes).index(edge.parent) < list(graph.nodes).index(edge.child)
    sae = published["sae"]
    assert [
        (edge.role, graph.nodes[edge.child].ref.uri) for edge in graph.edges if edge.parent.startswith("sae/1")
    ] == [
        ("sae", "features/1"),
        ("sae", "evaluation/1"),
    ]
    ((role, node),) = graph.inputs(f"{sae.uri}@{sae.digest}")
    assert (role, node.ref, node.state) == ("activations", published["activations"].ref, "stored")


def test_an_ancestor_that_is_gone_damaged_or_replaced_is_a_node_that_says_so(store: Store) -> None:
    damaged, gone = made(store, "sae/damaged"), made(store, "sae/gone")
    replaced = InputRef(uri=made(store, "sae/other").uri, digest="e" * 64)
    artifact = made(store, "comparison/1", a=damaged.ref, b=gone.ref, c=replaced, d=OUTSIDE)
    remove_artifact(store, gone.uri)
    store.fetch(f"{damaged.uri}/manifest.json").write_bytes(b"broken")
    nodes = dict(ancestry(store, {"it": artifact}).inputs(f"{artifact.uri}@{artifact.digest}"))
    assert {role: node.state for role, node in nodes.items()} == {
        "a": "damaged",
        "b": "gone",
        "c": "replaced",
        "d": "outside",
    }
    assert "not a valid manifest" in str(nodes["a"].problem)
    assert "instead of eeeeeeeeeeee" in str(nodes["c"].problem)
    assert all(node.artifact is None for node in nodes.values())
    assert Catalog(store).parents(artifact) == {}


def test_names_are_no_artifacts(store: Store) -> None:
    artifact = made(store, "sae/1")
    add_reference(store, "sae", "champion", artifact, "ada")
    assert [entry.uri for entry in Catalog(store).entries()] == ["sae/1"]


def test_an_artifact_is_opened_as_it_was_published(store: Store, publish: Publish) -> None:
    artifact = publish()
    latest = Catalog(store).latest("sae")
    assert latest.digest == artifact.digest == open_artifact(store, artifact.uri).digest
    assert latest.file("weights").read_bytes() == b"0123456789"
    (entry,) = Catalog(store).entries()
    assert (entry.num_bytes, entry.summary) == (artifact.manifest.num_bytes, artifact.manifest.summary)
    assert (entry.config, entry.seed, entry.inputs) == (artifact.manifest.config, 0, {})
