"""Names for artifacts: what each stands for now, and has stood for."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mistudio.artifacts import Store, add_reference, find_reference, open_store, reference_history, references
from mistudio.errors import DamagedArtifact, InputError, NotFound, StorageError
from tests.unit.artifacts.conftest import Publish


def test_a_name_stands_for_what_it_was_given_last_and_everything_before_is_on_record(
    store: Store, publish: Publish
) -> None:
    first, second = publish(k=1), publish(k=2)
    for artifact, author in ((first, "ada"), (second, "grace"), (first, "ada")):
        add_reference(store, "sae", "champion", artifact, author)
    found = find_reference(store, "sae", "champion")
    assert (found.number, found.target.uri, found.target.digest) == (3, first.uri, first.digest)
    record = [
        (each.number, each.target.uri, each.target.author) for each in reference_history(store, "sae", "champion")
    ]
    assert record == [(1, first.uri, "ada"), (2, second.uri, "grace"), (3, first.uri, "ada")]
    assert list(store.list("refs")) == [f"refs/sae/champion/{number:08d}" for number in (1, 2, 3)]


def test_names_of_different_kinds_do_not_meet(store: Store, publish: Publish) -> None:
    sae, features = publish("sae"), publish("features")
    add_reference(store, "label", "good", features, "ada")
    add_reference(store, "preset", "good", sae, "ada")
    assert find_reference(store, "label", "good").target.uri == features.uri
    assert [(each.kind, each.name) for each in references(store)] == [("label", "good"), ("preset", "good")]
    assert [each.target.uri for each in references(store, "preset")] == [sae.uri]


def test_a_name_can_stand_for_nothing_any_more(store: Store, publish: Publish) -> None:
    add_reference(store, "preset", "calm", publish(), "ada")
    add_reference(store, "preset", "calm", None, "ada")
    with pytest.raises(NotFound, match="no preset called 'calm'"):
        find_reference(store, "preset", "calm")
    assert list(references(store)) == []
    assert len(reference_history(store, "preset", "calm")) == 2
    with pytest.raises(NotFound, match="no preset called 'wild'"):
        find_reference(store, "preset", "wild")


def test_of_many_who_change_a_name_at_once_none_is_lost(store: Store, publish: Publish) -> None:
    artifact = publish()

    def change(author: int) -> int:
        return add_reference(open_store(store.url), "sae", "champion", artifact, str(author)).number

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(change, range(24)))
    assert sorted(numbers) == list(range(1, 25))
    authors = {each.number: each.target.author for each in reference_history(store, "sae", "champion")}
    assert authors == {number: str(author) for author, number in enumerate(numbers)}


@pytest.mark.parametrize(("kind", "name"), [("a/b", "x"), ("a", "x/y"), ("", "x"), ("a", ".."), ("a", "")])
def test_what_cannot_be_a_name_is_refused(store: Store, publish: Publish, kind: str, name: str) -> None:
    with pytest.raises(InputError):
        add_reference(store, kind, name, publish(), "ada")


def test_a_damaged_reference_is_named(store: Store, publish: Publish) -> None:
    add_reference(store, "sae", "champion", publish(), "ada")
    store.fetch("refs/sae/champion/00000001").write_bytes(b"{}")
    with pytest.raises(DamagedArtifact, match="refs/sae/champion/00000001 is damaged"):
        find_reference(store, "sae", "champion")


def test_other_files_among_the_names_are_left_alone(store: Store, publish: Publish) -> None:
    add_reference(store, "sae", "champion", publish(), "ada")
    for name in ("README", "sae/README", "sae/champion/notes", "sae/champion/1/2", "sae/champion/7"):
        assert store.create(f"refs/{name}", b"by hand")
    assert [each.name for each in references(store)] == ["champion"]
    assert add_reference(store, "sae", "champion", publish(), "ada").number == 2


def test_no_name_is_given_in_a_store_that_cannot_be_written(store: Store, publish: Publish) -> None:
    artifact = publish()
    add_reference(store, "sae", "champion", artifact, "ada")
    reader = open_store(store.url, "r")
    assert find_reference(reader, "sae", "champion").target.uri == artifact.uri
    with pytest.raises(StorageError, match="read only"):
        add_reference(reader, "sae", "champion", artifact, "ada")
