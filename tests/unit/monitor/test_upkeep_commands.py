"""The commands that make profiles and references, and hold a watch list to a new version of the model."""

import json
import shutil
from base64 import b64encode
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mistudio.artifacts import open_artifact, open_store
from mistudio.cli import app
from mistudio.errors import ConfigError, GateFailed
from mistudio.monitor.drift.profile_artifact import open_profile
from mistudio.monitor.watch.watch_list import read_watch_list
from mistudio.monitor.watch.watching import Watcher
from tests.support.served import TinyStore, tiny_store
from tests.support.tiny import tiny_documents, tiny_llama

WATCH_LIST = {"version": 1, "watched": [{"name": f"f{number}", "feature": number} for number in range(6)]}


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> TinyStore:
    """A copy of the store, since commands write to it."""
    found = tiny_store(tmp_path_factory)
    shutil.copytree(Path(str(found.store.url).removeprefix("file:")), tmp_path / "store")
    (tmp_path / "watch.json").write_text(json.dumps(WATCH_LIST))
    return found._replace(store=open_store(str(tmp_path / "store")))


def _run(own: TinyStore, *words: str) -> Result:
    return CliRunner().invoke(app, ["monitor", *words, "--store", str(own.store.url)])


def _last(result: Result) -> str:
    return result.stdout.splitlines()[-1]


def test_a_profile_of_the_corpus_is_made_once_and_says_what_it_counted(own: TinyStore) -> None:
    first, second = _run(own, "profile", "--unit", "sequence"), _run(own, "profile", "--unit", "sequence")
    assert (first.exit_code, _last(first)) == (0, _last(second))
    assert "features 64" in _last(first)
    profile = open_profile(open_artifact(own.store, _last(first).partition(":")[0]))
    assert sum(each.num_texts for each in profile.fired.values()) > 20
    assert isinstance(_run(own, "profile", "--watch-list", "x.json").exception, ConfigError)


def test_a_profile_of_recorded_traffic_has_the_columns_of_its_watch_list(own: TinyStore, tmp_path: Path) -> None:
    rows = []
    for number, document in enumerate(tiny_documents(420, seed=3)):
        body = json.dumps({"model": "m", "prompt": document["text"]}).encode()
        rows.append({"Bytes": b64encode(body).decode(), "Id": str(number), "ContentType": "application/json",
                     "ReqType": "org.kubeflow.serving.inference.request", "InferenceService": "m"})  # fmt: skip
    (tmp_path / "traffic").mkdir()
    (tmp_path / "traffic" / "rows.json").write_text(json.dumps(rows))
    made = _run(
        own,
        "profile",
        "--traffic",
        str(tmp_path / "traffic"),
        "--model",
        own.source.path,
        "--watch-list",
        str(tmp_path / "watch.json"),
    )
    assert made.exit_code == 0, made.exception
    profile = open_profile(open_artifact(own.store, _last(made).partition(":")[0]))
    assert profile.columns is not None
    assert profile.columns.names == tuple(f"f{number}" for number in range(6))
    with own.open() as served:
        columns = Watcher(served, read_watch_list(tmp_path / "watch.json")).columns
    assert profile.columns.identities == tuple(one.identity for one in columns)
    (fired,) = profile.fired.values()
    assert 400 <= fired.num_texts <= 420


def test_the_same_model_passes_and_another_fails_with_the_names_of_what_it_does_not_see(
    own: TinyStore, tmp_path: Path
) -> None:
    made = _run(own, "reference", str(tmp_path / "watch.json"), "--model", own.source.path, "--split", "train")
    assert made.exit_code == 0, made.exception
    uri = _last(made).partition(":")[0]
    passed = _run(own, "revalidate", uri, "--model", own.source.path)
    assert passed.exit_code == 0, passed.exception
    assert "kept       f0  as it is: correlation 1.000, agreement 1.000;" in passed.output
    failed = _run(own, "revalidate", uri, "--model", tiny_llama(tmp_path / "other", seed=9).path)
    assert isinstance(failed.exception, GateFailed)
    assert "columns do not see in the new version what they saw" in str(failed.exception)
    assert "refused" in failed.output
