"""Which rows of activations are read for the tokens that programs are searched and scored on."""

import numpy as np
import pytest

from mistudio.explain import firings
from mistudio.explain.firings import _ranges

ENDS = np.cumsum([3, 5, 2, 4, 6, 1])  # of six sequences


@pytest.mark.parametrize(
    ("gap", "most", "sequences", "ranges"),
    [
        (0, 100, [0, 1, 2], [(0, 10)]),
        (0, 100, [0, 2, 3, 5], [(0, 3), (8, 14), (20, 21)]),
        (5, 100, [0, 2, 5], [(0, 10), (20, 21)]),
        (5, 9, [0, 1, 2, 3], [(0, 8), (8, 14)]),
        (0, 1, [4], [(14, 20)]),
        (0, 100, [], []),
    ],
)
def test_rows_of_other_sequences_are_read_only_in_gaps_that_are_small(
    gap: int, most: int, sequences: list[int], ranges: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firings, "_GAP_ROWS", gap)
    monkeypatch.setattr(firings, "_META_ROWS", most)
    assert list(_ranges(ENDS, np.array(sequences, dtype=np.int32))) == ranges
