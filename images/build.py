"""Builds the images: ``make images``, or ``python -m images.build`` for some of them.

Each is called what ``images/refs.env`` calls it; so a name that is there already is not built again. Beside the image,
in ``build/images``, lies its bill of materials.
"""

import argparse
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from images.engine import ENGINES, EngineError, build, exists, find_engine, read_file, size_bytes
from images.platforms import ARCHITECTURES, ENGINE_NAMES
from images.references import COMMAND, IMAGES, ROOT, Image, outdated, reference
from images.wheels import gather

_BESIDE = Path("build/images")


def build_image(
    image: Image, engine: str, *, architecture: str, base: str | None = None, online: bool = False, root: Path = ROOT
) -> str:
    """Build an image and write its bill of materials beside it; returns its name.

    Args:
        image: Which.
        engine: docker, podman or buildah.
        architecture: As wheels name it; another than this machine's needs an engine that emulates it.
        base: What to build on, in place of the Containerfile's.
        online: Let the build fetch packages from the public indexes, instead of giving it files.
        root: The checkout.

    Raises:
        EngineError: the engine failed.
    """
    name = reference(image, root)
    arguments = {"VARIANT": image.variant, "IMAGE": name, "GIT_COMMIT": _commit(root)}
    flags = [] if architecture == platform.machine() else ["--platform", f"linux/{ENGINE_NAMES[architecture]}"]
    if base:
        arguments["BASE"] = base
    if not online:
        arguments |= {"WHEELS": gather(image, architecture, root).as_posix(), "PIP_SOURCE": "--no-index"}
        flags += ["--network", "none"] if architecture == "x86_64" else []
    build(engine, image.containerfile, name, arguments, root, flags)
    _write_beside(image, engine, name, root)
    return name


def _commit(root: Path) -> str:
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell, no input
    return done.stdout.strip() or "unknown"


def _write_beside(image: Image, engine: str, name: str, root: Path) -> None:
    text = read_file(engine, name, f"/opt/mistudio/share/sbom/{image.name}.cdx.json")
    path = root / _BESIDE / f"{image.variable.lower()}.cdx.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _chosen(names: str, variants: str) -> Iterator[Image]:
    return (image for image in IMAGES if image.name in names.split(",") and image.variant in variants.split(","))


def main() -> None:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m images.build", description=__doc__)
    add = parser.add_argument
    add("--engine", help=f"{', '.join(ENGINES)}, or the path of one (default: the first that answers)")
    add("--images", default="batch,serve", help="which, with commas between them (default: %(default)s)")
    add("--variants", default="cpu", help="cpu, cuda, or both with a comma (default: %(default)s)")
    add("--base", help="the image to build on (default: the Containerfile's, which is pinned)")
    add("--architecture", choices=ARCHITECTURES, default=platform.machine(), help="default: this machine's")
    add("--online", action="store_true", help="let the build fetch packages, instead of giving it files")
    add("--again", action="store_true", help="build what is there already, on another base for example")
    options = parser.parse_args()
    if stale := outdated():
        sys.exit(f"{', '.join(stale)}: other images than those of this checkout. Run {COMMAND} first.")
    try:
        engine = find_engine(options.engine)
        for image in _chosen(options.images, options.variants):
            name = reference(image)
            if options.again or not exists(engine, name):
                build_image(image, engine, architecture=options.architecture, base=options.base, online=options.online)
            sys.stdout.write(f"{name}  {size_bytes(engine, name) / 1e6:,.0f} MB\n")
    except (EngineError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
