"""A GGUF file through the command line: tokenised, captured, and read again where a session finds the model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from mistudio.activations import ActivationReader, captured_source
from mistudio.artifacts import open_artifact, open_store
from mistudio.errors import InputError
from mistudio.instrument import open_session
from mistudio.subject import SubjectConfig, load_tokenizer, resolve_source
from tests.support.gguf_files import model_of, write_gguf
from tests.support.tiny import tiny_documents


def mistudio(folder: Path, *arguments: str) -> dict:
    command = [sys.executable, "-c", "from mistudio.cli import main; main()", *arguments, "--json"]
    environment = {"MISTUDIO_SCRATCH": str(folder / "scratch"), "MISTUDIO_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MISTUDIO_")}
    done = subprocess.run(
        command, cwd=folder, env={**inherited, **environment}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_file_is_ingested_captured_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path / "scratch"))
    for kind in (Kind.Q8_0, Kind.Q4_1):
        write_gguf(tmp_path / f"{kind.name}.gguf", model_of("llama"), kind=kind)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_documents(40)))
    text = ("--corpus", "text.jsonl", "--context-length", "32", "--store", "store")
    corpora = {
        mistudio(tmp_path, "ingest", *text, "--model", f"{name}.gguf")["artifact_uri"] for name in ("Q8_0", "Q4_1")
    }
    (corpus,) = corpora  # two quantisations of a model share it
    model = ("--model", "Q8_0.gguf", "--device", "cpu")
    captured = mistudio(tmp_path, "capture", "--corpus", corpus, *model, "--store", "store")
    store = open_store(str(tmp_path / "store"))
    activations = open_artifact(store, captured["artifact_uri"], "activations")
    source = resolve_source(str(tmp_path / "Q8_0.gguf"))
    assert activations.manifest.inputs["subject"].uri == "file:Q8_0.gguf"
    with pytest.raises(InputError, match="where the model file Q8_0.gguf lies is not known"):
        captured_source(store, activations)
    assert captured_source(store, activations, source) == source
    (hook,) = activations.manifest.config["hooks"]
    reader = ActivationReader(activations, hook, "heldout")
    meta, captured_ND = reader.meta(0, len(reader)), reader.acts(0, len(reader)).float()
    first_R = np.flatnonzero(meta["sequence"] == meta["sequence"][0])
    text = load_tokenizer(source).decode(meta["token_id"][first_R].tolist())
    with open_session(source=source, config=SubjectConfig(device="cpu", dtype="float32")) as session:
        (reading,) = session.activations([text], [hook])
    assert reading.tokens.token_ids.tolist() == meta["token_id"][first_R].tolist()
    torch.testing.assert_close(next(iter(reading.acts.values())), captured_ND[first_R], rtol=2e-2, atol=2e-2)
