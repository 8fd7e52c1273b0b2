"""What is checked of artifacts that somebody edited, what cannot be proved, and signatures."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistudio.artifacts import (
    SIGNING_KEY_ENV,
    Artifact,
    Store,
    add_reference,
    open_artifact,
    produce,
    remove_artifact,
    sign,
    tidy_store,
    verify,
)
from mistudio.artifacts import publishing as publishing_module
from mistudio.artifacts.manifest import Manifest, Recipe
from mistudio.errors import ConfigError, DamagedArtifact, NotFound, StorageError
from tests.unit.artifacts.conftest import Publish

KEY = "0123456789abcdef-key-of-these-tests"
Content = dict[str, Any]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGNING_KEY_ENV, f"{KEY}\n")


def manifest_path(store: Store, artifact: Artifact) -> Path:
    return store.fetch(f"{artifact.uri}/manifest.json")


def edit(store: Store, artifact: Artifact, change: Callable[[Content], object]) -> None:
    path = manifest_path(store, artifact)
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def problems(store: Store, uri: str) -> list[str]:
    (verdict,) = verify(store, [uri])
    return list(verdict.problems)


# Edits of a manifest that its prefix, its files or its own form contradict.
EDITS: dict[str, tuple[Callable[[Content], object], str]] = {
    "seed": (lambda content: content.update(seed=7), "was edited.* are those of sae/"),
    "settings": (lambda content: content["config"].update(k=9), "was edited"),
    "more settings": (lambda content: content["config"].update(more=None), "was edited"),
    "an input's digest": (lambda content: content["inputs"]["corpus"].update(digest="0" * 64), "was edited"),
    "no inputs": (lambda content: content.update(inputs={}), "was edited"),
    "kind": (lambda content: content.update(kind="mistudio.features/2"), "was edited"),
    "version": (lambda content: content.update(kind="mistudio.sae/1"), "was edited"),
    "no kind": (lambda content: content.update(kind="SAE!/1"), "of kind SAE!/1, which is none"),
    "no files": (lambda content: content.update(files=[]), "weights is not listed in the manifest"),
    "one file less": (lambda content: content["files"].pop(), "weights is not listed"),
    "a file twice": (lambda content: content["files"].append(content["files"][0]), "lists deep/table 2 times"),
    "itself": (lambda content: content["files"][0].update(path="manifest.json"), "lists manifest.json, which is no"),
    "a file's hash": (lambda content: content["files"][0].update(sha256="0" * 64), "sha256 differs"),
    "a file's size": (lambda content: content["files"][0].update(bytes=0), "has 3 bytes instead of 0"),
    "endless": (lambda content: content["config"].update(k=float("inf")), "is not a valid manifest"),
    "no number": (lambda content: content["config"].update(k=[float("nan")]), "is not a valid manifest"),
    "a long number": (lambda content: content.update(seed=10**4000), "was edited"),
    "half a character": (lambda content: content["config"].update(k="\ud800"), "is not a valid manifest|was edited"),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edited_manifest_is_no_longer_as_published(store: Store, publish: Publish, what: str) -> None:
    change, expected = EDITS[what]
    artifact = publish(inputs={"corpus": publish("corpus").ref}, k=8)
    assert problems(store, artifact.uri) == []
    edit(store, artifact, change)
    found = problems(store, artifact.uri)
    assert any(re.search(expected, problem) for problem in found), found


# Edits that the artifact itself does not show.
UNSEEN: dict[str, Callable[[Content], object]] = {
    "figures": lambda content: content["summary"].update(loss=0.0),
    "an input's place": lambda content: content["inputs"]["source"].update(uri="file:other.jsonl"),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_what_an_artifact_does_not_show_its_dependents_do(store: Store, publish: Publish, what: str) -> None:
    source = publish("sae").ref.model_copy(update={"uri": "file:stories.jsonl"})
    artifact = publish("corpus", inputs={"source": source})
    dependent = publish("activations", inputs={"corpus": artifact.ref})
    edit(store, artifact, UNSEEN[what])
    (problem,) = problems(store, artifact.uri)
    assert f"{dependent.uri} names it with {artifact.digest[:12]}" in problem
    assert problems(store, dependent.uri) == []


def test_a_name_that_was_given_is_a_proof_too(store: Store, publish: Publish) -> None:
    artifact = publish()
    assert [verdict.proof for verdict in verify(store)] == ["none"]
    add_reference(store, "sae", "champion", artifact, "ada")
    assert [verdict.proof for verdict in verify(store)] == ["digest"]
    edit(store, artifact, UNSEEN["figures"])
    (problem,) = problems(store, artifact.uri)
    assert "the name sae/champion names it with" in problem


def test_without_dependents_figures_can_be_edited_and_verify_says_that_it_cannot_tell(
    store: Store, publish: Publish
) -> None:
    corpus = publish("corpus")
    sae = publish("sae", inputs={"corpus": corpus.ref})
    edit(store, sae, UNSEEN["figures"])
    assert {verdict.uri: (verdict.problems, verdict.proof) for verdict in verify(store)} == {
        corpus.uri: ((), "digest"),
        sae.uri: ((), "none"),
    }


def test_files_that_no_manifest_lists_are_named(store: Store, publish: Publish) -> None:
    artifact = publish()
    assert store.create(f"{artifact.uri}/deep/more", b"")
    (Path(store.url) / artifact.uri / "odd name").write_text("")
    (Path(store.url) / artifact.uri / ".hidden").write_text("")
    assert problems(store, artifact.uri) == [
        f"{artifact.uri}/deep/more is not listed in the manifest",
        f"{artifact.uri}/odd name is a link or no plain file, and no part of the artifact",
    ]


def test_an_artifact_with_a_name_of_its_own_has_no_prefix_to_fit(store: Store) -> None:
    recipe = Recipe(kind="upload", config={})
    artifact = produce(store, recipe, "corpus add", lambda draft: draft.write("a", b"") or {}, "uploads/mine").artifact
    assert problems(store, artifact.uri) == []


def test_an_artifact_that_was_moved_is_told_by_its_prefix(store: Store, publish: Publish) -> None:
    artifact = publish()
    for uri in ("sae/mine", "mine/sae", f"sap/{artifact.uri.partition('/')[2]}"):
        shutil.copytree(Path(store.url) / artifact.uri, Path(store.url) / uri)
        assert "was edited" in problems(store, uri)[0]


def test_names_that_are_damaged_are_told_and_the_others_are_verified(store: Store, publish: Publish) -> None:
    artifact = publish()
    assert store.create("refs/sae/champion/00000001", b"broken")
    assert [(verdict.uri, len(verdict.problems)) for verdict in verify(store)] == [(artifact.uri, 0), ("refs", 1)]


@pytest.mark.usefixtures("key")
def test_a_signature_proves_figures_maker_and_time_and_leaves_the_digest_as_it_is(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish()
    assert [verdict.proof for verdict in verify(store)] == ["signature"]
    monkeypatch.delenv(SIGNING_KEY_ENV)
    assert [(verdict.problems, verdict.proof) for verdict in verify(store)] == [((), "none")]
    remove_artifact(store, artifact.uri)
    assert list(store.list()) == []
    unsigned = publish()
    assert unsigned.digest == artifact.digest


SIGNED_EDITS: dict[str, Callable[[Content], object]] = {
    "figures": UNSEEN["figures"],
    "maker": lambda content: content["producer"].update(step="by hand"),
    "time": lambda content: content.update(created_at="2020-01-01T00:00:00+00:00"),
}


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("what", SIGNED_EDITS)
def test_who_has_the_key_opens_no_manifest_that_was_edited(
    store: Store, publish: Publish, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish()
    edit(store, artifact, SIGNED_EDITS[what])
    with pytest.raises(DamagedArtifact, match="its signature is not that of its manifest"):
        open_artifact(store, artifact.uri)
    assert "its signature" in problems(store, artifact.uri)[0]
    monkeypatch.delenv(SIGNING_KEY_ENV)
    assert open_artifact(store, artifact.uri).uri == artifact.uri


@pytest.mark.usefixtures("key")
def test_a_signature_serves_no_other_artifact_and_no_other_key(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publish(k=1), publish(k=2)
    signature = Path(store.url) / second.uri / "manifest.hmac"
    signature.write_bytes(store.read(f"{first.uri}/manifest.hmac"))
    assert "its signature" in problems(store, second.uri)[0]
    monkeypatch.setenv(SIGNING_KEY_ENV, "another key of 16 characters")
    assert "its signature" in problems(store, first.uri)[0]


@pytest.mark.usefixtures("key")
def test_what_is_not_signed_is_told_and_signed_once_it_was_checked(store: Store, publish: Publish) -> None:
    artifact, edited = publish(k=1), publish(k=2)
    for each in (artifact, edited):
        store.remove(f"{each.uri}/manifest.hmac")
    edit(store, edited, EDITS["seed"][0])
    assert [verdict.is_unsigned for verdict in verify(store)] == [True, True]
    assert open_artifact(store, artifact.uri).uri == artifact.uri  # a store may be signed later
    sign(store, f"{artifact.uri}/")
    assert [verdict.is_unsigned for verdict in verify(store, [artifact.uri])] == [False]
    with pytest.raises(DamagedArtifact, match="is not signed, for it is damaged: .* was edited"):
        sign(store, edited.uri)
    with pytest.raises(NotFound):
        sign(store, "sae/nothing")


def test_a_key_that_is_none_is_refused_before_the_work(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish()
    with pytest.raises(ConfigError, match="no key to sign with"):
        sign(store, artifact.uri)
    monkeypatch.setenv(SIGNING_KEY_ENV, "short")
    with pytest.raises(ConfigError, match="fewer than 16 characters") as error:
        produce(store, Recipe(kind="sae", config={"k": 3}), "train", lambda draft: 1 / 0)  # type: ignore[arg-type,return-value]
    assert "short" not in str(error.value)


@pytest.mark.usefixtures("key")
def test_the_key_is_in_no_message_and_in_no_file(store: Store, publish: Publish) -> None:
    publish(note=KEY[:4])
    assert KEY not in str(StorageError(f"a message with {KEY}"))
    assert not [name for name in store.list() if KEY.encode() in store.read(name)]


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_a_kill_left_between_publication_and_tidying_goes_with_the_next_run(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = Path(store.url) / ".mistudio" / "staging"

    def run() -> Artifact:
        def build(draft: Any) -> dict[str, Any]:
            draft.work_once("checkpoint", lambda path: path.write_bytes(b"x"))
            (staging / f"{draft.prefix.replace('/', '@')}@weights").write_bytes(b"half")
            return {}

        return produce(store, Recipe(kind="sae", config={}), "train", build).artifact

    for tidy in (run, lambda: tidy_store(store)):
        with monkeypatch.context() as patch:
            patch.setattr(publishing_module, "_drop_work", killed)
            with pytest.raises(KeyboardInterrupt):
                run()
        (uri,) = {name.rpartition("/work/")[0] for name in store.list() if "/work/" in name}
        assert problems(store, uri) == []
        tidy()
        assert list(store.list()) == [f"{uri}/manifest.json"]
        assert list(staging.iterdir()) == []
        remove_artifact(store, uri)


def test_a_manifest_keeps_its_digest(store: Store, publish: Publish) -> None:
    manifest = publish().manifest
    assert Manifest.from_json(manifest.to_json(), "x").digest == manifest.digest
