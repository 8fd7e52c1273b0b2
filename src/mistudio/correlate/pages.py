"""Where the store has the page of a feature: the dashboard of a report, opened at that feature."""

import mmap
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Artifact

_DASHBOARD = "dashboard.html"
_SHOWN = re.compile(rb'"feature":\[([0-9,]*)\]')  # the first list of the page's index


class Pages:
    """The pages of one report.

    Args:
        report: artifact of kind ``report``.
    """

    def __init__(self, report: Artifact) -> None:
        self._address = f"{report.uri}/{_DASHBOARD}"
        summary = report.manifest.summary
        shows_all = summary.get("features_shown") == summary.get("features")
        self._shown: NDArray[np.int64] | None = None if shows_all else _shown(report.file(_DASHBOARD))

    def of(self, feature: int) -> str | None:
        """Where the page of a feature is; None where the report leaves it out."""
        if self._shown is not None:
            place = int(np.searchsorted(self._shown, feature))
            if place == len(self._shown) or self._shown[place] != feature:
                return None
        return f"{self._address}#feature={feature}"


def _shown(page: Path) -> NDArray[np.int64]:
    """The features that a dashboard shows, ascending; none where the page does not say."""
    with page.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = _SHOWN.search(content)
        numbers = found[1].decode() if found is not None else ""
    return np.array(sorted(map(int, filter(None, numbers.split(",")))), dtype=np.int64)
