"""Rows over seeds, and the command that runs the checks."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mistudio.artifacts import open_store
from mistudio.cli import app
from mistudio.errors import ConfigError
from mistudio.verify import superposition
from mistudio.verify.checks import CHECKS, falls_short, run_checks
from mistudio.verify.rows import confidence_interval, row, seeds_row


def test_a_row_over_seeds_is_the_mean_with_students_interval() -> None:
    made = seeds_row("what", [1.0, 2.0, 3.0], "unit", "more", at_least=2.0)
    assert made["value"] == 2.0
    assert str(made["against"]).startswith("± 2.48, 3 seeds; more")  # t(0.975, 2) = 4.303, times 1 / sqrt(3)
    assert made["holds"] is True
    assert seeds_row("what", [1.0, 2.0], "unit", at_most=1.4)["holds"] is False
    assert seeds_row("what", [1.0, 2.0], "unit")["holds"] is None
    assert confidence_interval([1.0]) == "no interval"


def test_a_row_that_falls_short_stays_and_is_told() -> None:
    rows = [row("a", 1, "x", "", 2, False), row("b", 3, "x", "", 2, True), row("c", 3, "x")]
    assert falls_short(rows) == rows[:1]


@pytest.mark.parametrize(
    ("names", "seeds", "message"), [(["plantd"], 5, "plantd"), ([], 5, "none"), (["python"], 0, "seeds 0")]
)
def test_what_cannot_be_checked_is_refused(tmp_path: Path, names: list[str], seeds: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_checks(open_store(str(tmp_path)), names, seeds)


def test_every_check_is_where_the_table_says() -> None:
    from importlib import import_module

    assert all(callable(getattr(import_module(module), function)) for module, function in CHECKS.values())


def test_the_command_prints_the_table_and_writes_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = superposition.SyntheticConfig(features=64, width=32, active=2.0, tokens=2_000, heldout=1000)
    monkeypatch.setattr(superposition, "REGIMES", {"easy": small})
    monkeypatch.setattr(superposition, "ARCHITECTURES", ("topk",))
    path = tmp_path / "rows.json"
    command = ["verify-method", "--checks", "superposed", "--seeds", "2", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, [*command, "--json", str(path)])
    rows = json.loads(path.read_text())
    assert [set(line) for line in rows] == [
        {"what", "value", "unit", "against", "to_reach", "holds", "machine", "versions"}
    ] * len(superposition.FIGURES)
    assert done.exit_code == 1  # so little training falls short
    assert "0 of 2 figures reach what is asked" in done.stdout
    assert "superposed, easy, topk" in done.stdout
