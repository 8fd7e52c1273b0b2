"""Import of explanations: what is taken from a file, which files are refused, and that they can be scored."""

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mistudio.artifacts import Artifact
from mistudio.cli import app
from mistudio.errors import ConfigError, InputError, NotFound
from mistudio.exchange import export_features, import_explanations
from mistudio.explain import read_explanations
from mistudio.explain import registry as registry_module
from mistudio.score import ScoreConfig, read_scores, score
from mistudio.score.records import Case, Score
from tests.support.found import NUM_FEATURES
from tests.support.tiny_run import CPU, TinyRun

METHOD = "oai_token-act-pair"


def row(index: int | str, text: str, **more: Any) -> dict[str, Any]:
    """An explanation as Neuronpedia exports it."""
    return {
        "id": f"c{index}",
        "modelId": "gpt2-small",
        "layer": "0-res-jb",
        "index": index,
        "authorId": "someone",
        "description": text,
        "embedding": None,
        "typeName": METHOD,
        "explanationModelName": "gpt-4o-mini",
        "umap_x": 0.5,
        **more,
    }


ROWS = [row("7", " words about dogs"), row(3, "numbers"), row("12", "code " * 40), row("7", "pets", typeName=None)]


def packed(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(each) + "\n" for each in rows).encode()))
    return path


class Length:
    """A scorer of another package, which needs no language model."""

    name = "length"
    needs_judge = False

    def __init__(self, judge: object, seed: int) -> None:
        pass

    def score(self, cases: Iterable[Case]) -> Iterator[Score]:
        for case in cases:
            explanation = case.explanation
            yield Score(
                explanation.feature,
                explanation.explainer,
                self.name,
                "f1",
                len(explanation.text),
                0,
                0,
                len(case.examples),
            )


class LengthEntry:
    """Its entry point."""

    name, value = "length", "somewhere:Length"

    def load(self) -> type[Length]:
        return Length


def test_method_model_and_text_are_taken_from_the_file(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    path = packed(tmp_path / "batch-0.jsonl.gz", ROWS)
    artifact = import_explanations(llama.store, path, features).artifact
    found = list(read_explanations(artifact))
    assert [(each.explainer, each.feature, each.model) for each in found] == [
        (METHOD, 3, "gpt-4o-mini"),
        ("neuronpedia", 7, "gpt-4o-mini"),
        (METHOD, 7, "gpt-4o-mini"),
        (METHOD, 12, "gpt-4o-mini"),
    ]
    assert [each.text for each in found][:3] == ["numbers", "pets", "words about dogs"]
    labels = pq.read_table(artifact.file("labels.parquet")).to_pylist()
    assert [(each["feature"], each["label"]) for each in labels[:2]] == [(3, "numbers"), (7, "pets")]
    assert len(labels[2]["label"]) <= 72
    summary = artifact.manifest.summary
    assert (summary["features"], summary["explained"], summary["failed"]) == (NUM_FEATURES, 3, 0)
    assert summary["source"] == "gpt2-small/0-res-jb"
    assert artifact.manifest.inputs["features"].digest == features.digest


def test_packed_plain_and_listed_files_and_folders_say_the_same(
    llama: TinyRun, features: Artifact, tmp_path: Path
) -> None:
    rows = [*ROWS, row("7", "more of the same feature")]
    (tmp_path / "plain.jsonl").write_text("\n".join(json.dumps(each) for each in rows))
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "explanations").mkdir()
    packed(tmp_path / "explanations/batch-2.jsonl.gz", rows[:3])
    packed(tmp_path / "explanations/batch-10.jsonl.gz", rows[3:])
    paths = [
        packed(tmp_path / "one.jsonl.gz", rows),
        *(tmp_path / n for n in ("plain.jsonl", "list.json", "explanations")),
    ]
    tables = [
        import_explanations(llama.store, path, features).artifact.file("explanations.parquet").read_bytes()
        for path in paths
    ]
    assert len(set(tables)) == 1


