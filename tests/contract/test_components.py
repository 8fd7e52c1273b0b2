"""Components, steps and pipelines agree, because they are made from one declaration."""

import inspect
from importlib import import_module
from pathlib import Path

import docstring_parser
import pytest
from kfp import dsl

from components.generate import component_names, component_text, dashboard_options, plain_default
from components.reference import PAGE, page_text
from components.report.component import report
from mistudio.runs.checkout import pipeline_names
from mistudio.steps import STEPS
from pipelines._kfp import compile_to
from pipelines.interpret import TAKES as INTERPRET_TAKES
from pipelines.interpret import interpret
from pipelines.sweep import TAKES as SWEEP_TAKES
from pipelines.sweep import sweep
from pipelines.train_only import TAKES as ONLY_TAKES
from pipelines.train_only import train_only

ROOT = Path(__file__).parents[2]
PIPELINES = {
    "interpret": (interpret, INTERPRET_TAKES),
    "sweep": (sweep, SWEEP_TAKES),
    "train_only": (train_only, ONLY_TAKES),
}


def component(step: str) -> object:
    return getattr(import_module(f"components.{step}.component"), step)


@pytest.mark.parametrize("step", component_names())
def test_component_is_what_its_steps_declaration_gives(step: str) -> None:
    written = (ROOT / "components" / step / "component.py").read_text(encoding="utf-8")
    assert written == component_text(STEPS[step]), "run make components"


def test_every_step_has_a_component_and_every_component_a_step() -> None:
    folders = {path.parent.name for path in (ROOT / "components").glob("*/component.py")}
    assert folders == set(component_names())
    assert folders == set(STEPS) - {"train_together"}  # publishes several artifacts


@pytest.mark.parametrize("step", component_names())
def test_component_describes_each_parameter_for_the_dashboard(step: str) -> None:
    function = component(step).python_func
    described = {each.arg_name: each.description for each in docstring_parser.parse(function.__doc__).params}
    assert set(described) == set(inspect.signature(function).parameters)
    assert all(described.values())


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pipeline_parameters_are_options_of_the_steps_that_take_them(pipeline: str) -> None:
    made, takes = PIPELINES[pipeline]
    parameters = inspect.signature(made.pipeline_func).parameters
    assert set(parameters) == {name for of in takes.values() for name in of.values()}
    declared = {
        name: plain_default(leaf)
        for step, of in reversed(takes.items())
        for leaf in dashboard_options(STEPS[step])
        for own, name in of.items()
        if own == leaf.name
    }
    assert {name: each.default for name, each in parameters.items()} == declared


def test_dashboard_artifacts_have_the_types_that_kubeflow_shows() -> None:
    outputs = {name: spec.type for name, spec in report.component_spec.outputs.items()}
    assert outputs["dashboard"] == "system.HTML@0.0.1"
    assert outputs["summary"] == "system.Markdown@0.0.1"
    assert component("compare").component_spec.outputs["page"].type == "system.HTML@0.0.1"
    for step in ("evaluate", "score"):
        assert component(step).component_spec.outputs["metrics"].type == f"{dsl.Metrics.schema_title}@0.0.1"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_compiled_pipeline_is_up_to_date(pipeline: str, tmp_path: Path) -> None:
    compile_to(PIPELINES[pipeline][0], tmp_path / f"{pipeline}.yaml")
    committed = (ROOT / "pipelines" / "compiled" / f"{pipeline}.yaml").read_text(encoding="utf-8")
    assert (tmp_path / f"{pipeline}.yaml").read_text(encoding="utf-8") == committed, "run make compile"


def test_every_pipeline_is_compiled() -> None:
    assert sorted(path.stem for path in (ROOT / "pipelines" / "compiled").glob("*.yaml")) == sorted(PIPELINES)
    assert pipeline_names() == sorted(PIPELINES)


def test_the_page_of_settings_is_what_the_declarations_give() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_text(), "run make components"


def test_the_page_of_settings_has_every_setting_of_every_step() -> None:
    page = page_text()
    missing = [
        f"{step.name}: {leaf.path}"
        for step in STEPS.values()
        for leaf in (*step.settings, *step.runtime_settings)
        if f"| `{leaf.path}` |" not in page
    ]
    assert not missing
