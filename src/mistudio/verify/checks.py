"""The checks by name, and the table that they end up in."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from mistudio.artifacts import Store
from mistudio.errors import ConfigError
from mistudio.plain_text import shortened
from mistudio.verify.rows import Row, describe_machine, publish_rows, versions

# Where each check is: imported when it is asked for.
CHECKS = {
    "superposed": ("mistudio.verify.superposition", "superposed_rows"),
    "planted": ("mistudio.verify.planted", "planted_rows"),
    "python": ("mistudio.verify.python_code", "python_rows"),
    "steering": ("mistudio.verify.steering", "steering_rows"),
    "backdoor": ("mistudio.verify.backdoor", "backdoor_rows"),
}

_MOST_SEEDS = 1000  # seeds are counted from numbers of their own, so that more would leave what is known to work


def run_checks(store: Store, names: Sequence[str], num_seeds: int) -> list[Row]:
    """The rows of the checks of these names, in this order; what was trained before is found in the store.

    Raises:
        ConfigError: there is no check of one of the names, no seed, or more than can be meant.
    """
    unknown = [name for name in names if name not in CHECKS]
    if unknown or not names:
        shown = shortened(", ".join(unknown)) if unknown else "(none named)"
        message = f"There is no check {shown}: choose among {', '.join(CHECKS)}."
        raise ConfigError(message)
    if not 1 <= num_seeds <= _MOST_SEEDS:
        message = (
            f"seeds {shortened(num_seeds)} is out of range: use 1 to {_MOST_SEEDS}, and 5 for intervals that say "
            "something."
        )
        raise ConfigError(message)
    rows: list[Row] = []
    for name in names:
        module, function = CHECKS[name]
        check: Callable[[Store, int], list[Row]] = getattr(import_module(module), function)
        rows += check(store, num_seeds)
    return rows


def publish(rows: Sequence[Row], path: Path) -> None:
    """Print the table and write the rows as JSON."""
    publish_rows(path, "What was put there, and what was found", rows, describe_machine(), versions("mistudio"))


def falls_short(rows: Sequence[Row]) -> list[Row]:
    """The rows that do not reach what is asked of them."""
    return [row for row in rows if row["holds"] is False]
