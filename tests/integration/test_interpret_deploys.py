"""interpret serves what passed its gate, and nothing that fell short."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mistudio.artifacts import open_store
from mistudio.subject import resolve_source
from tests.support.deploying import Stage, in_process, stage
from tests.support.kube_accounts import SERVICES
from tests.support.tiny import tiny_documents, tiny_llama

ROOT = Path(__file__).parents[2]
QUICK = {"watch_s": 0.2, "check_every_s": 0.05, "smoke_tokens": 3, "max_error_rate": 0}


def interpret(folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    values = {"model": folder / "model", "corpus": folder / "text.jsonl", "train_tokens": 20000, "width": 128, "k": 4}
    values |= {"contexts": 5, "deploy_to": f"{SERVICES}/steer", "deploy_settings": json.dumps(QUICK), **settings}
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-c", "from mistudio.cli import main; main()", "run", "interpret", *sets]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MISTUDIO_CHECKOUT": str(ROOT), "MISTUDIO_TRACKING": "off"}
    return subprocess.run(
        [*command, "--store", str(folder / "store")], env=environment, capture_output=True, text=True, timeout=580
    )


@pytest.mark.proof
def test_what_passes_the_gate_is_served_and_what_falls_short_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_llama(tmp_path / "model")
    lines = [json.dumps(document) + "\n" for document in tiny_documents(80)]
    (tmp_path / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    store, source = open_store(str(tmp_path / "store")), resolve_source(str(tmp_path / "model"))
    with stage(tmp_path, monkeypatch, in_process(store, source)) as cluster:
        below = interpret(tmp_path, min_explained_variance=1)
        assert below.returncode == 3, below.stderr
        assert not _is_served(cluster)
        passed = interpret(tmp_path)
        assert passed.returncode == 0, passed.stderr
        assert _is_served(cluster)
        service = cluster.api.get("inferenceservices", SERVICES, "steer")
    noted = service["spec"]["predictor"]["annotations"]
    assert {f"mistudio.io/{name}-digest" for name in ("sae", "evaluation", "scores")} <= set(noted)
    assert "Created InferenceService" in passed.stdout + passed.stderr


def _is_served(cluster: Stage) -> bool:
    return cluster.api.has("inferenceservices", SERVICES, "steer")
