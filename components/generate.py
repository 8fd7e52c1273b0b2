"""Writes each component from the declaration of its step: ``python -m components.generate``.

A component is a typed contract that calls the library. What people can set in the dashboard is what the step's
declaration marks for it; everything else goes through one parameter with settings as JSON. KFP parameters cannot be
None, so that -1 and the empty text stand for it in components, in pipelines and on the command line, whose texts say
so; the library takes None.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from mistudio.settings import Leaf
from mistudio.steps import STEPS, Step

_FOLDER = Path(__file__).parent
_WIDTH = 116
_HEAD = '''"""The {name} step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

{typing}from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component({parameters})
'''
# What is for the pods that a step starts; the task's own pod, which waits for them, needs variables and volumes too.
_PASSED_ON = """
    base_image=BATCH_IMAGE,
    install_kfp_package=False,
    task_config_passthroughs=[
        dsl.TaskConfigField.RESOURCES,
        dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
        dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
        dsl.TaskConfigField.KUBERNETES_AFFINITY,
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.ENV, apply_to_task=True),
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
    ],
"""
_OWN = "base_image=BATCH_IMAGE, install_kfp_package=False"
_POD = "task_config"
_NO_OTHER = "  # noqa: UP045 - kfp reads no other spelling"
_SUMMARY = "summary"
_METRICS = """    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
"""


def component_names() -> list[str]:
    """The steps that are components: all that publish one artifact, or return a plain value to a pipeline."""
    return [step.name for step in STEPS.values() if step.output is None or not step.output.many]


def component_text(step: Step) -> str:
    """The Python file of a step's component."""
    optional = any(each.optional for each in step.inputs)
    typing, parameters = "from typing import Optional\n\n" if optional else "", _PASSED_ON if step.takes_pod else _OWN
    head = _HEAD.format(name=step.name, typing=typing, parameters=parameters)
    returns = f" -> {step.returns}" if step.returns else ""
    parameters = "".join(
        f"    {line}\n" if line.endswith(_NO_OTHER) else f"    {line},\n" for line in _parameters(step)
    )
    return f"{head}def {step.name}(\n{parameters}){returns}:\n{_docstring(step)}{_body(step)}"


def write_all() -> None:
    """Write the components of all steps."""
    for name in component_names():
        folder = _FOLDER / name
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text(f'"""The {name} step as a KFP component."""\n', encoding="utf-8")
        (folder / "component.py").write_text(component_text(STEPS[name]), encoding="utf-8")


def dashboard_options(step: Step) -> list[Leaf]:
    """What people can set in the dashboard."""
    return [leaf for leaf in step.options if leaf.place == "dashboard"]


def plain_default(leaf: Leaf) -> str | int | float | bool:
    """The default of a component's parameter: -1 and the empty text stand for None."""
    if leaf.default is None:
        return "" if leaf.kind in (str, dict) else leaf.kind(-1)
    default: str | int | float | bool = leaf.default
    return default


def _parameters(step: Step) -> Iterator[str]:
    for each in step.inputs:
        if not each.optional:
            yield f"{each.name}: dsl.Input[{_type(each.kind, many=each.many)}]"
    yield from _outputs(step)
    if step.takes_pod:
        yield f"{_POD}: dsl.TaskConfig"
    required = {each.name for each in step.arguments if each.required}
    options = {leaf: "str" if leaf.kind is dict else leaf.kind.__name__ for leaf in dashboard_options(step)}
    yield from (f"{leaf.name}: {kind}" for leaf, kind in options.items() if leaf.name in required)
    for each in step.inputs:  # what has a default comes last
        if each.optional:
            kind = _type(each.kind, many=each.many)
            yield f"{each.name}: Optional[dsl.Input[{kind}]] = None,{_NO_OTHER}"
    for leaf, kind in options.items():
        if leaf.name not in required:
            yield f"{leaf.name}: {kind} = {_literal(plain_default(leaf))}"


def _outputs(step: Step) -> Iterator[str]:
    if step.output is None:
        return
    yield f"{step.output.name}: dsl.Output[{_type(step.output.kind)}]"
    yield from (f"{page.name}: dsl.Output[dsl.{page.kind}]" for page in step.output.pages)
    if _gets_summary(step):
        yield f"{_SUMMARY}: dsl.Output[dsl.Markdown]"
    if step.output.metrics:
        yield "metrics: dsl.Output[dsl.Metrics]"


def _type(kind: str, *, many: bool = False) -> str:
    one = "dsl.Model" if kind == "sae" else "dsl.Dataset"
    return f"list[{one}]" if many else one


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _docstring(step: Step) -> str:
    texts = {each.name: each.text.replace("None:", "empty:") for each in step.inputs if not each.optional}
    if step.output is not None:
        texts[step.output.name] = step.output.text
        texts |= {page.name: page.text for page in step.output.pages}
        texts |= {_SUMMARY: "A page on it, for the dashboard to show."} if _gets_summary(step) else {}
        texts |= {"metrics": "The figures, for the dashboard to compare."} if step.output.metrics else {}
    texts |= {each.name: each.text.replace("None:", "empty:") for each in step.inputs if each.optional}
    texts |= {_POD: "What its pod is given, for those that it starts; filled in by KFP."} if step.takes_pod else {}
    texts |= {leaf.name: leaf.shown() for leaf in dashboard_options(step)}
    lines = [f'    """{step.summary}', "", "    Args:"]
    for name, text in texts.items():
        lines += textwrap.wrap(f"{name}: {text}", _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 12)
    if step.returned:
        lines += ["", "    Returns:", f"        {step.returned}"]
    return "\n".join([*lines, '    """', ""])


def _body(step: Step) -> str:
    verb = "call" if step.output is None else "run_together" if step.shared else "run_step"
    given = [f"{each.name}={_uri(each.name, many=each.many, optional=each.optional)}" for each in step.inputs]
    given += [f"pod=steps.pod_json({_POD})"] if step.takes_pod else []
    given += [f"{leaf.name}={_given(leaf)}" for leaf in dashboard_options(step)]
    arguments = "".join(f"        {line},\n" for line in given)
    result = "done = " if step.output is not None else "return " if step.returns else ""
    own = f'    steps.own_process("{step.name}")\n' if step.output is not None else ""
    lines = f"    from mistudio import steps\n\n{own}"
    lines += f'    {result}steps.{verb}(\n        "{step.name}",\n{arguments}    )\n'
    if step.output is None:
        return lines
    lines += f"    done.write_to({step.output.name})\n"
    lines += "".join(f'    done.write_file_to({page.name}, "{page.file}")\n' for page in step.output.pages)
    lines += f"    done.write_summary_to({_SUMMARY})\n" if _gets_summary(step) else ""
    return lines + (_METRICS if step.output.metrics else "")


def _gets_summary(step: Step) -> bool:
    """Whether the dashboard shows a page on what it publishes: always, but where it publishes one of its own."""
    return step.output is not None and all(page.kind != "Markdown" for page in step.output.pages)


def _uri(name: str, *, many: bool, optional: bool) -> str:
    if many:
        return f"[steps.artifact_uri(each.path) for each in {f'{name} or []' if optional else name}]"
    uri = f"steps.artifact_uri({name}.path)"
    return f"{uri} if {name} else None" if optional else uri


def _given(leaf: Leaf) -> str:
    """The value that a parameter stands for."""
    if leaf.default is not None and not leaf.nullable:
        return leaf.name
    return f"{leaf.name} or None" if leaf.kind in (str, dict) else f"None if {leaf.name} == -1 else {leaf.name}"


if __name__ == "__main__":
    write_all()
