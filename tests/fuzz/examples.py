"""How many cases run: few and always the same ones in the tests, as many as asked for by ``make fuzz``."""

import os
from collections import Counter

from hypothesis import HealthCheck, Phase, settings

COUNTS: Counter[str] = Counter()
_ASKED = int(os.environ.get("FUZZ_EXAMPLES", "0"))
PHASES = [Phase.generate, Phase.shrink]


def examples(few: int, share: float) -> settings:
    """Settings of a test: ``few`` cases, or its share of ``FUZZ_EXAMPLES`` in all, other ones each time."""
    return settings(
        max_examples=max(1, round(_ASKED * share)) if _ASKED else few,
        derandomize=not _ASKED,
        phases=PHASES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def counted(what: str, *, refused: bool) -> None:
    """Count a case, and whether it was refused."""
    COUNTS[f"{what}: {'refused' if refused else 'accepted'}"] += 1
