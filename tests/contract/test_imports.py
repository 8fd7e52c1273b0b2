"""No module imports itself by way of others, inside functions too; tests share helpers in one place."""

import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGES = ("mistudio", "components", "pipelines", "model_servers")
LAZY = "mistudio.lazy"  # what imports it imports at run time what stands under TYPE_CHECKING too
EXTRAS = {"faiss", "igraph", "kserve", "kubernetes", "leidenalg", "minio", "nicegui", "tenacity"}
NEED_EXTRAS = "mistudio.artifacts.s3."  # imported where a store in a bucket is opened


def imported_modules() -> dict[str, set[str]]:
    """For each module what it imports, without what only the type checker does."""
    real = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    all_ = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: real.find_modules_directly_imported_by(module) for module in real.modules}
    lazy = {module: all_.find_modules_directly_imported_by(module) for module in imports if LAZY in imports[module]}
    return imports | lazy


def test_no_import_comes_back_to_where_it_started() -> None:
    try:
        TopologicalSorter(imported_modules()).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_unit_tests_of_one_folder_import_no_other_folders() -> None:
    """What several need is in ``tests/support``."""
    unit = Path(__file__).parents[1] / "unit"
    strangers = [
        f"{path.relative_to(unit)}: {folder}"
        for path in sorted(unit.rglob("*.py"))
        for folder in re.findall(r"(?:from|import) tests\.unit\.(\w+)", path.read_text())
        if folder != path.relative_to(unit).parts[0]
    ]
    assert strangers == []


def test_what_servers_s3_and_the_studio_need_is_not_imported_with_the_library() -> None:
    """Each is an extra: the library works without."""
    code = (
        "import pkgutil, sys, mistudio\n"
        "for module in pkgutil.walk_packages(mistudio.__path__, 'mistudio.'):\n"
        f"    if not module.name.endswith('__main__') and not module.name.startswith({NEED_EXTRAS!r}):\n"
        "        __import__(module.name)\n"
        f"print(*sorted({EXTRAS!r} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
