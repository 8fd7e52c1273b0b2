"""What a check is, and what comes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


class Skipped(Exception):
    """A check that cannot run here; the message says what to install."""


@dataclass(frozen=True)
class Outcome:
    """What came of a check.

    Attributes:
        seen: what was looked at, such as "64 objects".
        problems: a sentence each, with the place; none: the check holds.
        skipped: why it did not run, or an empty text.
    """

    seen: str = ""
    problems: Sequence[str] = field(default=())
    skipped: str = ""

    @property
    def word(self) -> str:
        """One word for a table."""
        if self.skipped:
            return "skipped"
        return "failed" if self.problems else "holds"


@dataclass(frozen=True)
class Check:
    """A check by its name.

    Attributes:
        name: short, as the table shows it.
        about: what holds where it finds nothing, in a sentence.
        look: looks, and returns what was seen and what is wrong.
    """

    name: str
    about: str
    look: Callable[[], tuple[str, Sequence[str]]]

    def run(self) -> Outcome:
        """The outcome; a tool that is missing makes it a skipped one, and an error is a problem like others."""
        try:
            seen, problems = self.look()
        except Skipped as reason:
            return Outcome(skipped=str(reason))
        except Exception as error:
            return Outcome("nothing", (f"{type(error).__name__}: {error}",))
        return Outcome(seen, tuple(problems))
