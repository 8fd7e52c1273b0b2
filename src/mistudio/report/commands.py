"""The commands that would find out what is not known of a feature; the page puts its number in their place for it."""

from mistudio.artifacts import Artifact

FEATURE = "{feature}"


def missing_commands(features: Artifact, explanations: Artifact | None) -> dict[str, str]:
    """How to try, explain and score one feature, with :data:`FEATURE` for its number; none to score without words."""
    commands = {
        "try": f"mistudio find-more --features {features.uri} --only {FEATURE}",
        "explain": f"mistudio explain --features {features.uri} --only {FEATURE}",
    }
    if explanations is not None:
        commands["score"] = f"mistudio score --explanations {explanations.uri} --only {FEATURE}"
    return commands
