"""What a task of Kubeflow knows of the runs that its MLflow plugin made."""

import pytest

from mistudio.tracking.kubeflow import CONFIG_ENV, pipeline_run_id


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ('{"endpoint": "http://mlflow:5000", "parentRunId": "abc", "experimentId": "1", "authType": "none"}', "abc"),
        ('{"endpoint": "http://mlflow:5000"}', ""),
        ('{"parentRunId": 7}', ""),
        ('["abc"]', ""),
        ("{", ""),
        ("", ""),
    ],
)
def test_the_pipelines_run_is_the_one_that_the_plugin_names(
    config: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "task")
    monkeypatch.setenv(CONFIG_ENV, config)
    assert pipeline_run_id() == found


def test_without_a_run_of_its_own_a_process_is_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv(CONFIG_ENV, '{"parentRunId": "abc"}')
    assert pipeline_run_id() == ""
