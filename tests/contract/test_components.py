"""Components, steps and pipelines agree, because they are made from one declaration."""

import inspect
from importlib import import_module
from pathlib import Path

import docstring_parser
import pytest
import yaml
from kfp import dsl

from components.generate import component_names, component_text, dashboard_options, plain_default
from components.reference import PAGE, page_text
from components.report.component import report
from mistudio.runs.checkout import pipeline_names
from mistudio.runs.tasks import step_name
from mistudio.steps import STEPS
from mistudio.steps.records import RUN_ENV
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


@pytest.mark.parametrize("step", [name for name in component_names() if STEPS[name].output])
def test_every_step_that_publishes_shows_a_page_on_it(step: str) -> None:
    kinds = [spec.type for spec in component(step).component_spec.outputs.values()]
    assert kinds.count("system.Markdown@0.0.1") == 1


def test_every_component_has_a_title_of_its_own_for_the_dashboard() -> None:
    titles = [STEPS[name].title for name in component_names()]
    assert all(titles)
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_tasks_are_called_by_the_titles_of_their_steps_and_know_their_run(pipeline: str) -> None:
    spec, platform = yaml.safe_load_all((ROOT / "pipelines" / "compiled" / f"{pipeline}.yaml").read_text("utf-8"))
    graphs = [part["dag"]["tasks"] for part in (spec["root"], *spec["components"].values()) if "dag" in part]
    tasks = {name: task for graph in graphs for name, task in graph.items() if step_name(name)}
    assert {step_name(name) for name in tasks} == set(PIPELINES[pipeline][1]) | (
        {"fail_gate"} if pipeline == "interpret" else set()
    )
    assert {step_name(name): task["taskInfo"]["name"] for name, task in tasks.items()} == {
        step_name(name): STEPS[step_name(name)].title for name in tasks
    }
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    known = {"name": RUN_ENV, "fieldPath": "metadata.labels['pipeline/runid']"}
    assert [name for name in tasks if known not in executors[f"exec-{name}"]["fieldPathAsEnv"]] == []
    assert spec["pipelineInfo"]["description"]


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
