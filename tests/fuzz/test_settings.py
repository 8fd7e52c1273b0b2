"""Settings by name, as JSON and of pipelines: what the checks before a run pass, no later step refuses by itself."""

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mistudio.runs.checkout import check_settings, load_pipeline, parse_settings, signature
from mistudio.settings import validated
from mistudio.steps import STEPS
from mistudio.steps.context import judge_choice
from mistudio.steps.given import check, sort_given
from mistudio.subject import SubjectConfig
from tests.fuzz.examples import counted, examples
from tests.fuzz.expectation import is_readable, names_one, refusal_of
from tests.fuzz.hostile import json_texts, json_values, numbers, plain

_NAMES = {
    name: tuple(
        dict.fromkeys(
            each
            for leaf in (*step.options, *step.settings, *step.runtime_settings, *step.loading)
            for each in (leaf.name, leaf.path)
            if each not in ("store", "model")
        )
    )
    for name, step in STEPS.items()
}


@st.composite
def _of_a_step(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A step and what Python or a runner may give it: values of any kind, texts of JSON where those are taken."""
    name = draw(st.sampled_from(sorted(_NAMES)))
    names = draw(st.lists(st.sampled_from(_NAMES[name]), min_size=1, max_size=3, unique=True))
    ordinary = st.integers(-2, 2000) | st.floats(-1, 10) | st.booleans()
    return name, {each: draw(ordinary | json_values | json_texts() | _inner(name)) for each in names}


def _inner(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(_NAMES[name]), json_values, max_size=2)


@given(_of_a_step())
@examples(60, 0.14)
def test_what_the_check_of_a_step_passes_is_refused_by_nothing_later(case: tuple[str, dict[str, Any]]) -> None:
    name, values = case
    step = STEPS[name]
    message = refusal_of(lambda: check(step, values))
    counted("settings of steps", refused=message is not None)
    if message is not None:
        missing = {each.name: each.name for each in step.arguments if each.required}
        _acceptable(message, {**missing, **values})
        return
    sorted_values = sort_given(step, {**{each.name: "later" for each in step.inputs}, **values})
    subject = validated(SubjectConfig, sorted_values.loading)
    judge_choice(sorted_values.own, subject)
    if step.runtime_class is not None:
        validated(step.runtime_class, sorted_values.runtime)
    assert 0 <= sorted_values.own.get("seed", 0) < 1 << 31


# What a sweep's lists are called where one of their values is refused for an autoencoder.
_AXES = {"sparsities": "k ", "widths": "width "}
_PIPELINES = ("interpret", "sweep")


@st.composite
def _of_a_pipeline(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A pipeline and what ``--set`` may give it."""
    name = draw(st.sampled_from(_PIPELINES))
    parameters = st.sampled_from([each for each in signature(load_pipeline(name)) if each not in ("model", "corpus")])
    settings = st.tuples(parameters, numbers | plain | json_texts()).map("=".join)
    return name, draw(st.lists(settings, min_size=1, max_size=3))


@given(_of_a_pipeline())
@examples(30, 0.12)
def test_the_check_of_a_pipeline_says_what_is_wrong(case: tuple[str, list[str]]) -> None:
    name, settings = case
    pipeline = load_pipeline(name)
    message = refusal_of(lambda: check_settings(pipeline, parse_settings(pipeline, settings)))
    counted("settings of pipelines", refused=message is not None)
    if message is not None:
        _acceptable(message, dict(each.partition("=")[::2] for each in settings))


def _acceptable(message: str, values: Mapping[str, Any]) -> None:
    assert is_readable(message) is None, message
    named = [*values, *map(_text, values.values()), *(each.rpartition(".")[2] for each in values)]
    named += [own for given, own in _AXES.items() if given in values]
    inner = [each for value in values.values() if isinstance(value, dict) for each in value]
    assert names_one(message, [*named, *inner, *(each.rpartition("_")[2] for each in named)]), (message, values)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
