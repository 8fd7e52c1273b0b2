"""Finding a model: folders, the hub, artifacts, and what names their content."""

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from mistudio.artifacts import Draft, Recipe, open_store, produce
from mistudio.errors import DamagedArtifact, HubUnreachable, InputError, SubjectError
from mistudio.subject import SubjectConfig, artifact_source, load_subject, load_tokenizer, resolve_source
from mistudio.subject import source as source_module


def publish(store_folder: Path, model_folder: Path, kind: str = "subject"):
    def build(draft: Draft) -> dict[str, str]:
        for path in model_folder.iterdir():
            draft.write(path.name, path.read_bytes())
        return {}

    return produce(open_store(str(store_folder)), Recipe(kind=kind, config={"name": "tiny"}), "test", build).artifact


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a hub at an address where nothing listens."""
    cache = tmp_path / "hub-cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    return cache


def test_a_copy_of_a_folder_elsewhere_has_the_same_digests(model_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model_folder, tmp_path / "other" / "copy")
    (copy / "README.md").write_text("not part of the model")
    one, two = resolve_source(str(model_folder)), resolve_source(str(copy))
    assert (one.digest, one.tokenizer_digest) == (two.digest, two.tokenizer_digest)
    assert (one.name, one.uri, one.path, one.revision) == ("tiny-llama", "folder:tiny-llama", str(model_folder), None)


@pytest.mark.parametrize("changed", ["config.json", "model.safetensors"])
def test_other_weights_or_settings_change_the_digest_but_not_the_tokenizers(changed: str, model_folder: Path) -> None:
    before = resolve_source(str(model_folder))
    with (model_folder / changed).open("ab") as handle:
        handle.write(b" ")
    after = resolve_source(str(model_folder))
    assert after.digest != before.digest
    assert after.tokenizer_digest == before.tokenizer_digest


def test_another_tokenizer_changes_both_digests(model_folder: Path) -> None:
    before = resolve_source(str(model_folder))
    with (model_folder / "tokenizer.json").open("ab") as handle:
        handle.write(b" ")
    after = resolve_source(str(model_folder))
    assert after.digest != before.digest
    assert after.tokenizer_digest != before.tokenizer_digest


@pytest.mark.parametrize("model", ["./no/such", "/no/such", "~/no/such/model", "no/such/model", "what is this", ""])
def test_a_folder_that_is_not_there_is_named(model: str) -> None:
    with pytest.raises(SubjectError, match="No such model folder") as caught:
        resolve_source(model)
    assert model in str(caught.value)


def test_a_folder_without_a_configuration_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"holds no model: config\.json is missing"):
        resolve_source(str(tmp_path))


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_hub_the_message_names_the_model_and_what_works(
    offline: bool, no_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(HubUnreachable, match=r"EleutherAI/pythia-70m.*a folder with the model in it, or .*demo"):
        resolve_source("EleutherAI/pythia-70m")


def test_a_model_in_the_local_cache_is_found_without_a_hub(no_hub: Path, model_folder: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = no_hub / "models--someone--tiny"
    shutil.copytree(model_folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    source = resolve_source("someone/tiny")
    assert (source.name, source.uri) == ("tiny", f"hub:someone/tiny@{commit}")
    assert source.tokenizer_digest == resolve_source(str(model_folder)).tokenizer_digest
    assert load_subject(source, SubjectConfig(device="cpu")).num_layers == 3
    with pytest.raises(HubUnreachable):
        resolve_source("someone/tiny", revision="other")


def test_a_published_subject_loads_and_shares_its_tokenizers_digest(model_folder: Path, tmp_path: Path) -> None:
    artifact = publish(tmp_path / "store", model_folder)
    source = artifact_source(artifact)
    assert (source.name, source.uri, source.digest) == ("tiny", artifact.uri, artifact.digest)
    assert source.tokenizer_digest == resolve_source(str(model_folder)).tokenizer_digest
    assert load_tokenizer(source).encode("the cat")


def test_a_damaged_published_subject_is_refused(model_folder: Path, tmp_path: Path) -> None:
    artifact = publish(tmp_path / "store", model_folder)
    weights = tmp_path / "store" / artifact.uri / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(DamagedArtifact, match=r"model\.safetensors"):
        artifact_source(artifact)


def test_an_artifact_of_another_kind_is_no_subject(model_folder: Path, tmp_path: Path) -> None:
    artifact = publish(tmp_path / "store", model_folder, kind="sae")
    with pytest.raises(InputError, match="is a sae, not a subject"):
        artifact_source(artifact)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 100_000, "nest deeper"),
        ("", "cannot be read as JSON"),
        ("[1]", "does not say which files"),
        ('{"weight_map": 3}', "does not say which files"),
        ('{"weight_map": {"a": null}}', "does not say which files"),
    ],
)
def test_an_index_of_weights_that_cannot_be_read_is_named(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(SubjectError, match=rf"index\.json .*{reason}"):
        source_module._has_all_weights(tmp_path)
