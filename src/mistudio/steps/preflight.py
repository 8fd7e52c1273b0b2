"""Checks of a pipeline's parameters that need neither model nor corpus, so that a typo costs no hour.

Each value goes through what the step that takes it checks it with: its configuration, its registry, its ranges.
"""

import inspect
from collections.abc import Mapping

from mistudio.errors import ConfigError
from mistudio.steps import BATCH_STEPS
from mistudio.steps.defaults import CHOOSE, name_hooks
from mistudio.steps.explaining import judge_choice, names_of
from mistudio.steps.gate import LIMITS, check_limits
from mistudio.steps.sweep import grid
from mistudio.steps.training import ANY_HOOK, check_training
from mistudio.steps.validation import json_object, validated


def check_settings(values: Mapping[str, object]) -> None:
    """Refuse settings that a later step would refuse.

    Raises:
        ConfigError: a value is out of range, unknown, or in conflict with another.
        SubjectError: the model cannot be quantised on this machine.
    """
    may_choose = _may_choose()
    given = {name: value for name, value in values.items() if value != CHOOSE or name not in may_choose}
    _check_corpus_and_model(given)
    _check_hook(given)
    _check_training(given)
    _check_finding(given)
    _check_explaining(given)
    check_limits(**{name: float(str(given[name])) for name in LIMITS if name in given})


def _may_choose() -> set[str]:
    """The parameters with which a step can be asked to choose."""
    of_steps = (inspect.signature(step).parameters for step in BATCH_STEPS.values())
    return {name for parameters in of_steps for name, each in parameters.items() if each.default == CHOOSE}


def _check_corpus_and_model(given: Mapping[str, object]) -> None:
    from mistudio.corpus.ingest import IngestConfig
    from mistudio.subject import SubjectConfig
    from mistudio.subject.devices import check_quantization

    validated(IngestConfig, _only(given, "context_length", "max_tokens"))
    others = json_object("model_settings", str(given.get("model_settings", "")), '{"device_map": "auto"}')
    check_quantization(validated(SubjectConfig, {**_only(given, "dtype", "quantization"), **others}))


def _check_hook(given: Mapping[str, object]) -> None:
    """The pipelines train on what they capture without naming it, so that there has to be one hook point."""
    layer = _number(given, "layer", CHOOSE)
    if layer < 0 and layer != CHOOSE:
        message = f"layer {layer} is out of range: layers count from 0, and {CHOOSE} is the middle one."
        raise ConfigError(message)
    hooks = str(given.get("hook", ANY_HOOK.partition(".")[0]))
    if len(name_hooks(hooks, layer)) > 1:
        message = (
            f"hook {hooks} is more than one hook point, and a pipeline trains on one: name one, or run the steps "
            "capture and train by themselves."
        )
        raise ConfigError(message)


def _check_training(given: Mapping[str, object]) -> None:
    axes = {name: str(value) for name, value in _only(given, "architectures", "widths", "sparsities", "seeds").items()}
    train_settings = str(given.get("train_settings", ""))
    if axes:
        grid(**axes, train_settings=train_settings)
    check_training(
        str(given.get("architecture", "topk")),
        _number(given, "width", CHOOSE),
        {name: float(str(value)) for name, value in _only(given, "k", "target_l0", "l1_coefficient").items()},
        "" if axes else train_settings,
        given.get("train_tokens"),
    )


def _check_finding(given: Mapping[str, object]) -> None:
    from mistudio.find import FindConfig
    from mistudio.report.compare import CompareConfig

    validated(FindConfig, _only(given, "contexts"))
    validated(CompareConfig, _only(given, "keep"))


def _check_explaining(given: Mapping[str, object]) -> None:
    from mistudio.explain import ExplainConfig, check_explainers
    from mistudio.explain.config import PROGRAM
    from mistudio.score import ScoreConfig, check_scorers
    from mistudio.subject import SubjectConfig

    url, model, settings = (str(given.get(f"judge_{name}", "")) for name in ("url", "model", "settings"))
    judge = judge_choice(url, model, _number(given, "judge_tokens", CHOOSE), settings, SubjectConfig())
    explainer, scorer = (names_of(str(given.get(name, PROGRAM))) for name in ("explainer", "scorer"))
    explain = validated(ExplainConfig, {"explainers": explainer}, {"explainers": "explainer"})
    score = validated(ScoreConfig, {"scorers": scorer}, {"scorers": "scorer"})
    check_explainers(explain, has_judge=judge is not None)
    check_scorers(score, has_judge=judge is not None)
    if PROGRAM in score.scorers and PROGRAM not in explain.explainers:
        message = (
            f"scorer {PROGRAM} runs programs, and explainer {','.join(explainer)} writes none: add {PROGRAM} to the "
            "explainers, or use other scorers, such as detection."
        )
        raise ConfigError(message)


def _only(given: Mapping[str, object], *names: str) -> dict[str, object]:
    return {name: given[name] for name in names if name in given}


def _number(values: Mapping[str, object], name: str, default: int) -> int:
    return int(str(values.get(name, default)))
