"""Components of the project, run by KFP in the image as pods would run them, on a store that lies outside."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.types import Mount
from kfp import dsl, local

from components.capture.component import capture
from components.ingest.component import ingest
from components.train.component import train
from mistudio.artifacts import Artifact, artifact_uris, open_artifact, open_store
from tests.support.engines import Engine, let_anyone_in
from tests.support.tiny import published_subject, tiny_documents, tiny_llama

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
STORE = "/store"


@dsl.pipeline(name="first-steps")
def first_steps(subject: str):
    corpus = ingest(corpus=f"{STORE}/tiny.jsonl", model=subject, context_length=32, store=STORE)
    captured = capture(corpus=corpus.outputs["tokenised_corpus"], layer=1, store=STORE)
    train(activations=captured.outputs["activations"], width=64, k=4, tokens=2000, store=STORE)


@pytest.fixture
def store_folder(open_folder: Path) -> Path:
    """A store with a model and a file of text, for any user to read and write."""
    (open_folder / "tiny.jsonl").write_text("".join(json.dumps(each) + "\n" for each in tiny_documents()))
    published_subject(open_store(str(open_folder)), tiny_llama(open_folder.parent / "model"))
    let_anyone_in(open_folder)
    return open_folder


@pytest.fixture
def runs_folder(tmp_path: Path) -> Iterator[Path]:
    """Where KFP puts what steps hand on; it makes folders there that the step writes into as another user."""
    before = os.umask(0)
    folder = tmp_path / "runs"
    folder.mkdir()
    yield folder
    os.umask(before)


def test_steps_run_by_kfp_in_the_image_publish_artifacts_that_name_it(
    engine: Engine, built: dict[str, str], store_folder: Path, runs_folder: Path
) -> None:
    if Path(engine.command).name != "docker":
        pytest.skip("KFP's local runner speaks to Docker alone")
    as_in_a_pod = local.DockerRunner(
        network_mode="none",
        read_only=True,
        user="65532:65532",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs=dict.fromkeys(("/tmp", "/scratch"), "mode=1777"),
        environment={"MISTUDIO_SCRATCH": f"{STORE}/scratch"},  # MLflow's database is then made once, not in each step
        mounts=[Mount(STORE, str(store_folder), type="bind")],
    )
    local.init(runner=as_in_a_pod, pipeline_root=str(runs_folder), raise_on_error=True)
    [subject] = published(store_folder, "subject")
    first_steps(subject=subject.uri)
    for kind in ("corpus", "activations", "sae"):
        [made] = published(store_folder, kind)
        made_by = made.manifest.producer
        assert made_by.image == built["batch"]
        assert re.fullmatch("[0-9a-f]{40}", made_by.git_commit or "")


def published(folder: Path, kind: str) -> list[Artifact]:
    store = open_store(str(folder), "r")
    return [open_artifact(store, uri) for uri in artifact_uris(store) if uri.startswith(f"{kind}/")]
