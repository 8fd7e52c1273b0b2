"""Commands on a store in a bucket: what stands in the store is found, shown, used, changed and removed there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mistudio.artifacts import Store, hash_file, open_artifact, open_store, scratch_folder
from mistudio.cli import app
from mistudio.demo import resolve_model
from tests.support.served import TinyStore, tiny_store
from tests.support.tiny import tiny_documents

runner = CliRunner()
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture
def store(s3_url: str, tiny: TinyStore, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A bucket with the files of the folder, which is the one that commands use."""
    opened = open_store(s3_url)
    for name in tiny.store.list():
        with opened.put(name) as staged:
            shutil.copyfile(tiny.store.fetch(name), staged.path)
    monkeypatch.setenv("MISTUDIO_STORE", s3_url)
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    return opened


def run(*arguments: str) -> str:
    done = runner.invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_artifacts_are_listed_shown_verified_named_and_removed(store: Store, tiny: TinyStore) -> None:
    listed = {row["uri"] for row in json.loads(run("artifacts", "list", "--json"))}
    assert listed == {file.name.rpartition("/")[0] for file in tiny.store.outermost("manifest.json")}
    assert run("artifacts", "latest", "sae").strip() == tiny.sae.uri
    assert json.loads(run("artifacts", "show", tiny.sae.uri, "--json"))["digest"] == tiny.sae.digest
    folder = Path(run("artifacts", "latest", "sae", "--path").strip())
    assert {path: hash_file(folder / path) for path in tiny.sae.paths()} == {
        entry.path: entry.sha256 for entry in tiny.sae.manifest.files
    }
    assert f"All {len(listed)} artifacts are whole" in run("artifacts", "verify")
    assert "champion" in run("artifacts", "name", tiny.sae.uri, "champion")
    assert tiny.sae.uri in run("artifacts", "refs")
    assert "Removed 0 files" in run("artifacts", "clean")
    run("artifacts", "remove", tiny.sae.uri, "--yes")
    assert list(store.list(tiny.sae.uri)) == []


def test_the_index_of_the_catalogue_lies_on_this_machine(store: Store) -> None:
    run("artifacts", "list")
    assert (scratch_folder(store) / "catalog-1.sqlite").is_file()
    assert not [name for name in store.folders() if "catalog" in name]


def test_corpora_are_added_listed_and_removed(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_STORE", s3_url)
    assert json.loads(run("corpus", "list", "--json")) == []
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps(document) + "\n" for document in tiny_documents(20)), encoding="utf-8")
    assert "Added corpus mine: 20 documents" in run("corpus", "add", str(file), "--name", "mine")
    assert "Found corpus mine" in run("corpus", "add", str(file), "--name", "mine")
    assert [row["name"] for row in json.loads(run("corpus", "list", "--json"))] == ["mine"]
    run("corpus", "remove", "mine")
    assert json.loads(run("corpus", "list", "--json")) == []


def test_a_preset_is_saved_shown_and_used(store: Store, tiny: TinyStore, tmp_path: Path) -> None:
    file = tmp_path / "calm.json"
    file.write_text(json.dumps({"edits": [{"op": "ablate", "features": [3, 5]}]}))
    run("preset", "save", str(file), "--sae", tiny.sae.uri)
    assert json.loads(run("preset", "show", "calm"))["edits"][0]["features"] == [3, 5]
    assert "calm" in run("preset", "list")
    steered = ["steer", "text", "the cat", "--max-tokens", "4", "--model", tiny.source.path, "--json"]
    assert json.loads(run(*steered, "--preset", "calm"))["text"] is not None
    run("preset", "remove", "calm")
    assert "removed" in run("preset", "history", "calm")


def test_a_step_publishes_and_is_found_again(store: Store, tiny: TinyStore, tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps(document) + "\n" for document in tiny_documents(40)), encoding="utf-8")
    ingest = ["ingest", "--corpus", str(file), "--model", tiny.source.path, "--json"]
    first, again = (json.loads(run(*ingest)) for _ in range(2))
    uri = first["artifact_uri"]
    assert (first["found"], again["found"], again["artifact_uri"]) == (False, True, uri)
    assert open_artifact(store, uri).digest == first["digest"]
    assert list(store.list(f"{uri}/work")) == []


def test_a_model_in_a_bucket_is_loaded_from_it(store: Store, tiny: TinyStore) -> None:
    from mistudio.artifacts import Draft, Recipe, Summary, produce
    from mistudio.subject import SubjectConfig, load_subject

    def build(draft: Draft) -> Summary:
        for path in sorted(Path(tiny.source.path).iterdir()):
            draft.write(path.name, path.read_bytes())
        return {}

    made = produce(store, Recipe(kind="subject", config={"name": "tiny"}), "test", build).artifact
    source = resolve_model(made.uri, None, store)
    assert source.uri == made.uri
    assert load_subject(source, SubjectConfig(device="cpu")).num_layers > 0


@pytest.mark.proof
def test_a_server_serves_a_model_and_autoencoder_from_a_bucket(store: Store, tiny: TinyStore) -> None:
    import httpx

    command = [
        sys.executable,
        "-m",
        "model_servers",
        "--store",
        store.url,
        "--subject",
        tiny.source.path,
        "--port",
        "0",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = 0
        for line in process.stderr:
            said = json.loads(line) if line.startswith("{") else {"message": line}
            port = said.get("port") or port
            if said["message"] == "loaded":
                break
        edit = {"op": "ablate", "features": [3], "autoencoder": tiny.sae.uri}
        asked = {"model": "model", "prompt": "the cat", "max_tokens": 4, "steering": {"edits": [edit]}}
        answer = httpx.post(f"http://127.0.0.1:{port}/openai/v1/completions", json=asked, timeout=120)
        process.terminate()
        process.stderr.read()
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"] is not None
