import base64
import hashlib
import json
import math
import re

import numpy as np
import pytest

from mistudio.artifacts import Recipe, open_artifact, open_store, produce
from mistudio.features import FeatureSet
from mistudio.report import ReportConfig, report
from tests.support.fake_run import BOS, METRICS, make_tables, publish_run, publish_tables
from tests.unit.report.page import Page


def render(store, features, evaluation, **config) -> Page:
    artifact = report(store, features, evaluation, ReportConfig(**config)).artifact
    return Page(artifact.file("dashboard.html").read_text(encoding="utf-8"))


def test_the_index_lists_every_feature_with_its_figures_and_tokens(store):
    feature_rows, context_rows = make_tables(24, 10, {5}, 32, True)
    index = render(store, *publish_tables(store, feature_rows, context_rows)).index
    assert index["feature"] == list(range(24))
    assert index["count"] == [row["count"] for row in feature_rows]
    assert index["density"] == pytest.approx([row["density"] for row in feature_rows], rel=1e-3)
    assert index["max"] == pytest.approx([row["max"] for row in feature_rows], rel=1e-3)
    assert index["promoted"][3] == feature_rows[3]["promoted_tokens"][:6]
    peak = next(row["tokens"][row["peak"]] for row in context_rows if row["feature"] == 3)
    assert index["peaks"][3] == [peak]
    assert index["peaks"][5] == []


def test_details_keep_contexts_in_order_with_their_values_and_mark_what_was_not_captured(store):
    feature_rows, context_rows = make_tables(8, 10, set(), 32, True)
    details = render(store, *publish_tables(store, feature_rows, context_rows)).details
    for feature, detail in enumerate(details):
        rows = [row for row in context_rows if row["feature"] == feature]
        assert [context["document"] for context in detail["contexts"]] == [row["document"] for row in rows]
        for context, row in zip(detail["contexts"], rows, strict=True):
            assert context["tokens"] == row["tokens"]
            assert (context["task"], context["position"], context["peak"]) == (
                row["task"],
                row["position"],
                row["peak"],
            )
            expected = {place: value for place, value in enumerate(row["values"]) if value and not math.isnan(value)}
            assert dict(context["active"]) == pytest.approx(expected, rel=1e-3)
            assert context["uncaptured"] == [place for place, token in enumerate(row["tokens"]) if token == BOS]
    assert [detail["histogram"] for detail in details] == [row["histogram"] for row in feature_rows]
    assert [token for token, _ in details[2]["suppressed"]] == feature_rows[2]["suppressed_tokens"]


def test_blocks_hold_200_features_each_in_the_order_of_the_list(store):
    feature_rows, context_rows = make_tables(450, 2, {201}, 8, False)
    page = render(store, *publish_tables(store, feature_rows, context_rows))
    blocks = [attributes["id"] for attributes, _ in page.scripts if "block-" in (attributes.get("id") or "")]
    assert blocks == ["block-0", "block-1", "block-2"]
    assert page.index["block_features"] == 200
    for feature in (0, 199, 200, 201, 449):
        expected = [row["tokens"] for row in context_rows if row["feature"] == feature]
        assert [context["tokens"] for context in page.details[feature]["contexts"]] == expected


def test_limits_shorten_the_list_and_the_contexts_but_not_the_counts(store):
    features, evaluation = publish_run(store, num_features=30, dead=[3, 29])
    page = render(store, features, evaluation, max_features=10, contexts_per_feature=2)
    density_F = FeatureSet(features).column("density").to_numpy()
    assert page.index["feature"] == sorted(np.argsort(-density_F, kind="stable")[:10])  # all are worth the same
    assert page.index["features_total"] == 30
    assert sum(page.index["density_histogram"]["counts"]) == 28
    assert max(len(detail["contexts"]) for detail in page.details) == 2
    assert "the 10 of most worth of 30 features" in page.text
    assert "2 never fired in training" in page.text


def test_dead_features_have_empty_details(store):
    page = render(store, *publish_run(store, num_features=4, dead=[1, 2]))
    assert page.index["count"][1] == 0
    assert page.details[1]["contexts"] == []
    assert sum(page.details[1]["histogram"]) == 0


def test_a_run_in_which_nothing_fired_still_has_a_page(store):
    page = render(store, *publish_run(store, num_features=3, dead=[0, 1, 2]))
    assert page.index["density_histogram"] == {"edges": [], "counts": []}
    assert [detail["contexts"] for detail in page.details] == [[], [], []]


def test_values_that_json_cannot_hold_become_null(store):
    feature_rows, context_rows = make_tables(2, 1, {1}, 8, True)
    feature_rows[1] |= {"mean": math.nan, "max": None}
    index = render(store, *publish_tables(store, feature_rows, context_rows)).index
    assert index["mean"][1] is None
    assert index["max"][1] is None


