"""The pipelines come from the library or from where one says, never from where one stands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mistudio.errors import ConfigError
from mistudio.runs import checkout

ROOT = Path(__file__).parents[3]
MALICE = "raise SystemExit('code of the working folder ran')\n"
MODULES = ("random", "yaml", "torch", "kfp", "uvicorn", "numpy")


@pytest.fixture
def working_folder(tmp_path: Path) -> Path:
    """A folder in one whose files and packages are called like modules and like ours."""
    for name in ("pipelines", "components"):
        (tmp_path / name).mkdir()
        for module in ("__init__", "interpret", "_kfp", "images"):
            (tmp_path / name / f"{module}.py").write_text(MALICE)
    folder = tmp_path / "here"
    shutil.copytree(tmp_path / "pipelines", folder / "pipelines")
    for name in MODULES:
        (folder / f"{name}.py").write_text(MALICE)
    return folder


def mistudio(folder: Path, library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MISTUDIO_", "PYTHON"))}
    environment |= {"PYTHONPATH": str(library), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "mistudio", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["run", "interpret", "--parameters"], "train_tokens"), (["compile", "sweep", "--output", "out"], "sweep.yaml")],
)
def test_packages_of_the_working_folder_do_not_run(working_folder: Path, arguments: list[str], shown: str) -> None:
    done = mistudio(working_folder, ROOT / "src", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


@pytest.mark.proof
def test_the_built_package_has_its_pipelines(working_folder: Path, tmp_path: Path) -> None:
    copy, built = tmp_path / "copy", tmp_path / "built"
    for folder in ("src/mistudio", "components", "images", "model_servers", "pipelines"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(built)]
    subprocess.run(build, cwd=copy, check=True, capture_output=True)
    shutil.rmtree(copy)
    assert {path.name for path in (built / "mistudio" / "report" / "templates").iterdir()} == {
        path.name for path in (ROOT / "src/mistudio/report/templates").iterdir()
    }
    listed = mistudio(working_folder, built, "run", "interpret", "--parameters")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "train_tokens" in listed.stdout
    compiled = mistudio(working_folder, built, "compile", "interpret")
    assert (compiled.returncode, compiled.stderr) == (0, "")
    text = (working_folder / "compiled" / "interpret.yaml").read_text()
    assert text == (ROOT / "pipelines" / "compiled" / "interpret.yaml").read_text()
    served = mistudio(working_folder, built, "serve", "--help")
    assert (served.returncode, served.stderr) == (0, "")
    assert "--audit-log" in served.stdout


def test_a_wrong_checkout_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_CHECKOUT", str(tmp_path))
    with pytest.raises(ConfigError, match=f"MISTUDIO_CHECKOUT is {tmp_path}"):
        checkout.checkout()


def test_another_package_of_the_name_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("pipelines")
    other.__file__ = str(tmp_path / "__init__.py")
    (tmp_path / "__init__.py").touch()
    monkeypatch.setitem(sys.modules, "pipelines", other)
    monkeypatch.delenv("MISTUDIO_CHECKOUT", raising=False)
    with pytest.raises(ConfigError, match="another package pipelines"):
        checkout.load_pipeline("interpret")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("there", "fits", "taken"),
    [
        (["python3.11", "python3.12"], ["python3.11", "python3.12"], "python3.11"),
        (["python3.11", "python3.13"], ["python3.13"], "python3.13"),
        (["python3.12"], ["python3.12"], "python3.12"),
        (["python3", "python"], ["python"], "python"),
        ([], [], None),
    ],
)
def test_make_takes_the_first_python_that_fits(
    tmp_path: Path, there: list[str], fits: list[str], taken: str | None
) -> None:
    for name in there:
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {int(name not in fits)}\n")
        (tmp_path / name).chmod(0o755)
    make = [shutil.which("make") or "", "--dry-run", "install", f"VENV={tmp_path}/environment"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS")}
    environment["PATH"] = str(tmp_path)
    done = subprocess.run(make, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "3.11, 3.12 or 3.13 with venv is needed" in done.stdout
    assert f'command -v "{taken or ""}"' in done.stdout
    assert taken is None or f"\n{taken} -m venv" in done.stdout
