"""The map from the requirements documents: each of their names has a line, and what stands for it is there."""

import re
from functools import cache
from typing import NoReturn

import pytest

from tests.support import pages

NAME = "reference/seed-map.md"
PAGE = pages.page(NAME)

# All that the documents name, as they name it.
ENDPOINTS = (
    "GET /health", "GET /gpu/status", "GET /gpu/clear-cache", "POST /api/v1/train", "GET /api/v1/train/{job_id}/status",
    "GET /api/v1/train/{job_id}/result", "GET /api/v1/jobs", "GET /api/v1/check-memory/{model_name}",
    "POST /api/v1/validate-model", "POST /api/v1/upload", "GET /api/v1/files", "DELETE /api/v1/files/{filename}",
    "/docs", "/redoc", "/metrics", "https://huggingface.co/api/models/{model_name}",
)  # fmt: skip
VARIABLES = (
    "DATA_PATH", "API_HOST", "API_PORT", "LOG_LEVEL", "CUDA_MEMORY_FRACTION", "MAX_CONCURRENT_JOBS",
    "PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES", "SERVICE_URLS", "SERVICE_PORTS", "PYTHONPATH",
)  # fmt: skip
METRICS = (
    "mistudio_train_activations_processed_total", "mistudio_train_gpu_memory_utilization",
    "mistudio_train_processing_duration_seconds", "mistudio_gpu_memory_utilization_percent",
    "mistudio_training_jobs_active", "mistudio_model_loading_duration_seconds",
    "mistudio_feature_extraction_throughput",
)  # fmt: skip
NAMESPACES = ("mistudio-services", "mistudio-data", "mistudio-monitoring")
OBJECTS = (
    "mistudio-train-deployment",
    "mistudio-network-policy",
    "mistudio-data-pvc",
    "localhost:32000/mistudio/train",
)
SERVICES = tuple(f"miStudio{step}" for step in ("Train", "Find", "Explain", "Score", "Correlate", "Monitor", "Steer"))
COMMANDS = (
    "make test-gpu", "make train-sample", "make status", "make monitor", "python src/main.py", "scripts/dev.sh",
    "e2e_workflow.ipynb", "sdlms.cli.sparsity", "sdlms.cli.sae_train", "sdlms.cli.si_modularity", "sdlms.cli.dynamic_k",
)  # fmt: skip
PARAMETERS = (
    "model_name", "corpus_file", "layer_number", "huggingface_token", "hidden_dim", "sparsity_coeff", "learning_rate",
    "batch_size", "max_epochs", "min_loss", "gpu_id", "max_sequence_length", "source_job_id", "top_k",
    "coherence_threshold", "include_statistics",
)  # fmt: skip
ANSWERS = (
    "job_id", "status", "progress", "current_epoch", "current_loss", "estimated_time_remaining", "message",
    "last_checkpoint", "checkpoints", "model_path", "activations_path", "metadata_path", "training_stats",
    "feature_count", "model_info", "requires_token", "ready_for_find_service", "sparsity.csv", "si_modularity.csv",
    "dynamic_k.csv", "meta.jsonl",
)  # fmt: skip
# What the page names and is not there yet; each has to go from here when it comes.
PENDING: set[str] = set()
# Of libraries, which read them themselves.
OF_LIBRARIES = {"HF_TOKEN", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "CUDA_MEMORY_FRACTION"}


@cache
def rows() -> list[tuple[str, str]]:
    """What is on the left of each line, and what on the right."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("|")]
    return [(cells[0], cells[-1]) for cells in lines if not set(cells[0]) <= {"-", "|"}]


def right() -> str:
    """All that stands on the right."""
    return "\n".join(cell for _, cell in rows())


@pytest.mark.parametrize(
    "names", [ENDPOINTS, VARIABLES, METRICS, NAMESPACES, OBJECTS, SERVICES, COMMANDS, PARAMETERS, ANSWERS]
)
def test_every_name_of_the_requirements_has_a_line(names: tuple[str, ...]) -> None:
    left = [cell for cell, _ in rows()]
    assert [name for name in names if not any(_is_in(name, cell) for cell in left)] == []


def _is_in(name: str, cell: str) -> bool:
    """Whether a cell names it as a whole; services are written without backquotes."""
    quoted = re.findall(r"`([^`]+)`", cell)
    return any(each == name or each.startswith((f"{name} ", f"{name}/")) for each in quoted) or bool(
        re.search(rf"^{re.escape(name)}\b", cell)
    )


def test_no_line_is_empty_on_the_right() -> None:
    assert len(rows()) > 90
    assert [left for left, cell in rows() if not cell.strip()] == []


def test_every_command_on_the_right_is_there() -> None:
    found = pages.commands(right())
    assert len(found) > 30
    problems = {each.text: pages.problem_of(each) for each in found if each.text not in PENDING}
    assert {text: problem for text, problem in problems.items() if problem} == {}


def test_what_is_marked_as_not_there_yet_is_not_there() -> None:
    found = {each.text: pages.problem_of(each) for each in pages.commands(right())}
    assert {text for text in PENDING if not found[text]} == set()


def test_every_endpoint_on_the_right_is_one_of_a_server() -> None:
    named = re.findall(r"`(GET|POST|PUT|DELETE) (/[^`]*)`", right())
    assert len(set(named)) >= 7
    assert set(named) - routes() == set()


@cache
def routes() -> frozenset[tuple[str, str]]:
    from model_servers.base.application import Application
    from model_servers.base.keys import Keys
    from model_servers.base.settings import ServerSettings
    from model_servers.base.shared import Shared
    from model_servers.correlate.predictor import CorrelatePredictor
    from model_servers.monitor.predictor import MonitorPredictor
    from model_servers.steer.predictor import SteerPredictor

    def nothing() -> NoReturn:
        raise AssertionError

    kinds = (CorrelatePredictor, MonitorPredictor, SteerPredictor)
    application = Application([kind(Shared(nothing)) for kind in kinds], ServerSettings(), Keys())
    try:
        paths = application.fastapi.openapi()["paths"]
    finally:
        application.close()
    found = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    return frozenset(found | {("GET", str(application.fastapi.openapi_url))})


def test_every_variable_on_the_right_is_read_somewhere() -> None:
    assert pages.unknown_variables(right()) - OF_LIBRARIES == set()
    assert pages.variables(right()) >= {"MISTUDIO_STORE", "MISTUDIO_SCRATCH"}


def test_every_metric_on_the_right_is_one_that_a_server_exports() -> None:
    named = pages.metrics(right())
    assert len(named) >= 6
    assert named - pages.exported_metrics() == set()


def test_every_parameter_on_the_right_is_one_of_the_pipeline() -> None:
    from mistudio.runs.checkout import load_pipeline

    known = set(load_pipeline("interpret").component_spec.inputs or {}) | {"device", "batch_size", "include_statistics"}
    table = PAGE.split("## Parameters of a training")[1].split("##")[0]
    cells = [line.strip("| ").split(" | ")[-1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([a-z][a-z_0-9]*)`", cell)}
    assert len(named) > 12
    assert named - known == set()


def test_links_of_the_page_are_there_and_nothing_is_called_what_only_the_project_calls_it() -> None:
    assert pages.broken_links(NAME) == set()
    assert "seed doc" not in PAGE.lower()