def test_without_a_logit_lens_the_lists_are_empty(store):
    page = render(store, *publish_run(store, num_features=3, logits=False))
    assert all(detail["promoted"] == detail["suppressed"] == [] for detail in page.details)
    assert page.index["promoted"] == [[], [], []]


def test_figures_that_were_not_measured_are_shown_as_missing(store):
    metrics = {**METRICS, "ce_recovered": None, "kl": math.nan, "explained_variance": 0.1234}
    page = render(store, *publish_run(store, num_features=3, metrics=metrics))
    assert "0.123" in page.text
    assert page.text.count("–") == 2


EVIL = '</script><script>parent.evil = 1</script><img src=x onerror="evil()">&amp;<!--'


def test_tokens_beyond_the_norm_limit_are_mentioned_once_with_and_without_them(store):
    left_out = {"filtered_tokens": 716, "filtered_fraction": 0.0035, "explained_variance_all": 0.9931}
    page = render(store, *publish_run(store, num_features=3, metrics={**METRICS, **left_out}))
    assert page.text.count("716 held-out tokens (0.35%) lie beyond the norm limit") == 1
    assert "Explained variance is 0.952 without them and 0.993 with them." in page.text


@pytest.mark.parametrize("metrics", [METRICS, {**METRICS, "filtered_tokens": 0, "explained_variance_all": 0.95}])
def test_where_no_token_was_left_out_nothing_is_said_of_it(store, metrics):
    assert "norm limit" not in render(store, *publish_run(store, num_features=3, metrics=metrics)).text


def test_dense_is_what_the_evaluation_says_it_is(store):
    features, evaluation = publish_run(store, num_features=3)
    assert render(store, features, evaluation).index["dense_above"] == 0.1
    strict = produce(
        store,
        Recipe(kind="evaluation", config={"dense_above": 0.02}, inputs=evaluation.manifest.inputs),
        "evaluate",
        lambda draft: draft.write("metrics.json", json.dumps(METRICS).encode()) or {},
    ).artifact
    assert render(store, features, strict).index["dense_above"] == 0.02


def test_the_commands_for_what_is_not_known_name_the_artifacts(store):
    features, evaluation = publish_run(store, num_features=3)
    assert render(store, features, evaluation).index["commands"] == {
        "try": f"mistudio find-more --features {features.uri} --only {{feature}}",
        "explain": f"mistudio explain --features {features.uri} --only {{feature}}",
    }


def test_text_from_data_cannot_become_markup_or_script(store):
    feature_rows, context_rows = make_tables(2, 1, set(), 8, True)
    feature_rows[0] |= {"promoted_tokens": [EVIL], "promoted_logits": [1.0]}
    context_rows[0] |= {"tokens": [EVIL] * 8, "values": [1.0] * 8, "peak": 2, "task": EVIL}
    inputs = publish_tables(store, feature_rows, context_rows, subject=f"folder:{EVIL}", hook=EVIL)
    page = render(store, *inputs, title=EVIL)
    assert [attributes.get("id") for attributes, _ in page.scripts] == ["index", None, "block-0"]
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.index["peaks"][0] == [EVIL]
    assert page.index["promoted"][0] == [EVIL]
    assert page.details[0]["contexts"][0]["task"] == EVIL
    assert f"folder:{EVIL}" in page.text


def test_the_page_asks_for_nothing_and_allows_no_script_but_its_own(store):
    page = render(store, *publish_run(store, num_features=3))
    policy = next(
        attributes["content"] for tag, attributes in page.tags if tag == "meta" and "http-equiv" in attributes
    )
    code = next(text for attributes, text in page.scripts if not attributes)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert not any("src" in attributes for _, attributes in page.tags)
    assert {attributes["href"] for tag, attributes in page.tags if "href" in attributes} == {"data:,"}
    assert set(re.findall(r"https?://[^\"'\s]+", page.html)) == {"http://www.w3.org/2000/svg"}


def test_no_embedded_file_can_end_its_own_element(store):
    page = render(store, *publish_run(store, num_features=3))
    code = next(text for attributes, text in page.scripts if not attributes)
    assert "<!--" not in code
    assert code.rstrip().endswith("})();")


def test_the_same_inputs_give_the_same_bytes(store, tmp_path):
    other = open_store(str(tmp_path / "other"))
    first = report(store, *publish_run(store, num_features=12, dead=[4])).artifact
    made = publish_run(other, num_features=12, dead=[4])
    second = report(other, *(open_artifact(other, artifact.uri) for artifact in made)).artifact
    assert first.digest == second.digest
    html = first.file("dashboard.html").read_text(encoding="utf-8")
    assert html.encode() == second.file("dashboard.html").read_bytes()
    packed = base64.b64decode(Page(html).script("block-0"))
    assert packed[4:8] == b"\0" * 4, "a gzip header holds a time"
