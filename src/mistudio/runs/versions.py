"""The name of a pipeline's version: the git commit that it was compiled from, so that it can be found again."""

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mistudio.runs.checkout import checkout
from mistudio.version import __version__

_COMMIT_ENV = "MISTUDIO_GIT_COMMIT"
_SHOWN = 12
_HASHED = 8
_PARTS = ("components", "images", "pipelines")  # what a compiled pipeline is made of
_LIMIT_S = 30
_DIGEST = "sha256:"


@dataclass(frozen=True)
class VersionName:
    """How a compiled pipeline is called.

    Attributes:
        name: of the version.
        description: which commit it was compiled from, and the hash of what was compiled.
        digest: of the compiled pipeline.
    """

    name: str
    description: str
    digest: str

    def is_that_of(self, description: str) -> bool:
        """Whether a version so described is this one; of one without a hash that is taken on trust."""
        return _DIGEST not in description or self.digest in description


def version_name(compiled: bytes, *, own: str = "", committed: bytes) -> VersionName:
    """The name of a compiled pipeline's version.

    The commit's first characters, where the checkout has no changes and nothing was changed on the way; else with a
    part of the hash of what was compiled, so that two things never have one name.

    Args:
        compiled: The compiled pipeline.
        own: A name to give it instead.
        committed: The compiled pipeline of the checkout: another one comes of a placement file, for example.
    """
    digest = _DIGEST + hashlib.sha256(compiled).hexdigest()
    short = digest[len(_DIGEST) :][:_HASHED]
    commit, is_clean = _commit(checkout())
    if not commit:
        name, origin = f"{__version__}-{short}", f"miStudio {__version__}"
    else:
        marks = ([] if is_clean else ["dirty"]) + ([] if is_clean and compiled == committed else [short])
        name, origin = "-".join([commit[:_SHOWN], *marks]), f"commit {commit}"
        origin += "" if is_clean else " with changes that were not committed"
    return VersionName(own or name, f"Compiled from {origin}; {digest}", digest)


def _commit(folder: Path) -> tuple[str, bool]:
    """The commit of a checkout, and whether what a pipeline is made of is as committed; empty: none is known."""
    inside = _git(folder, "rev-parse", "--show-toplevel")
    if inside is None or not (folder / "pyproject.toml").is_file() or Path(inside).resolve() != folder.resolve():
        return os.environ.get(_COMMIT_ENV, ""), True
    changed = _git(folder, "status", "--porcelain", "--", *_PARTS)
    return _git(folder, "rev-parse", "HEAD") or "", changed == ""


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where there is no git, or it refuses."""
    try:
        done = subprocess.run(  # noqa: S603 -- the command is ours
            ["git", "-C", str(folder), *arguments],  # noqa: S607 -- git is looked for as the user's shell would
            capture_output=True,
            timeout=_LIMIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace").strip()
