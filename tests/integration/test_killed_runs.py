"""A run that was killed with SIGKILL ends, when it is run again, with the bytes of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.proof


def _start(store: Path, scratch: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.batch_line", str(store), str(scratch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MISTUDIO_TRACKING": "off"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def _finish(store: Path, scratch: Path) -> dict[str, str]:
    process = _start(store, scratch)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(output)


def _kill_when(store: Path, scratch: Path, pattern: str, count: int) -> None:
    """Start the line, and kill it as soon as ``count`` files in the store match ``pattern``."""
    process = _start(store, scratch)
    try:
        while process.poll() is None:
            if len(list(store.glob(pattern))) >= count:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        assert process.wait(timeout=60) == -signal.SIGKILL, "the run ended before it could be killed"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return _finish(folder / "store", folder / "scratch")


KILLS = (
    ("activations", "activations/*/resid_post.1/train/*.arrow", 5),
    ("sae", "sae/*/work/checkpoint-*", 2),
    ("features", "features/*/work/shards-*", 1),
)


def test_a_run_that_is_killed_in_one_step_after_another_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    store, scratch = tmp_path / "store", tmp_path / "scratch"
    left: dict[Path, int] = {}
    for kind, pattern, count in KILLS:
        _kill_when(store, scratch, pattern, count)
        assert not list(store.glob(f"{kind}/*/manifest.json"))
        left |= {path: path.stat().st_mtime_ns for path in store.glob(f"{kind}/*/**/*.arrow")}
    assert left

    assert _finish(store, scratch) == undisturbed

    assert all(path.stat().st_mtime_ns == changed for path, changed in left.items()), "a finished shard was made again"
    assert not list(store.glob("*/*/work/*"))
