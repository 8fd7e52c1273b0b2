"""The commands that would find out what is not known of a feature; the page puts its number in their place for it."""

from mistudio.artifacts import Artifact

FEATURE = "{feature}"


def missing_commands(features: Artifact, explanations: Artifact | None) -> dict[str, str]:
    """How to try, explain and score one feature, with :data:`FEATURE` for its number.

    There is none to score without words, and none to try where find was to try none.
    """
    commands = {"explain": f"mistudio explain --features {features.uri} --only {FEATURE}"}
    if any(features.manifest.config.get(name, 1) for name in ("ablation_contexts", "attribution_contexts")):
        commands["try"] = f"mistudio find-more --features {features.uri} --only {FEATURE}"
    if explanations is not None:
        commands["score"] = f"mistudio score --explanations {explanations.uri} --only {FEATURE}"
    return commands
