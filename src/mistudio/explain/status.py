"""How many explanations came to what, counted as they are read.

Shape legend: F features.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from mistudio.explain.records import Explanation


class StatusCounts:
    """Counts explanations by explainer and status, and features by the best of theirs.

    Args:
        num_features: F.
    """

    def __init__(self, num_features: int) -> None:
        self._by_explainer: dict[str, Counter[str]] = {}
        self._has = {status: np.zeros(num_features, dtype=bool) for status in ("explained", "dead", "failed")}

    def watch(self, explanations: Iterable[Explanation]) -> Iterator[Explanation]:
        """Give them on, and count them."""
        for explanation in explanations:
            self._by_explainer.setdefault(explanation.explainer, Counter())[explanation.status] += 1
            self._has[explanation.status][explanation.feature] = True
            yield explanation

    @property
    def by_explainer(self) -> dict[str, dict[str, int]]:
        """How many of each status every explainer gave."""
        return {name: dict(sorted(counts.items())) for name, counts in self._by_explainer.items()}

    @property
    def not_explained(self) -> int:
        """Features that nobody was asked about."""
        return int((~np.logical_or.reduce(list(self._has.values()))).sum())

    @property
    def features(self) -> dict[str, int]:
        """Features by the best that was said of them: explained, failed, or nothing but dead."""
        explained, failed = self._has["explained"], self._has["failed"]
        return {
            "explained": int(explained.sum()),
            "dead": int((self._has["dead"] & ~explained & ~failed).sum()),
            "failed": int((failed & ~explained).sum()),
        }
