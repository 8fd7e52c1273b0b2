"""Files of explanations and labels that would take all memory or end in a traceback are refused in short, or mended."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mistudio.artifacts import Artifact
from mistudio.errors import InputError
from mistudio.exchange import entries, import_explanations
from mistudio.exchange import explanations as explanations_module
from mistudio.explain import labels as labels_module
from mistudio.explain import read_explanations
from mistudio.explain.labels import read_labels
from tests.support.tiny_run import TinyRun

DEEP = "[" * 100_000
LONG_NUMBER = "1" * 5000


def row(index: object, text: object = "words", **more: object) -> dict[str, Any]:
    return {"modelId": "m", "layer": "0-res", "index": index, "description": text, **more}


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in rows).encode()


@pytest.mark.parametrize("content", [lines(row(1, "x" * 5000)), lines(*[row(1)] * 50), b"\n" * 5000, b"x" * 5000])
@pytest.mark.parametrize("is_packed", [True, False])
def test_what_unpacks_to_more_than_is_read_is_refused(
    content: bytes, is_packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(entries, "MAX_UNPACKED_BYTES", 3000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(content) if is_packed else content)
    with pytest.raises(InputError, match=r"has more than [13],000 bytes"):
        list(entries.read_entries(path))


def test_a_list_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_bytes(gzip.compress(json.dumps([row(1)] * 50).encode()))
    assert len(list(entries.read_entries(tmp_path / "a.json"))) == 50
    for most in (10, 2000):
        monkeypatch.setattr(entries, "MAX_FILE_BYTES", most)
        with pytest.raises(InputError, match=rf"a list has more than {most:,} bytes"):
            list(entries.read_entries(tmp_path / "a.json"))


def test_a_packed_bomb_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_RECORD_BYTES", 100_000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(bytes(20_000_000), 1))
    tracemalloc.start()
    with pytest.raises(InputError, match="has more than 100,000 bytes"):
        list(entries.read_entries(tmp_path / "a.jsonl.gz"))
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (DEEP, "nest deeper"),
        ('{"index": ' + DEEP, "nest deeper"),
        ('{"index": ' + LONG_NUMBER + "}", "digits"),
        ('{"index": 1, "index": 2, "description": "x"}', "'index' twice"),
        ('{"index": Infinity, "description": "x"}', "is no explanation"),
        ('{"index": NaN, "description": "x"}', "is no explanation"),
        ('{"index": 1.9, "description": "x"}', "is no explanation"),
        ('{"index": true, "description": "x"}', "is no explanation"),
        ('{"index": "1_0", "description": "x"}', "is no explanation"),
        ('{"index": 1, "description": 3}', "is no explanation"),
        (json.dumps(row(1, "x" * 70_000)), "description of line 1 of .* 70,000 characters"),
        (json.dumps(row(1, typeName="x" * 5000)), "typeName of line 1 of .* 5,000 characters"),
        (json.dumps(row(1, explanationModelName="x" * 5000)), "explanationModelName of .* characters"),
        (json.dumps(row(1, layer="x" * 5000)), "layer of .* characters"),
        ("\n".join(json.dumps(row(1, layer=str(number))) for number in range(100)), "several sources: m/0, m/1"),
    ],
)
def test_hostile_entries_are_refused_in_short(
    llama: TinyRun, features: Artifact, content: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match=reason) as refused:
        import_explanations(llama.store, tmp_path / "a.jsonl", features)
    assert len(str(refused.value)) < 500


def test_no_more_methods_are_taken_than_a_summary_can_list(
    llama: TinyRun, features: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanations_module, "MAX_METHODS", 3)
    (tmp_path / "a.jsonl").write_bytes(lines(*[row(1)] * 4))
    with pytest.raises(InputError, match="more than 3 methods"):
        import_explanations(llama.store, tmp_path / "a.jsonl", features)


def test_lone_surrogates_of_an_import_are_replaced(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.jsonl"
    path.write_bytes(lines(row(1, "half \ud800", typeName="a\ud800", explanationModelName="b\udfff", layer="\ud800")))
    artifact = import_explanations(llama.store, path, features).artifact
    (found,) = read_explanations(artifact)
    assert (found.text, found.explainer, found.model) == ("half \ufffd", "a\ufffd", "b\ufffd")
    assert artifact.manifest.inputs["file"].uri == "file:caf\ufffd.jsonl"
    assert artifact.manifest.summary["source"] == "m/\ufffd"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", DEEP, "nest deeper"),
        ("a.jsonl", '{"feature": ' + LONG_NUMBER + ', "label": "x"}', "digits"),
        ("a.jsonl", '{"feature": 1e999, "label": "x"}', "too large"),
        ("a.jsonl", '{"feature": Infinity, "label": "x"}', "Infinity is no number"),
        ("a.jsonl", '{"feature": NaN, "label": "x"}', "NaN is no number"),
        ("a.jsonl", '{"feature": 1.9, "label": "x"}', "needs a feature"),
        ("a.jsonl", '{"feature": true, "label": "x"}', "needs a feature"),
        ("a.jsonl", '{"feature": -1, "label": "x"}', "needs a feature"),
        ("a.jsonl", '{"feature": 1, "label": null}', "needs a feature"),
        ("a.jsonl", '{"feature": 1, "label": "' + "x" * 5000 + '"}', "label of 5,000 characters"),
        ("a.jsonl", '{"feature": "x", "label": "' + "x" * 5000 + '"}', "needs a feature"),
        ("a.csv", "feature,label\n" + LONG_NUMBER + ",x\n", "needs a feature"),
        ("a.csv", "feature,label\ninf,x\n", "needs a feature"),
        ("a.csv", "feature,label\n1\n", "needs a feature"),
        ("a.csv", "feature,label,label\n1,x,y\n", "twice"),
        ("a.csv", "feature,label\n1,x\x00\n" + "y" * 200_000, "needs a feature|field larger"),
    ],
)
def test_hostile_labels_are_refused_in_short(name: str, content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=reason) as refused:
        read_labels(tmp_path / name, 64)
    assert len(str(refused.value)) < 500


def test_a_file_of_labels_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "MAX_FILE_BYTES", 100)
    (tmp_path / "a.csv").write_text("feature,label\n" + "1,x\n" * 100)
    with pytest.raises(InputError, match="more than 100 bytes"):
        read_labels(tmp_path / "a.csv", 64)


def test_lone_surrogates_of_labels_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"feature": 7.0, "label": "half \\ud800"}')
    (label,) = read_labels(tmp_path / "a.jsonl", 64)
    assert (label.feature, label.label, label.text) == (7, "half \ufffd", "half \ufffd")
