"""Explained variance stands with and without outliers wherever it is shown; where there are none that is said once."""

import re

import pytest

from mistudio.cli.summary import print_summary, summarise
from mistudio.events import Finished
from mistudio.report import report
from mistudio.report.compare import compare
from mistudio.report.metrics import about_outliers, shown_metrics
from tests.support.fake_run import METRICS, publish_run
from tests.support.fake_sweep import publish_evaluation, topk

LEFT_OUT = {
    "explained_variance_all": 0.9912,
    "filtered_tokens": 2_458,
    "filtered_fraction": 0.012,
    "ce_filtered_tokens": 1_200,
}
NONE_LEFT_OUT = {
    "explained_variance_all": METRICS["explained_variance"],
    "filtered_tokens": 0,
    "filtered_fraction": 0.0,
    "ce_filtered_tokens": 0,
}
NO_LIMIT = {
    "explained_variance_all": METRICS["explained_variance"],
    "explained_variance_without_outliers": 0.6123,
    "outlier_tokens": 1_024,
    "outlier_fraction": 0.005,
}
CASES = [
    (LEFT_OUT, "0.991 over all tokens; 1.2% of them are outliers, left out"),
    (NO_LIMIT, "0.612 without outliers, 0.5% of the tokens"),
    (NONE_LEFT_OUT, ""),
    ({**NO_LIMIT, "outlier_tokens": 0, "outlier_fraction": 0.0}, ""),
    ({}, ""),
]


@pytest.mark.parametrize(("outliers", "said"), CASES)
def test_the_report_and_the_closing_table_say_what_outliers_do(store, capsys, outliers, said):
    metrics = METRICS | outliers
    assert about_outliers(metrics) == said
    artifact = report(store, *publish_run(store, num_features=3, metrics=metrics)).artifact
    assert (said or "FVU 0.048") in artifact.file("dashboard.html").read_text()
    finished = Finished(step="evaluate", uri="evaluation/1", digest="d", found=False, seconds=1.0, summary=metrics)
    print_summary(summarise([finished], 3.2), store.url)
    rows = dict(re.findall(r"│ (\S.*?) *│ (.*?) *│", capsys.readouterr().out))
    assert rows["explained variance"] == "0.9517"
    assert rows["silent on 204,800 held-out tokens"] == "0.39% of the features"
    assert rows["time"] == "1 s in steps, 3 s in all"
    assert rows.get("... and the outliers", "").startswith(said[:20])
    assert ("... and the outliers" in rows) == bool(said)


def test_where_a_limit_left_nothing_out_one_line_says_so():
    keys = [metric.key for metric in shown_metrics(METRICS | NONE_LEFT_OUT)]
    assert keys[-1] == "filtered_tokens"
    assert "explained_variance_all" not in keys
    assert [metric.key for metric in shown_metrics(METRICS | NO_LIMIT)][-4:] == list(NO_LIMIT)
    assert {*LEFT_OUT} <= {metric.key for metric in shown_metrics(METRICS | LEFT_OUT)}


@pytest.mark.parametrize(
    ("outliers", "headings", "cells"),
    [
        (LEFT_OUT, ["Explained variance, all tokens", "Share left out"], ["0.9912", "1.20%"]),
        (NO_LIMIT, ["Explained variance, all tokens", "Explained variance, without outliers", "Share of outliers"], []),
        (NONE_LEFT_OUT, [], []),
    ],
)
def test_a_comparison_has_columns_for_outliers_where_there_are_some(store, outliers, headings, cells):
    evaluations = [publish_evaluation(store, topk(k), l0=k, outliers=outliers) for k in (4, 8)]
    artifact = compare(store, evaluations).artifact
    page = artifact.file("comparison.html").read_text()
    assert [name for name in headings if name in page] == headings
    assert ("all tokens" in page) == bool(headings)
    assert all(cell in page for cell in cells)
    assert artifact.manifest.summary["explained_variance_all"] == pytest.approx(outliers["explained_variance_all"])
