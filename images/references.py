"""What the images are called: a hash of what is in them, so that the same name is always the same content.

KFP's cache knows an image by its name alone: under a name that stays while the library changes, it would hand out what
an older library made. ``make refs`` writes the names to where they are read: ``images/refs.env`` (compilation), the
kustomize component (manifests) and the compiled pipelines. A test compares; ``--check`` does the same.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFS = Path("images/refs.env")
KUSTOMIZATION = Path("manifests/components/images/kustomization.yaml")
COMPILED = Path("pipelines/compiled")
COMMAND = "make refs"

_REGISTRY = "ghcr.io/mistudio"
# What the wheel carries, and what else decides how an image comes out. The project's own page in the package index is
# left out of the wheel (Containerfile), as are the names themselves: they would be a hash of themselves.
_FOLDERS = ("src/mistudio", "components", "model_servers", "pipelines")
_FILES = ("LICENSE", "setup.py", ".dockerignore", "images/sbom.py", "images/trim.sh")
_LEFT_OUT = ("__pycache__", "compiled")
_DIGITS = 16
_HEAD = f"""# What the images are called: repository and a hash of their content. Written by `{COMMAND}`: do not edit.
# The batch image's name must hold "python": KFP's local runner asks for it.
"""
_KUSTOMIZATION_HEAD = f"""# The tags of the project's own images. Written by `{COMMAND}`: do not edit.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
images:
"""


@dataclass(frozen=True)
class Image:
    """An image of the project: one Containerfile, built for one kind of hardware."""

    name: str
    variant: str
    repository: str

    @property
    def variable(self) -> str:
        """Its name in ``refs.env``."""
        return f"{self.name}_image".upper() if self.variant == "cpu" else f"{self.name}_{self.variant}_image".upper()

    @property
    def containerfile(self) -> Path:
        """What it is built by, below the root."""
        return Path("images", self.name, "Containerfile")

    @property
    def locks(self) -> tuple[Path, Path]:
        """The locks of torch and what comes with it, and of everything else, below the root."""
        return Path(f"images/torch.{self.variant}.lock"), Path("images", self.name, "requirements.lock")


IMAGES = (
    Image("batch", "cpu", f"{_REGISTRY}/batch-python"),
    Image("batch", "cuda", f"{_REGISTRY}/batch-python-cuda"),
    Image("serve", "cpu", f"{_REGISTRY}/serve"),
    Image("serve", "cuda", f"{_REGISTRY}/serve-cuda"),
)


def reference(image: Image, root: Path = ROOT) -> str:
    """``repository:hash`` of what the image is made of, as it lies in this checkout."""
    return references(root)[image]


def references(root: Path = ROOT) -> dict[Image, str]:
    """The name of every image."""
    shared = _hashes(root, [*_sources(root), *map(Path, _FILES)]) + _packaging(root)
    names = {}
    for image in IMAGES:
        content = shared + _hashes(root, [image.containerfile, *image.locks])
        names[image] = f"{image.repository}:{hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]}"
    return names


def outdated(root: Path = ROOT) -> list[str]:
    """The files that name other images than those of this checkout."""
    stale = [str(path) for path, text in _texts(root).items() if _read(root / path) != text]
    names = set(references(root).values())
    compiled = sorted((root / COMPILED).glob("*.yaml"))
    return stale + [str(path.relative_to(root)) for path in compiled if not names.issuperset(_images_in(path))]


def write(root: Path = ROOT) -> None:
    """Write the names everywhere, and compile the pipelines with them."""
    for path, text in _texts(root).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    # A process of its own: what reads the names has read them when it is imported. Committed pipelines have no one's
    # placement, and are those of this checkout.
    environment = {name: value for name, value in os.environ.items() if name != "MISTUDIO_PLACEMENT"}
    environment["MISTUDIO_CHECKOUT"] = str(root)
    subprocess.run([sys.executable, "-m", "mistudio", "compile"], cwd=root, env=environment, check=True)  # noqa: S603


def _texts(root: Path) -> dict[Path, str]:
    names = references(root)
    refs = _HEAD + "".join(f"{image.variable}={name}\n" for image, name in names.items())
    tags = "".join(f"  - name: {i.repository}\n    newTag: {name.rpartition(':')[2]}\n" for i, name in names.items())
    return {REFS: refs, KUSTOMIZATION: _KUSTOMIZATION_HEAD + tags}


def _sources(root: Path) -> Iterator[Path]:
    for folder in _FOLDERS:
        for path in (root / folder).rglob("*"):
            below = path.relative_to(root)
            if path.is_file() and not any(part in _LEFT_OUT for part in below.parts):
                yield below


def _hashes(root: Path, paths: Iterable[Path]) -> str:
    """A line a file, in one order everywhere."""
    return "".join(f"{hashlib.sha256((root / path).read_bytes()).hexdigest()} {path}\n" for path in sorted(paths))


def _packaging(root: Path) -> str:
    """What ``pyproject.toml`` says of the package: not of its tools, and not of its extras, which the locks hold."""
    content = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = {key: value for key, value in content["project"].items() if key != "optional-dependencies"}
    kept = {"build": content["build-system"], "project": project, "setuptools": content["tool"]["setuptools"]}
    return json.dumps(kept, sort_keys=True)


def _images_in(path: Path) -> Iterator[str]:
    """The project's own images that a compiled pipeline names."""
    repositories = {image.repository for image in IMAGES}
    for line in path.read_text(encoding="utf-8").splitlines():
        name = line.strip().removeprefix("image: ")
        if name.rpartition(":")[0] in repositories:
            yield name


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def main() -> None:
    """Write the names, or tell which are outdated."""
    parser = argparse.ArgumentParser(prog="python -m images.references", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a name is outdated")
    if not parser.parse_args().check:
        write()
        return
    if stale := outdated():
        sys.exit(
            f"{', '.join(stale)}: other images than those of this checkout. Run {COMMAND}, and commit what it writes."
        )


if __name__ == "__main__":
    main()
