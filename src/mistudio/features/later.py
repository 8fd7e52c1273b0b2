"""Which trials go with a search: those of its own settings and number format, and of these the ones that hold most."""

from collections.abc import Mapping
from typing import Any

from mistudio.artifacts import Artifact, Catalog, Store, open_artifact
from mistudio.errors import InputError

# What figures of trials depend on, as recipes of ``features`` and of ``trials`` name it.
SETTINGS_OF_TRIALS = (
    "ablation_contexts",
    "attribution_contexts",
    "attribution_steps",
    "causal_tokens",
    "subject_dtype",
    "quantization",
)


def differing(config: Mapping[str, Any], features: Artifact) -> list[str]:
    """The settings that trials of this configuration have otherwise than the search had, each with both values."""
    found = features.manifest.config
    return [
        f"{name} {config.get(name)} in place of {found.get(name)}"
        for name in SETTINGS_OF_TRIALS
        if config.get(name) != found.get(name)
    ]


def check_settings(features: Artifact, trials: Artifact | None) -> None:
    """Refuse trials whose figures cannot stand beside those of the search.

    Raises:
        InputError: they have other settings, or another number format.
    """
    others = differing(trials.manifest.config, features) if trials is not None else []
    if trials is not None and others:
        message = (
            f"{trials.uri} has tried features with other settings than {features.uri}: {', '.join(others)}. Figures of "
            "both would stand side by side: give trials of the same settings, or none."
        )
        raise InputError(message)


def fullest_trials(store: Store, features: Artifact) -> Artifact | None:
    """Of the trials that go with a search, those of most features, the newest of equals; None without any."""
    with Catalog(store) as catalog:
        entries = catalog.newest(
            "trials",
            where=lambda entry: (
                (of := entry.inputs.get("features")) is not None
                and of.digest == features.digest
                and not differing(entry.config, features)
            ),
        )
    fullest = max(entries, key=lambda entry: int(str(entry.summary.get("features_tried") or 0)), default=None)
    return None if fullest is None else open_artifact(store, fullest.uri, "trials")
