"""Mutation testing: whether a module's unit tests notice when a piece of its code is changed.

mutmut writes the changed functions, and runs of the tests given here those that reach each one. It works on a copy
below ``build/mutate``; the checkout stays as it is. Of all changes some are drawn, the same for the same seed. What it
leaves alone: code outside functions, and functions with a decorator. Results are discussed in ``docs/mutants.md``.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIES = ROOT / "build" / "mutate"
COPIED = ("src", "tests", "components", "pipelines", "benchmarks", "docs", "README.md", "pyproject.toml")
# What pytest is given for a module: its own tests, and of slow files those that say most.
TESTS: dict[str, list[str]] = {
    "sae.selection": ["tests/unit/sae/test_kernels.py", "tests/unit/sae/test_topk.py"],
    "sae.kernels": ["tests/unit/sae/test_kernels.py", "tests/unit/sae/test_topk.py"],
    "find.statistics": ["tests/unit/find/test_statistics.py"],
    "score.summary": ["tests/unit/score/test_program.py", "-k", "summary"],
    "score.program": ["tests/unit/score/test_program.py", "-k", "scikit or auroc or interval or silence or perfect"],
    "evaluate.splice": ["tests/unit/evaluate/test_splice.py", "-k", "not size_of_a_batch"],
    "artifacts.local": ["tests/unit/artifacts/test_local.py", "tests/unit/artifacts/test_artifact.py"],
    "artifacts.publishing": ["tests/unit/artifacts/test_artifact.py", "tests/unit/artifacts/test_local.py"],
    "corpus.ingest": ["tests/unit/corpus/test_ingest.py", "tests/unit/corpus/test_bounds.py"],
    "train.trainer": [
        *(f"tests/unit/train/test_{name}.py" for name in ("resume", "together")),
        *("-k", "a_loaded_state or last_two or goes_on_to_the_same or farther_on or each_ends or read_once"),
    ],
    "train.learner": [
        *(f"tests/unit/train/test_{name}.py" for name in ("learner", "options", "little_memory", "resume")),
        *("-k", "not (cut_at_any or cut_again or was_cut)"),
    ],
}
# A change that loops is given up soon.
SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = [{path}]
also_copy = ["components", "pipelines", "benchmarks", "docs", "README.md"]
pytest_add_cli_args = ["-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = {tests}
timeout_multiplier = 3.0
timeout_constant = 10.0
"""
KILLED = ("killed", "timeout", "segfault")


class Result(NamedTuple):
    """What became of one change: a word of mutmut's, where it is, and the lines before and after."""

    status: str
    place: str
    change: list[str]


def main() -> None:
    """Print what survived of each module, and the share that was killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", choices=TESTS, action="append", help="may be given again; default: all")
    parser.add_argument("--count", type=int, default=20, help="changes drawn for each module")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args()
    for module in options.module or TESTS:
        results = mutate(module, options.count, options.seed)
        killed = sum(result.status in KILLED for result in results)
        print(f"{module}: {killed} of {len(results)} killed ({killed / len(results):.0%})", flush=True)
        for result in results:
            if result.status not in KILLED:
                print(f"  {result.status} {result.place}", *result.change, sep="\n    ", flush=True)


def mutate(module: str, count: int, seed: int) -> list[Result]:
    """Try ``count`` changes of a module."""
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.stats import status_by_exit_code
    from mutmut.utils.format_utils import get_mutant_name

    path = Path("src/mistudio", *module.split(".")).with_suffix(".py")
    made = mutate_file_contents(str(path), (ROOT / path).read_text()).mutant_names
    names = sorted(get_mutant_name(path, name) for name in made)
    drawn = random.Random(f"{seed} {module}").sample(names, min(count, len(names)))
    copy = _copy(module, path)
    _mutmut(copy, "run", "--max-children", "1", *drawn)
    codes = json.loads((copy / "mutants" / f"{path}.meta").read_text())["exit_code_by_key"]
    return [Result(status_by_exit_code[codes[name]], *_change(copy, path, name)) for name in sorted(drawn)]


def _copy(module: str, path: Path) -> Path:
    """A fresh copy of the checkout, with what mutmut has to know of the module."""
    copy = COPIES / module
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, copy / name)
    with (copy / "pyproject.toml").open("a") as file:
        file.write(SETTINGS.format(path=json.dumps(str(path)), tests=json.dumps(TESTS[module])))
    return copy


def _mutmut(copy: Path, *arguments: str) -> str:
    """What mutmut prints of mutants; ends this program with all that it said where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mutmut", *arguments]
    ended = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"mutmut failed in {copy}:\n{ended.stdout[-4000:]}\n{ended.stderr[-2000:]}")
    return ended.stdout


def _change(copy: Path, path: Path, name: str) -> tuple[str, list[str]]:
    """Where the lines stand that a change takes away or adds to, and both."""
    shown = _mutmut(copy, "show", name).splitlines()
    change = [line for line in shown if line[:1] in "+-" and not line.startswith(("---", "+++"))]
    removed = next((line[1:].strip() for line in change if line.startswith("-")), "")
    source = [line.strip() for line in (copy / path).read_text().splitlines()]
    function = name.rpartition("__mutmut_")[0].rpartition("ǁ")[2].rpartition(".x_")[2]
    start = next((row for row, line in enumerate(source) if line.startswith(f"def {function}(")), 0)
    row = source.index(removed, start) if removed in source[start:] else start
    return f"{path}:{row + 1} ({function})", [f"{line[0]} {line[1:].strip()}" for line in change]


if __name__ == "__main__":
    main()
