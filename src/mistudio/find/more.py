"""The step find_more: features that find left out are tried in the model, when somebody wants to know more of them.

What was tried before is kept: new trials hold the rows of those that they add to, so that the newest hold everything.

Shape legend: F features, K features in their order.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, Draft, InputRef, Line, Produced, Recipe, Store, Summary, produce
from mistudio.errors import ConfigError, InputError
from mistudio.evaluate import check_subject, numerics
from mistudio.features import FeatureSet
from mistudio.features.selection import Selection, parse_selection
from mistudio.find.config import MoreConfig, TrialConfig
from mistudio.find.worth import order_of_worth
from mistudio.progress import say
from mistudio.subject import SubjectConfig, SubjectSource

_SETTINGS = tuple(name for name in TrialConfig.model_fields if name != "causal_tflop")


class ChosenBy(NamedTuple):
    """What a selection of features may need: how well explanations hold, and which features have one."""

    scores: Artifact | None = None
    explanations: Artifact | None = None


NOTHING_CHOOSES = ChosenBy()


def find_more(
    store: Store,
    features: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: MoreConfig | None = None,
    base: Artifact | None = None,
    by: ChosenBy = NOTHING_CHOOSES,
) -> Produced:
    """Publish what trying further features in the model gives: those named, or the next ones in the order of worth.

    Where all of them were tried already, the base holds what was asked for, and is returned; without one, trials of no
    feature are published.

    Args:
        store: holds everything.
        features: artifact of kind ``features``.
        source: the model.
        subject_config: how to load it.
        config: which features, and in how much; without a budget all of them.
        base: earlier trials of the same features, whose rows are kept and added to.
        by: what a selection of features may need.

    Raises:
        InputError: the model is another one, or the base is of other features or settings.
        ConfigError: the selection is malformed, or there is no context to try a feature in.
    """
    config = config or MoreConfig()
    trial, line = trial_settings(features, config), Line(store, features)
    check_subject(line.activations, source)
    if base is not None:
        _check_base(base, features, trial, subject_config)
    found = FeatureSet(features, trials=base)
    selected_K = selected(found, config, by)
    order_K = _untried(found, selected_K)
    if not len(order_K):
        _check_tried_alike(features, trial, selected_K)
    _say_what_is_left(config, len(selected_K), len(order_K))
    if base is not None and not len(order_K):
        return Produced(base, found=True)
    inputs = {"features": features, **({"base": base} if base is not None else {}), **_used(config, by)}
    recipe = Recipe(
        kind="trials",
        config={"only": config.only, **trial.model_dump(mode="json"), **numerics(subject_config)},
        inputs={
            "subject": InputRef(uri=source.uri, digest=source.digest),
            **{role: artifact.ref for role, artifact in inputs.items()},
        },
        seed=features.manifest.seed,
    )

    def build(draft: Draft) -> Summary:
        from mistudio.find.trials import Search, no_trials, try_further, write_trials

        search = Search(found, line.sae, line.corpus, source, subject_config)
        trials, beyond_budget = try_further(draft, search, trial, order_K) if len(order_K) else (no_trials(search), 0)
        not_tried = len(_untried(found, selected(found, MoreConfig()))) - len(trials.feature)
        counts = {"features_beyond_budget": beyond_budget, "features_not_tried": not_tried}
        return {**write_trials(draft, search, trials, base), **counts}

    return produce(store, recipe, "find_more", build)


def trial_settings(features: Artifact, config: MoreConfig) -> TrialConfig:
    """How features are tried: as find has tried the others, but for what was given.

    Raises:
        ConfigError: there is no context to try a feature in.
    """
    settings: dict[str, Any] = {name: features.manifest.config[name] for name in _SETTINGS}
    given = config.model_dump(include={"ablation_contexts", "attribution_contexts"}, exclude_none=True)
    trial = TrialConfig(**{**settings, **given, "causal_tflop": config.causal_tflop})
    if not trial.ablation_contexts and not trial.attribution_contexts:
        message = (
            f"ablation_contexts and attribution_contexts are 0, as they were for {features.uri}: give one of them, for "
            "a feature has to be tried in some context."
        )
        raise ConfigError(message)
    return trial


def selected(found: FeatureSet, config: MoreConfig, by: ChosenBy = NOTHING_CHOOSES) -> NDArray[np.int64]:
    """Features that fire, in their order of worth [K]: those selected, or all.

    Raises:
        ConfigError: the selection is malformed.
        InputError: it names features that there are not, or needs what was not given.
    """
    count_F, density_F, coherence_F = (
        found.column(name).to_numpy(zero_copy_only=False) for name in ("count", "density", "coherence")
    )
    order_K = order_of_worth(count_F, density_F, coherence_F.astype(np.float32))
    if config.only:
        order_K = order_K[np.isin(order_K, parse_selection(config.only).features(found, *by))]
    return order_K


def _untried(found: FeatureSet, order_K: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the features that neither find nor the base has tried."""
    tried_F = found.column("tried").to_numpy(zero_copy_only=False).astype(bool)
    left_K: NDArray[np.int64] = order_K[~tried_F[order_K]]
    return left_K


def _say_what_is_left(config: MoreConfig, num_selected: int, num_left: int) -> None:
    """Say it where nothing is left, or where less is tried than was asked for by name."""
    which = "selected " if config.only else ""
    if not num_left:
        say(f"Nothing to add: all {num_selected:,} {which}features that fire were tried.")
    elif config.only and num_left < num_selected:
        were = "was" if num_selected - num_left == 1 else "were"
        say(f"{num_selected - num_left:,} of {num_selected:,} selected features that fire {were} tried already.")


def _used(config: MoreConfig, by: ChosenBy) -> dict[str, Artifact]:
    """What the selection depends on."""
    selection = parse_selection(config.only) if config.only else Selection(())
    needs = {"scores": selection.needs_scores, "explanations": selection.needs_explanations}
    return {role: artifact for role, artifact in by._asdict().items() if artifact is not None and needs[role]}


def goes_with(config: dict[str, Any], trial: TrialConfig, subject_config: SubjectConfig) -> bool:
    """Whether trials with this configuration had the settings that figures depend on."""
    wanted = {**trial.model_dump(mode="json", include=set(_SETTINGS)), **numerics(subject_config)}
    return all(config.get(name) == value for name, value in wanted.items())


def _check_base(base: Artifact, features: Artifact, trial: TrialConfig, subject_config: SubjectConfig) -> None:
    if not goes_with(base.manifest.config, trial, subject_config):
        message = (
            f"{base.uri} has tried features with other settings than are asked for now: its rows cannot stand beside "
            f"new ones. Leave base out to begin anew, or give the settings that it has."
        )
        raise InputError(message)


def _check_tried_alike(features: Artifact, trial: TrialConfig, selected_K: NDArray[np.int64]) -> None:
    """Refuse to try again, in another way, what find itself has tried: its figures stand in the tables.

    Raises:
        InputError: find has tried some of what is asked for with other settings.
    """
    own, asked = features.manifest.config, trial.model_dump(mode="json")
    others = [f"{name} {own[name]}, not {asked[name]}" for name in _SETTINGS if own[name] != asked[name]]
    tried_F = FeatureSet(features).column("tried").to_numpy(zero_copy_only=False).astype(bool)
    if others and tried_F[selected_K].any():
        message = (
            f"What is asked for was tried by find with other settings: {features.uri} has {', '.join(others)}. Its "
            "figures are kept: leave these settings out, or run find again with them."
        )
        raise InputError(message)
