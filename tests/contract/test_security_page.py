"""The page on security says what is so: every test that it names exists, and so does all else that it names."""

import re
from pathlib import Path

from tests.support import pages

ROOT = Path(__file__).parents[2]
PAGE = pages.page("security.md")
_FILE = re.compile(r"`((?:tests/)?[\w/]*test_\w+\.py)(?:::(test_\w+))?`")


def files_of_tests() -> dict[str, str]:
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


def path_of(named: str, files: dict[str, str]) -> list[str]:
    """The files that a name stands for: below tests/unit, unless it begins with another folder."""
    if named.startswith("tests/"):
        return [named] if named in files else []
    alone = "/" not in named  # the page has said before in which folder
    return [path for path in files if path == f"tests/unit/{named}" or (alone and path.endswith(f"/{named}"))]


def test_every_file_of_tests_that_the_page_names_exists_with_the_tests_that_it_names() -> None:
    files = files_of_tests()
    named = set(_FILE.findall(PAGE))
    assert len(named) > 60
    missing = [
        f"{file}::{test}" if test else file
        for file, test in named
        if not any(f"def {test}(" in files[path] or not test for path in path_of(file, files))
    ]
    assert missing == []


def test_every_part_of_a_name_of_a_test_is_part_of_one() -> None:
    names = set(
        re.findall(r"^(?:async )?def (test_\w+)|^([A-Z_]+) = ", "\n".join(files_of_tests().values()), re.MULTILINE)
    )
    known = {name for pair in names for name in pair if name}
    rows = "\n".join(re.findall(r"^\|.*\|$", PAGE, re.MULTILINE))
    parts = set(re.findall(r"`(…\w+…?|\w+…)`", rows))  # what is behind "…" is part of the name of a test
    assert len(parts) > 40
    assert [part for part in parts if not any(part.strip("…") in name for name in known)] == []


def test_every_threat_has_a_test() -> None:
    table = PAGE.split("### Threats")[1].split("###")[0]
    rows = [row.split(" | ") for row in re.findall(r"^\| (?!threat|-)(.*) \|$", table, re.MULTILINE)]
    assert len(rows) > 20
    assert [row[0] for row in rows if not _FILE.search(row[-1])] == []


def test_commands_variables_and_links_of_the_page_are_there() -> None:
    problems = {each.text: pages.problem_of(each) for each in pages.commands(PAGE)}
    assert {text: problem for text, problem in problems.items() if problem} == {}
    assert pages.unknown_variables(PAGE) == {"HF_ENDPOINT"}  # a library reads it itself
    assert pages.broken_links("security.md") == set()
