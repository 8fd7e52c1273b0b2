"""The container engine that builds: docker, podman or buildah, whichever is found."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ENGINES = ("docker", "podman", "buildah")
_BUILDKIT_BY_ITSELF = 23


class EngineError(Exception):
    """No engine can be used, or it failed."""


def find_engine(asked: str | None = None) -> str:
    """The engine to build with: the one that was asked for, by name or path, else the first that answers.

    Raises:
        EngineError: there is none.
    """
    for name in [asked] if asked else ENGINES:
        if shutil.which(name) and _answers(name):
            return name
    message = (
        f"{asked} cannot be used: it is not installed, or does not answer. Start it, or name another (ENGINE=...)."
        if asked
        else f"None of {', '.join(ENGINES)} can be used: install one, or start it."
    )
    raise EngineError(message)


def build(
    engine: str, containerfile: Path, tag: str, arguments: Mapping[str, str], root: Path, flags: Sequence[str] = ()
) -> None:
    """Build an image from the folder ``root``.

    Raises:
        EngineError: the build failed; the engine has said why.
    """
    given = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    verb = "bud" if _kind(engine) == "buildah" else "build"
    command = [engine, verb, "--file", str(root / containerfile), "--tag", tag, *given, *flags, str(root)]
    _run(command, f"{engine} could not build {tag}")


def read_file(engine: str, image: str, path: str) -> str:
    """The text of a file in an image, which is not run.

    Raises:
        EngineError: the image or the file is not there.
    """
    if _kind(engine) == "buildah":
        container = _run([engine, "from", image], f"There is no image {image}").strip()
        try:
            folder = _run([engine, "mount", container], f"{image} cannot be mounted").strip()
            return (Path(folder) / path.lstrip("/")).read_text(encoding="utf-8")
        finally:
            _run([engine, "rm", container], f"{container} cannot be removed")
    started = [engine, "run", "--rm", "--network", "none", "--read-only", "--entrypoint", "cat", image, path]
    return _run(started, f"{path} of {image} cannot be read")


def size_bytes(engine: str, image: str) -> int:
    """The size of an image's file system, in bytes.

    Raises:
        EngineError: there is no such image.
    """
    if _kind(engine) == "buildah":
        return int(_run([engine, "inspect", "--type", "image", "--format", "{{.Size}}", image], f"no {image}"))
    return int(_run([engine, "image", "inspect", "--format", "{{.Size}}", image], f"There is no image {image}"))


def _answers(engine: str) -> bool:
    question = [engine, "version"] if _kind(engine) == "buildah" else [engine, "info"]
    return subprocess.run(question, capture_output=True, check=False).returncode == 0  # noqa: S603 - no shell


def exists(engine: str, image: str) -> bool:
    """Whether the engine has an image of this name."""
    kind = ["inspect", "--type", "image"] if _kind(engine) == "buildah" else ["image", "inspect"]
    return subprocess.run([engine, *kind, image], capture_output=True, check=False).returncode == 0  # noqa: S603


def _kind(engine: str) -> str:
    return Path(engine).name


def _run(command: Sequence[str], failure: str) -> str:
    building = command[1] in ("build", "bud")
    done = subprocess.run(  # noqa: S603 - no shell
        command,
        env={**os.environ, **_settings(command[0])},
        stdout=None if building else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        message = f"{failure}: exit status {done.returncode}."
        raise EngineError(message)
    return done.stdout or ""


@cache
def _settings(engine: str) -> dict[str, str]:
    """BuildKit for clients of Docker that have it and do not use it by themselves: those before version 23."""
    if _kind(engine) != "docker" or "DOCKER_BUILDKIT" in os.environ:
        return {}
    asked = [engine, "version", "--format", "{{.Client.Version}}"]
    version = subprocess.run(asked, capture_output=True, text=True, check=False).stdout  # noqa: S603 - no shell
    major = version.partition(".")[0]
    return {"DOCKER_BUILDKIT": "1"} if major.isdigit() and int(major) < _BUILDKIT_BY_ITSELF else {}
