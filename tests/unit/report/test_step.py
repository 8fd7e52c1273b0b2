import tracemalloc

import numpy as np
import pytest
from pydantic import ValidationError

from mistudio.artifacts import open_artifact, remove_artifact
from mistudio.errors import DamagedArtifact, InputError
from mistudio.features import FeatureSet
from mistudio.report import ReportConfig, report
from mistudio.report.lineage import Node, folded, trace
from mistudio.report.records import write_blocks
from tests.support.fake_run import METRICS, publish_run


def test_a_report_is_one_page_and_one_summary_and_is_found_the_second_time(store):
    inputs = publish_run(store, num_features=5, dead=[2])
    produced = report(store, *inputs)
    assert not produced.found
    assert produced.artifact.paths() == ["dashboard.html", "report.md"]
    assert produced.artifact.manifest.summary == {
        "features": 5,
        "features_shown": 5,
        "features_dead": 1,
        "explained_variance": METRICS["explained_variance"],
        "l0": METRICS["l0"],
        "ce_recovered": METRICS["ce_recovered"],
    }
    assert report(store, *inputs).found
    assert not report(store, *inputs, ReportConfig(title="Another title")).found


def test_the_summary_has_the_metrics_and_the_lineage_and_escapes_markdown(store):
    inputs = publish_run(store, num_features=3, metrics={**METRICS, "kl": None})
    text = report(store, *inputs, ReportConfig(title="a|b <i>")).artifact.file("report.md").read_text()
    assert text.startswith("# a\\|b \\<i\\>\n")
    assert "| Explained variance | 0.952 |" in text
    assert "| Silent features | 0.39% |" in text
    assert "| KL | – |" in text
    assert "| Subject | folder:stories260K | `7c9e1b527c` | outside the store |" in text
    rows = [line.split(" | ")[0] for line in text.partition("## Lineage")[2].splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| Source", "| Subject", "| Corpus", "| Activations", "| SAE", "| Features", "| Evaluation"]


def test_lineage_runs_from_source_to_result_in_columns(store):
    features, evaluation = publish_run(store, num_features=3)
    columns = trace(store, {"features": features, "evaluation": evaluation})
    assert [[node.title for node in column] for column in columns] == [
        ["Source", "Subject"],
        ["Corpus"],
        ["Activations"],
        ["SAE"],
        ["Features", "Evaluation"],
    ]
    sae = columns[3][0]
    assert sae.key_figures == (("features", "3"), ("architecture", "topk"), ("k", "32"))
    assert ("learning_rate", "0.003") in sae.config
    assert ("split.held_out", "0.1") in columns[1][0].config
    assert sae.inputs == (("activations", columns[2][0].name),)
    assert sae.digest == features.manifest.inputs["sae"].digest


def test_what_was_added_to_is_left_out_of_the_picture_and_counted():
    def node(title: str, depth: int) -> Node:
        return Node(f"{title}{depth}", title, f"{title}/{depth}", "d", depth)

    kinds = ["Features", "Explanations", "Scores", "Explanations", "Scores"]
    chain = [node(kind, depth) for depth, kind in enumerate(kinds, 1)]
    sources = [node("Source", 0), node("Subject", 0)]
    columns = folded([sources, *([each] for each in chain), [node("Explanations", 6)]])
    shown = [[(each.title, each.depth, each.earlier) for each in column] for column in columns]
    assert shown == [
        [("Source", 0, 0), ("Subject", 0, 0)],
        [("Features", 1, 0)],
        [("Scores", 5, 1)],
        [("Explanations", 6, 2)],
    ]


def test_an_ancestor_that_was_removed_is_shown_as_such(store):
    features, evaluation = publish_run(store, num_features=3)
    remove_artifact(store, features.manifest.inputs["activations"].uri)
    nodes = {node.title: node for column in trace(store, {"features": features}) for node in column}
    assert nodes["Activations"].note == "no longer in the store"
    assert nodes["Activations"].digest == features.manifest.inputs["activations"].digest
    assert nodes["Corpus"].note == ""
    assert report(store, features, evaluation).artifact.paths() == ["dashboard.html", "report.md"]


def test_an_ancestor_that_is_not_the_one_used_is_refused(store):
    features, evaluation = publish_run(store, num_features=3)
    uri = features.manifest.inputs["sae"].uri
    manifest = open_artifact(store, uri).manifest
    store.fetch(f"{uri}/manifest.json").write_bytes(manifest.model_copy(update={"seed": 7}).to_json())
    with pytest.raises(DamagedArtifact, match=uri):
        report(store, features, evaluation)
    assert not list(store.list("report"))


def test_inputs_of_another_kind_are_refused(store):
    features, evaluation = publish_run(store, num_features=3)
    with pytest.raises(InputError, match=r"needs one of kind features"):
        report(store, evaluation, features)


def test_features_and_evaluation_of_two_autoencoders_are_refused(store):
    features, _ = publish_run(store, num_features=3)
    _, other = publish_run(store, num_features=4)
    with pytest.raises(InputError, match="one autoencoder"):
        report(store, features, other)


def test_a_damaged_table_is_refused_and_nothing_is_published(store):
    features, evaluation = publish_run(store, num_features=3)
    path = store.fetch(f"{features.uri}/contexts/0000000.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedArtifact, match=r"contexts/0000000\.parquet"):
        report(store, features, evaluation)
    assert not list(store.list("report"))


@pytest.mark.parametrize("bad", [{"max_features": 0}, {"contexts_per_feature": -1}, {"title": ""}, {"colour": "red"}])
def test_settings_out_of_range_or_unknown_are_refused(bad):
    with pytest.raises(ValidationError):
        ReportConfig(**bad)


def test_memory_does_not_grow_with_the_number_of_contexts(store, tmp_path):
    def peak_bytes(num_features: int) -> int:
        features, _ = publish_run(store, num_features=num_features)
        features = FeatureSet(features)
        shown = np.arange(features.num_features)
        with (tmp_path / "spool").open("wb") as spool:
            tracemalloc.start()
            write_blocks(features, shown, {"top": 10}, spool)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak

    assert peak_bytes(800) < 1.5 * peak_bytes(200)
