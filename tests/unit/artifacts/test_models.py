"""Registered autoencoders: numbers of versions, aliases, and what stays on record."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mistudio.artifacts import Store, models
from mistudio.artifacts.models import (
    alias_history,
    find_version,
    model_aliases,
    model_names,
    model_versions,
    move_alias,
    register_version,
)
from mistudio.artifacts.refs import Reference
from mistudio.errors import DamagedArtifact, InputError, NotFound
from tests.unit.artifacts.conftest import Publish


def test_versions_are_numbered_by_name_and_one_digest_has_one(store: Store, publish: Publish) -> None:
    first, second = publish(k=1), publish(k=2)
    made = [
        register_version(store, name, sae, "ada")
        for name, sae in (("stories", first), ("stories", second), ("stories", first), ("code", first))
    ]
    assert [(str(version), is_new) for version, is_new in made] == [
        ("stories/1", True),
        ("stories/2", True),
        ("stories/1", False),
        ("code/1", True),
    ]
    assert model_names(store) == ["code", "stories"]
    assert [(each.number, each.sae.digest, each.author) for each in model_versions(store, "stories")] == [
        (1, first.digest, "ada"),
        (2, second.digest, "ada"),
    ]


def test_many_who_register_at_once_get_one_version_an_autoencoder(store: Store, publish: Publish) -> None:
    saes = [publish(k=k) for k in range(4)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda sae: register_version(store, "stories", sae, "ada"), saes * 4))
    assert sorted(each.number for each in model_versions(store, "stories")) == [1, 2, 3, 4]
    assert sum(is_new for _, is_new in made) == 4
    assert len({each.sae.digest for each in model_versions(store, "stories")}) == 4


def test_the_champion_moves_and_goes_back_and_every_move_is_on_record(store: Store, publish: Publish) -> None:
    versions = [register_version(store, "stories", publish(k=k), "ada")[0] for k in (1, 2)]
    move_alias(store, versions[1], "candidate", "pipeline")
    for version in versions:
        move_alias(store, version, "champion", "grace")
    back = move_alias(store, find_version(store, "stories", 1), "champion", "ada")
    assert (back.before, back.after) == (versions[1], versions[0])
    again = move_alias(store, versions[0], "champion", "ada")
    assert again.before == again.after
    assert {alias: version.number for alias, version in model_aliases(store, "stories").items()} == {
        "candidate": 2,
        "champion": 1,
    }
    moves = [
        (move.kind, version and version.number, move.target.author) for move, version in alias_history(store, "stories")
    ]
    assert sorted(moves) == [
        ("candidate", 2, "pipeline"),
        ("champion", 1, "ada"),
        ("champion", 1, "grace"),
        ("champion", 2, "grace"),
    ]


@pytest.mark.parametrize("look", ["aliases", "history"])
def test_a_version_that_is_registered_and_promoted_meanwhile_hides_no_champion(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    first, second = (publish(k=k) for k in (1, 2))
    move_alias(store, register_version(store, "stories", first, "ada")[0], "champion", "ada")
    real, begun = models.reference_history, []

    def read_slowly(*of: Any) -> list[Reference]:
        found = real(*of)
        if not begun:
            begun.append(of)
            move_alias(store, register_version(store, "stories", second, "ada")[0], "champion", "ada")
        return found

    monkeypatch.setattr(models, "reference_history", read_slowly)
    if look == "aliases":
        assert model_aliases(store, "stories")["champion"].number in (1, 2)
    else:
        assert None not in [version for _, version in alias_history(store, "stories")]


def test_what_is_not_registered_is_refused_with_what_there_is(store: Store, publish: Publish) -> None:
    with pytest.raises(NotFound, match="registered as 'stories' .*there is none"):
        find_version(store, "stories")
    version, _ = register_version(store, "stories", publish(), "ada")
    with pytest.raises(NotFound, match="has no version 7; it has 1"):
        find_version(store, "stories", 7)
    with pytest.raises(NotFound, match="has no candidate: name a version, one of 1"):
        find_version(store, "stories")
    with pytest.raises(InputError, match="no alias 'best'; there is candidate and champion"):
        move_alias(store, version, "best", "ada")
    with pytest.raises(InputError, match="may have '/'"):
        register_version(store, "a/b", publish(), "ada")


def test_an_autoencoder_that_was_replaced_is_not_promoted(store: Store, publish: Publish, tmp_path: Path) -> None:
    sae = publish(k=1)
    version, _ = register_version(store, "stories", sae, "ada")
    manifest = tmp_path / "store" / sae.uri / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0.5", "0.6"))
    with pytest.raises(DamagedArtifact, match="is not what was registered as stories/1"):
        move_alias(store, version, "champion", "ada")
    shutil.rmtree(tmp_path / "store" / sae.uri)
    with pytest.raises(NotFound):
        move_alias(store, version, "champion", "ada")
    assert model_aliases(store, "stories") == {}
