"""Writes the page that lists every setting of every step, ``docs/reference/settings.md``, from their declarations."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from mistudio.explain.llm_config import EndpointConfig, LocalModelConfig
from mistudio.settings import Leaf, leaves, variants_of
from mistudio.steps import STEPS, Step

_GIVEN = (
    "Given by `--judge-settings` as JSON; the address by `--judge-url`, the model by `--judge-model`, the budget by\n"
    "`--judge-tokens`."
)
_JUDGES = {"The language model at an endpoint": EndpointConfig, "The language model that is loaded": LocalModelConfig}
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"
_HEAD = """# Settings

Every setting of every step. Written by `make components` from the declarations: do not edit.

A setting with an option is given by it on the command line (`mistudio train --k 16`); those marked with * are
parameters of the component too, and of the pipelines that take them. Each can be given by its name or path: `--set
aux_k=4` on the command line of a step, in components and pipelines by the step's settings as JSON (`train_settings`),
in Python `run_step("train", aux_k=4)`. Where several settings of a step have one name, the path tells them apart
(`--set judged.num_active=5`). Without a default a setting is left out, or chosen as its line says; None, and for the
command line and Kubeflow -1 or an empty text, mean "not given".

What steps have in common stands in each command's help: the store, the seed, the model and how it is loaded
(`--model-settings`), and the language model that explains and judges (`--judge-settings`).
"""


def page_text() -> str:
    """The page."""
    steps = (line for step in STEPS.values() if step.config for line in _section(step))
    return "\n".join([_HEAD, *steps, *(line for title, config in _JUDGES.items() for line in _judge(title, config))])


def _section(step: Step) -> Iterator[str]:
    yield f"## {step.name}\n\n{step.summary}\n"
    shared = [leaf for leaf in (*step.settings, *step.runtime_settings) if not leaf.owners]
    yield from _table(shared)
    if step.config_class is None:
        return
    of_one = {leaf.path: leaf for leaf in step.settings if leaf.owners}
    for above, name, config in variants_of(step.config_class):
        own = [
            of_one[leaf.path] if leaf.path in step.choices else leaf
            for leaf in leaves(config, f"{above}.")
            if leaf.path in of_one
        ]
        if own:
            yield f"### {step.name}: {name}\n"
            yield from _table(own)


def _judge(title: str, config: type[BaseModel]) -> Iterator[str]:
    yield f"## {title}\n\n{_GIVEN}\n"
    yield from _table([leaf for leaf in leaves(config) if not leaf.path.startswith("subject.")])


def _table(rows: list[Leaf]) -> Iterator[str]:
    yield "| setting | option | default | what it is |\n|---|---|---|---|"
    for leaf in rows:
        option = "" if leaf.place == "settings" else f"`--{leaf.name.replace('_', '-')}`"
        star = " *" if leaf.place == "dashboard" else ""
        default = "" if leaf.default in (None, "") else f"`{leaf.default}`"
        yield f"| `{leaf.path}` | {option}{star} | {default} | {_cell(leaf)} |"
    yield ""


def _cell(leaf: Leaf) -> str:
    choices = "" if leaf.decides or all(each in leaf.text for each in leaf.choices) else f" ({', '.join(leaf.choices)})"
    return f"{leaf.text}{choices}".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8")
