"""The main job on a store in a bucket: killed and run again it ends with the digests of a folder; two workers make one.

The reading of activations by training goes through the cache, which stays within its size.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mistudio.activations import CaptureConfig, capture
from mistudio.artifacts import open_store
from mistudio.subject import SubjectConfig
from tests.support.tiny import tiny_corpus, tiny_documents, tiny_llama

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]


def start(folder: Path, store: str, summary: str) -> "subprocess.Popen[str]":
    """``mistudio run interpret`` with tiny settings, in a process group of its own."""
    values = {
        "model": str(folder / "model"),
        "corpus": str(folder / "text.jsonl"),
        "train_tokens": "20000",
        "width": "128",
        "k": "4",
        "contexts": "5",
    }
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-c", "from mistudio.cli import main; main()", "run", "interpret", "--store", store]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MISTUDIO_CHECKOUT": str(ROOT), "MISTUDIO_TRACKING": "off"}
    return subprocess.Popen(
        [*command, "--summary", str(folder / summary), *sets],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def digests(folder: Path, summary: str) -> dict[str, object]:
    """The digests of all artifacts, by step."""
    made = json.loads((folder / summary).read_text())["artifacts"]
    return {
        step: sorted(each["digest"] for each in (of if isinstance(of, list) else [of])) for step, of in made.items()
    }


def finish(process: "subprocess.Popen[str]") -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def kill_all(process: "subprocess.Popen[str]") -> None:
    """Kill a run with all its processes, those that have sessions of their own too."""
    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in everyone:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.communicate()


def test_interpret_that_is_killed_in_a_bucket_ends_with_the_digests_of_a_folder(tmp_path: Path, s3_url: str) -> None:
    tiny_llama(tmp_path / "model")
    lines = [json.dumps(document) + "\n" for document in tiny_documents(80)]
    (tmp_path / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    finish(start(tmp_path, str(tmp_path / "store"), "folder.json"))
    store = open_store(s3_url)
    for kind in ("activations", "features-part"):  # killed when there is something of each
        run = start(tmp_path, s3_url, "killed.json")
        while run.poll() is None and not list(store.folders(kind)):
            pass
        assert run.poll() is None, "the run ended before it could be killed"
        kill_all(run)
    assert not list(store.folders("report"))
    finish(start(tmp_path, s3_url, "bucket.json"))
    assert digests(tmp_path, "bucket.json") == digests(tmp_path, "folder.json")
    files = [
        [name for name in each.list() if not name.startswith("actions/")]  # a record of what was done, and how often
        for each in (store, open_store(str(tmp_path / "store")))
    ]
    assert files[0] == files[1]


WORKER = """
import json, sys
from pathlib import Path
from mistudio.activations import CaptureConfig, capture
from mistudio.artifacts import open_artifact, open_store
from mistudio.subject import SubjectConfig, resolve_source
from mistudio.sae import TopKConfig
from mistudio.train import TrainConfig, train
store, model, corpus = open_store(sys.argv[1]), resolve_source(sys.argv[2]), sys.argv[3]
settings = CaptureConfig(hooks=("resid_post.1",), shard_bytes=1 << 16)
print("ready", flush=True)
sys.stdin.readline()
made = capture(store, open_artifact(store, corpus), model, SubjectConfig(device="cpu"), settings)
config = TrainConfig(hook="resid_post.1", sae=TopKConfig(width=64, k=4), tokens=20_000, batch_size=256)
sae = train(store, made.artifact, config)
print(json.dumps([made.found, made.artifact.digest, sae.found, sae.artifact.digest]), flush=True)
"""


@pytest.mark.parametrize("machines", [1, 2])
def test_of_two_workers_on_one_recipe_one_makes_and_one_finds(
    tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch, machines: int
) -> None:
    corpus = tiny_corpus(open_store(s3_url), tiny_llama(tmp_path / "model"), tmp_path / "text", num_documents=200)
    workers = []
    for number in range(2):
        folder = tmp_path / f"machine{number % machines}"
        monkeypatch.setenv("MISTUDIO_SCRATCH", str(folder / "scratch"))
        monkeypatch.setenv("MISTUDIO_CACHE", str(folder / "cache"))
        command = [sys.executable, "-c", WORKER, s3_url, str(tmp_path / "model"), corpus.uri]
        workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    first, second = (json.loads(worker.communicate()[0]) for worker in workers)
    assert sorted([first[0], second[0]]) == sorted([first[2], second[2]]) == [False, True]
    assert (first[1], first[3]) == (second[1], second[3])


READER = """
import os, re, sys
from pathlib import Path
from mistudio.activations import ActivationReader
from mistudio.activations.shuffle import ShuffledBatches
from mistudio.artifacts import open_artifact, open_store

def mapped():
    ranges = re.findall(r"^(\\w+)-(\\w+) .*[.]arrow", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)

store = open_store(sys.argv[1])
batches = ShuffledBatches(ActivationReader(open_artifact(store, sys.argv[2]), "resid_post.1", "train"), 256, 4096, 0)
total, most_mapped, most_cached = 0.0, 0, 0
for _ in range(int(sys.argv[3])):
    total += float(batches.next_batch().double().sum())
    cached = sum(path.stat().st_size for path in Path(os.environ["MISTUDIO_CACHE"]).rglob("*.arrow"))
    most_mapped, most_cached = max(most_mapped, mapped()), max(most_cached, cached)
print(total, most_mapped, most_cached)
"""


def test_training_rows_are_read_through_a_cache_that_is_smaller_than_they_are(
    tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_llama(tmp_path / "model")
    settings = CaptureConfig(hooks=("resid_post.1",), shard_bytes=1 << 16)
    read = {}
    for url in (str(tmp_path / "store"), s3_url):
        store = open_store(url)
        corpus = tiny_corpus(store, source, tmp_path / "text", num_documents=300)
        made = capture(store, corpus, source, SubjectConfig(device="cpu"), settings).artifact
        all_bytes = sum(entry.bytes for entry in made.manifest.files if entry.path.startswith("resid_post.1/train/"))
        monkeypatch.setenv("MISTUDIO_CACHE", str(tmp_path / "small"))
        monkeypatch.setenv("MISTUDIO_CACHE_GB", str(all_bytes / 3 / 1e9))
        command = [sys.executable, "-c", READER, url, made.uri, "100"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        read[url] = [float(number) for number in done.stdout.split()]
    folder, bucket = read.values()
    assert bucket[0] == folder[0] != 0
    shard_bytes = 2 << 16  # with its columns
    assert bucket[1] <= all_bytes / 3 / 4 + shard_bytes < folder[1]
    assert 0 < bucket[2] <= all_bytes / 3 + shard_bytes
