"""Calibration on a tiny model: thresholds that hold on other texts, recalls of a planted trigger, and refusals."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mistudio.artifacts import Artifact, Store, open_artifact, open_store
from mistudio.cli import app
from mistudio.directions.config import DirectionConfig
from mistudio.directions.example_files import File, Files
from mistudio.directions.step import direction
from mistudio.errors import ConfigError, InputError
from mistudio.monitor.calibrate.calibration import CALIBRATION, read_rows, with_calibration
from mistudio.monitor.calibrate.config import CalibrateConfig
from mistudio.monitor.calibrate.step import calibrate
from mistudio.monitor.calibrate.texts import Reference
from mistudio.monitor.records import Exchange, Origin, Sample
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.monitor.watch.watching import Watcher
from tests.support.served import TinyStore, tiny_store
from tests.support.tiny import tiny_documents
from tests.support.tiny_run import CPU

RATE = 0.05
TRIGGER = "@@@@@@"


class Line:
    """A store with a direction that tells texts with the trigger from others, and files of both."""

    def __init__(self, tiny: TinyStore, folder: Path) -> None:
        self.tiny, self.folder = tiny, folder
        self.store: Store = open_store(str(folder / "store"))
        usual = [each["text"][:120] for each in tiny_documents(460, seed=5)]
        with_it = [text + TRIGGER for text in usual[400:460]]
        self.usual, self.with_it = self.write("usual", usual[:400]), self.write("with_it", with_it)
        made = Files.read("", self.write("p", [TRIGGER * (n + 1) for n in range(20)]), self.write("n", usual[:20]))
        config = DirectionConfig(hook="resid_pre.0", controls=2, resamples=20)
        self.direction = direction(self.store, made, tiny.source, CPU, config).artifact

    def write(self, name: str, texts: Sequence[str]) -> str:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return str(path)

    def watch_list(self, **more: object) -> WatchList:
        watched = [{"name": "trigger", "direction": self.direction.uri, **more}]
        return WatchList.model_validate({"watched": watched})

    def calibrated(self, watch_list: WatchList, texts: str = "", **settings: object) -> Artifact:
        config = CalibrateConfig.model_validate({"false_positive_rate": RATE, **settings})
        reference = Reference(File.read(texts or self.usual), "heldout")
        source = self.tiny.source
        positive = File.read(self.with_it)
        return calibrate(self.store, watch_list, (), reference, source, CPU, config, positive=positive).artifact


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(tiny_store(tmp_path_factory), tmp_path_factory.mktemp("calibrate"))


@pytest.fixture(scope="module")
def by_text(line: Line) -> Artifact:
    return line.calibrated(line.watch_list(), false_positive_rate=RATE)


def test_a_planted_trigger_is_found_at_the_rate_and_random_directions_miss_it(by_text: Artifact) -> None:
    rows = {row["kind"]: row for row in read_rows(by_text)}
    assert set(rows) == {"watched", "difference_of_means", "linear_probe", "random_direction"}
    watched, random = rows["watched"], rows["random_direction"]
    assert watched["recall"] > 0.9
    assert watched["recall_low"] < watched["recall"] <= watched["recall_high"]
    assert random["recall"] < watched["recall"] - 0.3
    assert watched["fitted_on"] == watched["checked_on"] == 200
    assert watched["found_rate"] < 3 * RATE
    assert watched["found_rate"] < watched["rate_bound"] < 0.2
    assert watched["positives"] == 30
    assert by_text.manifest.summary["recall"] == pytest.approx(watched["recall"])
    assert "| trigger | watched |" in by_text.file("calibration.md").read_text()


def test_the_same_is_found_instead_of_done_again(line: Line, by_text: Artifact) -> None:
    assert line.calibrated(line.watch_list(threshold=7.0)).digest == by_text.digest
    assert line.calibrated(line.watch_list(false_positive_rate=0.2)).digest != by_text.digest


def test_a_list_takes_its_thresholds_from_the_calibration(line: Line, by_text: Artifact) -> None:
    (row,) = (row for row in read_rows(by_text) if row["kind"] == "watched")
    with line.tiny.open() as served:
        served.store = line.store
        for asked in ({"calibration": by_text.uri}, {"false_positive_rate": RATE}):
            watch_list = line.watch_list(**asked)
            watcher = Watcher(served, watch_list)
            found = with_calibration(watch_list, watcher.columns, line.store)
            assert found.watched[0].threshold == row["threshold"]
        seen = watcher.observe([Exchange("x", 0.0, Origin(), (Sample("the cat" + TRIGGER), Sample("the cat")))])
        assert [one.max_W[0] > row["threshold"] for one in seen] == [True, False]
        other = line.watch_list(pool="top", calibration=by_text.uri)
        with pytest.raises(InputError, match="has no threshold for it: it was made for other columns"):
            with_calibration(other, Watcher(served, other).columns, line.store)
        asked = line.watch_list(calibration=by_text.uri, false_positive_rate=0.123)
        with pytest.raises(InputError, match=r"rate of 0.05, not 0.123"):
            with_calibration(asked, Watcher(served, asked).columns, line.store)
        asked = line.watch_list(false_positive_rate=0.123)
        with pytest.raises(ConfigError, match="no calibration in .* has its threshold. Run mistudio calibrate"):
            with_calibration(asked, Watcher(served, asked).columns, line.store)


def test_a_rate_per_token_is_one_of_tokens(line: Line) -> None:
    artifact = line.calibrated(line.watch_list(), per="token", false_positive_rate=0.01)
    (row,) = (row for row in read_rows(artifact) if row["kind"] == "watched")
    assert row["per"] == "token"
    assert row["fitted_on"] > 2000
    assert 0.003 < row["found_rate"] < 0.03
    assert row["found_rate"] < row["rate_bound"]
    with pytest.raises(ConfigError, match="per token: trigger is pooled by top"):
        line.calibrated(line.watch_list(pool="top"), per="token")


def test_too_few_texts_for_a_rate_are_refused_with_how_many_it_takes(line: Line) -> None:
    with pytest.raises(InputError, match=r"rate of 0.001 takes at least 999 texts .* are 200: give 1,999 reference"):
        line.calibrated(line.watch_list(), false_positive_rate=0.001)
    with pytest.raises(InputError, match=r"value of trigger \(its part is reply\) .* there are 0: give .* or more\.$"):
        line.calibrated(line.watch_list(part="reply"))


def test_columns_of_features_on_a_corpus(line: Line) -> None:
    tiny = line.tiny
    store = open_store(tiny.store.url)
    corpus = next(open_artifact(store, f"corpus/{path.name}") for path in Path(store.root).joinpath("corpus").iterdir())
    watched = [{"name": f"f{n}", "feature": n} for n in range(3)]
    watch_list = WatchList.model_validate({"watched": watched})
    config = CalibrateConfig(false_positive_rate=0.3, split="train")
    uri = calibrate(store, watch_list, [tiny.sae], Reference(corpus, "train"), tiny.source, CPU, config).artifact.uri
    table = pq.read_table(open_artifact(store, uri).file(CALIBRATION.name))
    assert table.schema.names == list(CALIBRATION.names)
    assert table["feature"].to_pylist() == [f"{tiny.sae.uri}#{n}" for n in range(3)]
    assert table["recall"].to_pylist() == [None] * 3
    assert np.isfinite(table["threshold"].to_numpy()).all()


def test_the_command_calibrates_a_file(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    path = line.folder / "watch.yaml"
    path.write_text(f"watched:\n- {{name: trigger, direction: {line.direction.uri}}}\n")
    given = ["--watch-list", str(path), "--texts", line.usual, "--model", line.tiny.source.path, "--device", "cpu"]
    done = CliRunner().invoke(
        app, ["calibrate", *given, "--false-positive-rate", "0.1", "--store", line.store.url, "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["columns"] == 1
    both = CliRunner().invoke(
        app, ["calibrate", "--watch-list", str(path), "--model", line.tiny.source.path, "--store", line.store.url]
    )
    assert "Give corpus (corpus/...) or texts" in str(both.exception or both.output)
