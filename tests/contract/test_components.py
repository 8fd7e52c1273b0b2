"""Components, steps, configurations and pipelines agree on names, types and defaults."""

import ast
import inspect
from pathlib import Path

import docstring_parser
import pytest
from kfp import dsl

from components.capture.component import capture
from components.compare.component import compare
from components.evaluate.component import evaluate
from components.explain.component import explain
from components.fail_gate.component import fail_gate
from components.find.component import find
from components.find_part.component import find_part
from components.gate.component import gate
from components.grid.component import grid
from components.ingest.component import ingest
from components.probe.component import probe
from components.report.component import report
from components.score.component import score
from components.stability.component import stability
from components.train.component import train
from mistudio import steps
from mistudio.activations import CaptureConfig
from mistudio.cli.checkout import pipeline_names
from mistudio.corpus.ingest import IngestConfig
from mistudio.evaluate import EvaluateConfig
from mistudio.evaluate.probing import ProbeConfig
from mistudio.evaluate.stability import StabilityConfig
from mistudio.explain import ExplainConfig
from mistudio.explain.program import ProgramConfig
from mistudio.find import FindConfig
from mistudio.report.compare import CompareConfig
from mistudio.report.step import ReportConfig
from mistudio.sae import StandardConfig
from mistudio.score import ScoreConfig
from mistudio.steps import BATCH_STEPS
from mistudio.subject import SubjectConfig
from mistudio.train import TrainConfig
from pipelines._kfp import compile_to
from pipelines.interpret import interpret
from pipelines.sweep import sweep

ROOT = Path(__file__).parents[2]
COMPONENTS = {
    "ingest": ingest,
    "capture": capture,
    "train": train,
    "evaluate": evaluate,
    "find": find,
    "find_part": find_part,
    "explain": explain,
    "score": score,
    "report": report,
    "stability": stability,
    "probe": probe,
    "compare": compare,
    "grid": grid,
    "gate": gate,
    "fail_gate": fail_gate,
}
# These publish nothing: they are steps of pipelines alone.
STEPS = {**BATCH_STEPS, "grid": steps.grid, "gate": steps.gate, "fail_gate": steps.fail_gate}
PIPELINES = {"interpret": interpret, "sweep": sweep}
CONFIGS = {
    "ingest": (IngestConfig,),
    "capture": (CaptureConfig, SubjectConfig),
    "train": (TrainConfig, StandardConfig),
    "evaluate": (EvaluateConfig, SubjectConfig),
    "find": (FindConfig, SubjectConfig),
    "find_part": (FindConfig, SubjectConfig),
    "explain": (ExplainConfig, ProgramConfig, SubjectConfig),
    "score": (ScoreConfig, SubjectConfig),
    "report": (ReportConfig,),
    "stability": (StabilityConfig,),
    "probe": (ProbeConfig, SubjectConfig),
    "compare": (CompareConfig,),
    "grid": (),
    "gate": (),
    "fail_gate": (),
}
# What a pipeline caps for a first run, where the library itself would read everything.
PIPELINE_LIMITS = {("ingest", "max_tokens")}


def scalars(component: object) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(component.python_func).parameters
    # None is the default of an optional artifact.
    return {name: p for name, p in parameters.items() if p.default not in (inspect.Parameter.empty, None)}


def test_every_batch_step_has_a_component() -> None:
    assert sorted(COMPONENTS) == sorted(STEPS)


@pytest.mark.parametrize("step", COMPONENTS)
def test_component_scalars_are_the_steps_parameters(step: str) -> None:
    of_step = inspect.signature(STEPS[step]).parameters
    for name, parameter in scalars(COMPONENTS[step]).items():
        assert name in of_step
        assert parameter.annotation is of_step[name].annotation
        assert parameter.default == of_step[name].default


@pytest.mark.parametrize("step", COMPONENTS)
def test_component_says_of_each_scalar_what_the_step_says(step: str) -> None:
    def texts(function: object) -> dict[str, str]:
        return {p.arg_name: p.description for p in docstring_parser.parse(inspect.getdoc(function) or "").params}

    of_step, of_component = texts(STEPS[step]), texts(COMPONENTS[step].python_func)
    assert set(of_component) == set(inspect.signature(COMPONENTS[step].python_func).parameters)
    for name in scalars(COMPONENTS[step]):
        assert of_component[name] == of_step[name]


@pytest.mark.parametrize("step", COMPONENTS)
def test_step_defaults_are_the_configurations_defaults(step: str) -> None:
    fields = {name: field for config in CONFIGS[step] for name, field in config.model_fields.items()}
    for name, parameter in inspect.signature(STEPS[step]).parameters.items():
        if name not in fields or parameter.default in (-1, "", "topk") or (step, name) in PIPELINE_LIMITS:
            continue
        assert parameter.default == fields[name].default, f"{step}: {name}"


@pytest.mark.parametrize("step", COMPONENTS)
def test_component_body_is_at_most_fifteen_lines_and_calls_the_library(step: str) -> None:
    source = (ROOT / "components" / step / "component.py").read_text(encoding="utf-8")
    (function,) = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert function.end_lineno - function.body[1].lineno + 1 <= 15
    assert "from mistudio import steps" in source


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pipeline_defaults_are_the_components_defaults(pipeline: str) -> None:
    renamed = {"train_tokens": ("train", "tokens")}
    for name, parameter in inspect.signature(PIPELINES[pipeline].pipeline_func).parameters.items():
        step, own = renamed.get(name, (None, name))
        owners = [step] if step else [s for s, c in COMPONENTS.items() if own in scalars(c)]
        defaults = {scalars(COMPONENTS[owner])[own].default for owner in owners}
        assert parameter.default in defaults, name


def test_dashboard_artifacts_have_the_types_that_kubeflow_shows() -> None:
    outputs = {name: spec.type for name, spec in report.component_spec.outputs.items()}
    assert outputs["dashboard"] == "system.HTML@0.0.1"
    assert outputs["summary"] == "system.Markdown@0.0.1"
    assert compare.component_spec.outputs["page"].type == "system.HTML@0.0.1"
    assert evaluate.component_spec.outputs["metrics"].type == f"{dsl.Metrics.schema_title}@0.0.1"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_compiled_pipeline_is_up_to_date(pipeline: str, tmp_path: Path) -> None:
    compile_to(PIPELINES[pipeline], tmp_path / f"{pipeline}.yaml")
    committed = (ROOT / "pipelines" / "compiled" / f"{pipeline}.yaml").read_text(encoding="utf-8")
    assert (tmp_path / f"{pipeline}.yaml").read_text(encoding="utf-8") == committed, "run make compile"


def test_every_pipeline_is_compiled() -> None:
    assert sorted(path.stem for path in (ROOT / "pipelines" / "compiled").glob("*.yaml")) == sorted(PIPELINES)
    assert pipeline_names() == sorted(PIPELINES)
