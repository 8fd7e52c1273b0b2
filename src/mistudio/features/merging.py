"""Rows from several places, each by rising feature, put together by rising feature, a few thousand at a time."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FEATURE = "feature"
_FEATURES_AT_ONCE = 1024
_END = 1 << 62  # behind every feature


def merged(streams: Sequence[Iterable[pa.Table]]) -> Iterator[pa.Table]:
    """All rows by rising feature; of a feature those of the first stream come first, and each stream's as they lie.

    Args:
        streams: rows of one table each, by rising feature.
    """
    left = [_Ahead(stream) for stream in streams]
    while (low := min((each.feature for each in left), default=_END)) < _END:
        stop = (low // _FEATURES_AT_ONCE + 1) * _FEATURES_AT_ONCE
        rows = pa.concat_tables([some for each in left for some in each.until(stop)])
        yield rows.take(pc.sort_indices(rows, sort_keys=[(_FEATURE, "ascending")]))


class _Ahead:
    """A stream of which the next rows are at hand."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._tables = (rows for rows in tables if len(rows))
        self._rows: pa.Table | None = next(self._tables, None)

    @property
    def feature(self) -> int:
        """Of the next row."""
        return _END if self._rows is None else int(self._rows[_FEATURE][0].as_py())

    def until(self, stop: int) -> Iterator[pa.Table]:
        """Take the rows of the features before ``stop``."""
        while self._rows is not None:
            end = int(np.searchsorted(self._rows[_FEATURE].to_numpy(), stop))
            yield self._rows.slice(0, end)
            if end < len(self._rows):
                self._rows = self._rows.slice(end)
                return
            self._rows = next(self._tables, None)