def test_an_import_is_found_again(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    path = packed(tmp_path / "again.jsonl.gz", ROWS[:1])
    first = import_explanations(llama.store, path, features)
    second = import_explanations(llama.store, path, features)
    assert not first.found
    assert second.found
    assert first.artifact.uri == second.artifact.uri


def test_two_explanations_by_one_method_are_kept_apart(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    path = packed(tmp_path / "two.jsonl.gz", [row(5, "first"), row(5, "second", explanationModelName="o4-mini")])
    found = list(read_explanations(import_explanations(llama.store, path, features).artifact))
    assert [(each.explainer, each.text, each.model) for each in found] == [
        (METHOD, "first", "gpt-4o-mini"),
        (f"{METHOD}-2", "second", "o4-mini"),
    ]


def test_names_that_mean_something_else_here_are_not_taken(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    path = packed(tmp_path / "names.jsonl.gz", [row(1, "x", typeName="program"), row(1, "y", typeName="person")])
    found = read_explanations(import_explanations(llama.store, path, features).artifact)
    assert {each.explainer for each in found} == {"neuronpedia-program", "neuronpedia-person"}


def test_an_empty_description_is_a_failure_and_is_counted(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    path = packed(tmp_path / "empty.jsonl.gz", [row(1, "  "), row(2, "words")])
    artifact = import_explanations(llama.store, path, features).artifact
    assert [each.status for each in read_explanations(artifact)] == ["failed", "explained"]
    assert (artifact.manifest.summary["explained"], artifact.manifest.summary["failed"]) == (1, 1)


def test_features_that_there_are_not_are_refused_or_counted(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    path = packed(tmp_path / "wide.jsonl.gz", [row(1, "a"), row(64, "b"), row(24575, "c")])
    with pytest.raises(InputError, match=r"has 2 explanations of features that there are not, first 64 in line 2 of"):
        import_explanations(llama.store, path, features)
    artifact = import_explanations(llama.store, path, features, skip_unknown=True).artifact
    assert [each.feature for each in read_explanations(artifact)] == [1]
    assert artifact.manifest.summary["unknown"] == 2
    none = packed(tmp_path / "none.jsonl.gz", [row(64, "b")])
    with pytest.raises(InputError, match="no explanation of any of the 64 features"):
        import_explanations(llama.store, none, features, skip_unknown=True)


def test_explanations_of_several_autoencoders_are_refused(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    path = packed(tmp_path / "mixed.jsonl.gz", [row(1, "a"), row(1, "b", layer="1-res-jb")])
    with pytest.raises(InputError, match="several sources: gpt2-small/0-res-jb, gpt2-small/1-res-jb"):
        import_explanations(llama.store, path, features)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz is no gzip file and no JSON at line 1"),
        ("b.jsonl.gz", gzip.compress(b"{broken", mtime=0), r"b\.jsonl\.gz is no JSON at line 1"),
        ("c.jsonl.gz", gzip.compress(json.dumps(ROWS[0]).encode())[:-12], r"c\.jsonl\.gz is damaged after line 0"),
        ("d.json", b"\xff\xfe\x00", r"d\.json is no JSON at line 1"),
        ("e.jsonl", b'{"modelId": "x", "index": "1", "maxActApprox": 2}', r"line 1 of .*e\.jsonl is no explanation"),
        ("f.jsonl", b'{"index": "-1", "description": "x"}', r"line 1 of .*f\.jsonl is no explanation"),
        ("g.jsonl", b'{"index": 1.5, "description": "x"}', r"line 1 of .*g\.jsonl is no explanation"),
        ("h.json", b"[3]", r"entry 1 of .*h\.json is no explanation"),
        ("i.jsonl", b"", "holds no explanation of any"),
    ],
)
def test_other_files_are_refused(
    llama: TinyRun, features: Artifact, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        import_explanations(llama.store, tmp_path / name, features)


def test_no_file_and_another_format_are_refused(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no export of explanations at"):
        import_explanations(llama.store, tmp_path / "nothing", features)
    with pytest.raises(NotFound, match="There is no export of explanations at"):
        import_explanations(llama.store, tmp_path, features)
    with pytest.raises(ConfigError, match="imported from neuronpedia, not 'delphi'"):
        import_explanations(llama.store, tmp_path, features, "delphi")


def test_what_came_from_neuronpedia_goes_back_as_it_was(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    artifact = import_explanations(llama.store, packed(tmp_path / "x.jsonl.gz", ROWS[:3]), features).artifact
    exported = export_features(llama.store, features, tmp_path / "out", "neuronpedia", artifact)
    back = gzip.decompress((exported.folder / "explanations/batch-0.jsonl.gz").read_bytes()).decode().splitlines()
    names = ("index", "description", "typeName", "explanationModelName")
    given = {tuple(str(each[name]).strip() for name in names) for each in ROWS[:3]}
    assert {tuple(json.loads(line)[name] for name in names) for line in back} == given
    again = import_explanations(llama.store, exported.folder / "explanations", features).artifact
    assert list(read_explanations(again)) == list(read_explanations(artifact))


def test_imported_explanations_can_be_scored(
    llama: TinyRun, features: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [LengthEntry()])
    artifact = import_explanations(llama.store, packed(tmp_path / "score.jsonl.gz", ROWS[:2]), features).artifact
    scored = score(llama.store, artifact, llama.source, CPU, ScoreConfig(scorers=("length",), resamples=20)).artifact
    assert {(each.feature, each.value) for each in read_scores(scored)} == {(7, 16.0), (3, 7.0)}


def test_the_command_imports_and_says_what_it_found(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    path = packed(tmp_path / "batch-0.jsonl.gz", [*ROWS, row(99, "other")])
    command = ["import", "explanations", str(path), "--features", features.uri, "--store", llama.store.url]
    refused = CliRunner().invoke(app, command)
    assert "first 99 in line 5 of" in str(refused.exception)
    result = CliRunner().invoke(app, [*command, "--from", "neuronpedia", "--skip-unknown"])
    assert result.exit_code == 0, result.output
    assert "3 of 64 features explained by neuronpedia, oai_token-act-pair" in result.output
    assert "1 explanations of other features left out" in result.output
