"""The locks that the images are installed from: ``make locks`` writes them from pyproject.toml and constraints.txt.

A lock names each package's version and the hashes of the files that fit the images, on both architectures; so a package
that cannot be had for one of them shows when the lock is made, not when an image is built there. Torch and what comes
with it (CUDA's libraries, Triton) are locked apart: they differ by variant, and are a layer that both images share.

The CPU build of torch is not in the package index but in PyTorch's own (``--torch-index``); it is looked up only when
constraints.txt names another version than the lock.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.markers import Marker

from images.platforms import ARCHITECTURES, PYTHON, fits
from images.references import ROOT

EXTRAS = {"batch": ("pipelines", "tracking", "s3", "cluster", "index"), "serve": ("serve", "s3")}
"""The extras of the package that each image has."""
CUDA_EXTRAS = ("quantised",)
"""Those that the CUDA variants have besides."""
NOT_NEEDED = {"serve": ("datasets", "umap-learn")}
"""What the package asks for and an image never imports: corpora are read, and features mapped, by steps alone."""
COMMAND = "make locks"

_CUDA = re.compile(r"torch|setuptools|triton|bitsandbytes|(nvidia|cuda)-.*")
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
_HEAD = "# Written by `{command}` from pyproject.toml and constraints.txt: do not edit.\n"

Package = Mapping[str, Any]


def write(root: Path, uv: str, torch_index: str) -> None:
    """Resolve and write every lock.

    Raises:
        ValueError: a package has no file for one of the architectures.
    """
    for name, extras in EXTRAS.items():
        packages = _resolved(root, uv, (*extras, *CUDA_EXTRAS), NOT_NEEDED.get(name, ()))
        rest = [each for each in packages if not _CUDA.fullmatch(each["name"])]
        _write(root / f"images/{name}/requirements.lock", rest)
        _write(root / "images/torch.cuda.lock", [each for each in packages if _CUDA.fullmatch(each["name"])])
    _write_cpu_torch(root, uv, torch_index, packages)


def locked(path: Path) -> dict[str, str]:
    """The version of each package in a lock."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split()[0].split("==") for line in lines if "==" in line)


def _resolved(root: Path, uv: str, extras: Iterable[str], left_out: Iterable[str]) -> list[Package]:
    """What uv resolves for the package with these extras, where the images can need it."""
    given = [str(root / "pyproject.toml"), *(part for extra in extras for part in ("--extra", extra))]
    given += ["--constraint", str(root / "constraints.txt")]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        overrides.writelines(f"{each} ; sys_platform == 'never'\n" for each in left_out)
        overrides.flush()
        return [each for each in _compiled(uv, [*given, "--override", overrides.name]) if _needed(each)]


def _compiled(uv: str, arguments: list[str]) -> list[Package]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pylock.toml"
        python = [f"--python-version={PYTHON[0]}.{PYTHON[1]}", "--universal", "--format=pylock.toml"]
        command = [uv, "pip", "compile", "--quiet", *python, "--output-file", str(output), *arguments]
        subprocess.run(command, check=True)  # noqa: S603 - no shell
        packages: list[Package] = tomllib.loads(output.read_text(encoding="utf-8"))["packages"]
        return packages


def _needed(package: Package) -> bool:
    marker = Marker(package.get("marker", "python_version > '3'"))
    return any(marker.evaluate(_environment(architecture)) for architecture in ARCHITECTURES)


def _environment(architecture: str) -> dict[str, str]:
    version = f"{PYTHON[0]}.{PYTHON[1]}"
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": architecture,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }


def _write(path: Path, packages: Iterable[Package]) -> None:
    path.write_text(_HEAD.format(command=COMMAND) + "".join(map(_entry, packages)), encoding="utf-8")


def _entry(package: Package) -> str:
    marker = package.get("marker")
    everywhere = marker is None or all(Marker(marker).evaluate(_environment(each)) for each in ARCHITECTURES)
    head = f"{package['name']}=={package['version']}" + ("" if everywhere else f" ; {marker}")
    return " \\\n".join([head, *(f"    --hash=sha256:{each}" for each in _hashes(package))]) + "\n"


def _hashes(package: Package) -> list[str]:
    """Of the wheels that fit, and of the source where an architecture has none."""
    hashes: set[str] = set()
    for architecture in ARCHITECTURES:
        wheels = [each for each in package.get("wheels", []) if fits(_file_name(each), architecture)]
        if not wheels and "sdist" not in package:
            message = f"{package['name']} {package['version']} has neither a wheel for {architecture} nor its source."
            raise ValueError(message)
        hashes |= {each["hashes"]["sha256"] for each in wheels or [package["sdist"]]}
    return sorted(hashes)


def _file_name(wheel: Mapping[str, Any]) -> str:
    name: str = wheel.get("name") or wheel.get("path") or wheel["url"]
    return name.rsplit("/", 1)[-1].replace("%2B", "+")


def _write_cpu_torch(root: Path, uv: str, torch_index: str, packages: Iterable[Package]) -> None:
    path, parts = root / "images/torch.cpu.lock", {each["name"]: each for each in packages}
    version = f"{parts['torch']['version']}+cpu"
    if path.exists() and locked(path).get("torch") == version:
        known = path.read_text(encoding="utf-8")
        torch = known[known.index("torch==") :]
    else:
        with tempfile.NamedTemporaryFile("w", suffix=".in") as asked:
            asked.write(f"torch=={version}\n")
            asked.flush()
            found = _compiled(uv, ["--no-deps", "--default-index", torch_index, asked.name])
        torch = _entry(found[0])
    path.write_text(_HEAD.format(command=COMMAND) + _entry(parts["setuptools"]) + torch, encoding="utf-8")


def main() -> None:
    """Write the locks."""
    parser = argparse.ArgumentParser(prog="python -m images.locks", description=__doc__)
    parser.add_argument("--uv", default="uv", help="the uv that resolves")
    parser.add_argument("--torch-index", default=TORCH_INDEX, help="where the CPU build of torch is (%(default)s)")
    options = parser.parse_args()
    try:
        write(ROOT, options.uv, options.torch_index)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
