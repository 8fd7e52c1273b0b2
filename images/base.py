"""Makes a base image of Debian's own packages, for builds where no registry is reached: ``make image-base``.

The images stand on Docker's official Python image, pinned by digest. This one is like it as far as they need: Debian 12
with Python 3.11, and no compiler. It is for tests and for networks that have a Debian mirror and no registry.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from images.engine import ENGINES, EngineError, build, find_engine

NAME = "mistudio/base:bookworm"
"""What the base is called."""
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists", "var/log")
_CONTAINERFILE = "FROM scratch\nADD base.tar /\nENV PATH=/usr/local/bin:/usr/bin:/bin\n"


def make_base(engine: str, mirror: str = _MIRROR) -> str:
    """Make the base and return its name; needs root and debootstrap.

    Raises:
        EngineError: a command failed; it has said why.
    """
    if shutil.which("debootstrap") is None:
        message = "debootstrap is not installed: apt-get install debootstrap."
        raise EngineError(message)
    with tempfile.TemporaryDirectory(prefix="mistudio-base-") as name:
        folder = Path(name)
        _make_tree(folder / "tree", mirror)
        _run(
            ["tar", "--numeric-owner", "--create", "--file", str(folder / "base.tar"), "-C", str(folder / "tree"), "."]
        )
        shutil.rmtree(folder / "tree")
        (folder / "Containerfile").write_text(_CONTAINERFILE, encoding="utf-8")
        build(engine, Path("Containerfile"), NAME, {}, folder)
    return NAME


def _make_tree(tree: Path, mirror: str) -> None:
    included = f"--include={','.join(_PACKAGES)}"
    _run(["debootstrap", "--variant=minbase", included, "bookworm", str(tree), mirror])
    for each in _UNUSED:
        shutil.rmtree(tree / each, ignore_errors=True)
    (tree / "usr/bin/python").symlink_to("python3")
    (tree / "etc/resolv.conf").unlink(missing_ok=True)  # this machine's


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        message = f"{command[0]} failed with exit status {done.returncode}:\n{done.stdout[-2000:]}"
        raise EngineError(message)


def main() -> None:
    """Make the base."""
    parser = argparse.ArgumentParser(prog="python -m images.base", description=__doc__)
    parser.add_argument("--engine", help=f"{', '.join(ENGINES)}, or the path of one (default: the first that answers)")
    parser.add_argument("--mirror", default=_MIRROR, help="of Debian (default: %(default)s)")
    options = parser.parse_args()
    try:
        name = make_base(find_engine(options.engine), options.mirror)
    except EngineError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{name}: build on it with python -m images.build --base {name}\n")


if __name__ == "__main__":
    main()
