"""The kinds of artifact, and the version of each: what its files hold and mean.

A version is raised when the bytes or the meaning of a kind change. It is part of every recipe, so that a step makes
anew what an older library made, and readers refuse an older artifact instead of misreading it.
"""

from mistudio.errors import InputError

# Kind -> version; the only place where either is declared.
KINDS = {
    "activations": 2,
    "comparison": 1,
    "corpus": 3,
    "direction": 1,
    "evaluation": 4,
    "explanations": 2,
    "features": 3,
    "features-part": 1,
    "index": 1,
    "preset": 1,
    "probing": 1,
    "profile": 1,
    "realignment": 1,
    "reference": 1,
    "report": 1,
    "sae": 3,
    "scores": 3,
    "stability": 1,
    "steering": 1,
    "subject": 1,
    "trials": 1,
    "upload": 1,
}
NAMED_KINDS = {"upload"}  # people name them; the prefix of all others is that of their recipe
_NAMESPACE = "mistudio."


def schema_version(kind: str) -> int:
    """The version of ``kind`` that this library writes; 1 for a kind of another package."""
    return KINDS.get(kind, 1)


def qualified_kind(kind: str, version: int) -> str:
    """The kind as a manifest writes it, for example ``mistudio.activations/1``."""
    return f"{_NAMESPACE}{kind}/{version}"


def split_kind(qualified: str) -> tuple[str, int]:
    """Kind and version of what a manifest writes."""
    kind, _, version = qualified.removeprefix(_NAMESPACE).partition("/")
    return kind, int(version or 1)


def check_version(uri: str, qualified: str) -> None:
    """Refuse an artifact that another version of the library wrote.

    Raises:
        InputError: it is older or newer than this library reads.
    """
    kind, version = split_kind(qualified)
    ours = schema_version(kind)
    if version < ours:
        message = (
            f"{uri} is of kind {qualified}, made by an older miStudio; this one reads version {ours}. Run the step "
            "that made it again: what it needs is found, and only what has changed is made anew."
        )
        raise InputError(message)
    if version > ours:
        message = f"{uri} is of kind {qualified}, made by a newer miStudio; this one reads version {ours}. Upgrade it."
        raise InputError(message)
