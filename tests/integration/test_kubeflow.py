"""From ``mistudio submit`` to ``mistudio result``: the pipeline that is uploaded is executed for real.

The pods are processes of kfp's local runner; they know the run's id and the store, as pods on a cluster do.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio.artifacts import open_artifact, open_store
from tests.integration.test_interpret import ROOT
from tests.support.kfp_api import KfpServer
from tests.support.kfp_api.executing import Executor
from tests.support.tiny import tiny_documents, tiny_llama

pytestmark = pytest.mark.proof
TOKEN = "token-of-ci-0123456789"
NAMESPACE = "mistudio-data"
SETTINGS = {"train_tokens": 2000, "width": 128, "k": 4}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KfpServer]:
    """A cluster whose store holds a model and a corpus."""
    with KfpServer(tokens={TOKEN: {NAMESPACE}}, multi_user=True) as started:
        yield started


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    tiny_llama(folder / "model")
    (folder / "text.jsonl").write_text(
        "".join(json.dumps(each) + "\n" for each in tiny_documents(80)), encoding="utf-8"
    )
    added = mistudio("corpus", "add", str(folder / "text.jsonl"), "--name", "stories", "--store", str(folder / "store"))
    assert added.returncode == 0, added.stderr
    return folder


def mistudio(
    *arguments: str, server: KfpServer | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MISTUDIO_", "KF_"))}
    where = {"MISTUDIO_KFP_HOST": server.url, "MISTUDIO_KFP_TOKEN": TOKEN} if server else {}
    environment = {**kept, **where, "MISTUDIO_KFP_NAMESPACE": NAMESPACE, "PYTHONPATH": str(ROOT / "src")}
    line = [sys.executable, "-c", "from mistudio.cli import main; main()", *arguments]
    return subprocess.run(
        line, cwd=cwd or ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False
    )


def test_a_submitted_pipeline_runs_and_its_result_is_that_of_its_steps(
    server: KfpServer, prepared: Path, tmp_path: Path
) -> None:
    store = str(prepared / "store")
    values = {**SETTINGS, "corpus": "stories", "min_explained_variance": 1.0}
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    # The pods see the model where this machine does not: the name is resolved in their own folder.
    (tmp_path / "pods").mkdir()
    model = ["--set", "model=subject-of-the-pods"]
    summary = tmp_path / "result.json"
    environment = {"MISTUDIO_STORE": store, "MISTUDIO_TRACKING": "off"}
    with Executor(server, tmp_path / "pods", environment) as executor:
        executor.files["subject-of-the-pods"] = prepared / "model"
        done = mistudio(
            *("submit", "interpret", *sets, *model, "--store", store),
            *("--wait", "--summary", str(summary), "--experiment", "nightly"),
            server=server,
        )
    assert done.returncode == 3, done.stderr
    run_id = done.stdout.splitlines()[0]
    assert re.search(r"^train +made .* sae/", done.stderr, re.MULTILINE)
    assert "gate failed: explained variance" in done.stderr
    assert "Traceback" not in done.stderr

    closing = json.loads(summary.read_text())
    assert closing["failed"].startswith("gate failed") or "gate failed" in closing["failed"]
    assert set(closing["artifacts"]) == {
        *("ingest", "capture", "train", "evaluate", "find_part", "find", "explain", "score", "report"),
    }
    assert len(closing["artifacts"]["find_part"]) == 2
    trained = closing["artifacts"]["train"]
    assert open_artifact(open_store(store), trained["uri"]).digest == trained["digest"]
    evaluated = open_artifact(open_store(store), closing["artifacts"]["evaluate"]["uri"]).manifest.summary
    assert closing["explained_variance"] == evaluated["explained_variance"] > 0

    result = mistudio("result", run_id, server=server)
    assert result.returncode == 3
    assert "explained variance" in result.stdout
    shown = json.loads(mistudio("status", run_id, "--json", server=server).stdout)
    assert (shown["state"], shown["exit_code"]) == ("failed", 3)
    assert [made["step"] for made in shown["artifacts"]][:3] == ["ingest", "capture", "train"]
    table = mistudio("status", run_id, server=server).stdout
    assert "finished, after" in table
    logs = mistudio("logs", run_id, "train", server=server).stdout
    assert "KFP Executor" in logs
