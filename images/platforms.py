"""What the images run on, and which wheels fit there."""

from collections.abc import Iterator

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

ARCHITECTURES = ("x86_64", "aarch64")
"""As wheels name them; container engines say amd64 and arm64."""
ENGINE_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
PYTHON = (3, 11)
_GLIBC_MINOR = 36  # Debian 12 has glibc 2.36
_OLDEST_GLIBC_MINOR = 17  # of the tags that name a version of glibc
_OLDER = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}


def platform_tags(architecture: str) -> list[str]:
    """The platform tags of wheels that run there, best first."""
    new = [f"manylinux_2_{minor}_{architecture}" for minor in range(_GLIBC_MINOR, _OLDEST_GLIBC_MINOR - 1, -1)]
    return [*new, *(f"{name}_{architecture}" for name in _OLDER[architecture]), f"linux_{architecture}"]


def fits(wheel: str, architecture: str) -> bool:
    """Whether a wheel of this file name can be installed in an image of this architecture."""
    return not parse_wheel_filename(wheel)[3].isdisjoint(_tags(architecture))


def _tags(architecture: str) -> Iterator[Tag]:
    platforms, interpreter = platform_tags(architecture), f"cp{PYTHON[0]}{PYTHON[1]}"
    yield from cpython_tags(PYTHON, [interpreter], platforms)
    yield from compatible_tags(PYTHON, interpreter, platforms)
