"""An artifact of kind ``calibration``: thresholds of watched columns, with what is known of their false positives.

A threshold holds for a column that reads the same, from the same artifact, pooled in the same way; each row says by a
digest which that is.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact, Catalog, Store, open_artifact
from mistudio.errors import ConfigError, DamagedArtifact, InputError
from mistudio.features.schema import Column as TableColumn
from mistudio.features.schema import Table
from mistudio.monitor.watch.watch_list import Watched, WatchList

if TYPE_CHECKING:
    from mistudio.monitor.watch.columns import Column

KIND = "calibration"
PAGE_NAME, LIST_NAME = "calibration.md", "watch_list.json"
WATCHED, DIFFERENCE, PROBE, RANDOM = "watched", "difference_of_means", "linear_probe", "random_direction"
_TEXT, _COUNT, _REAL = pa.string(), pa.int64(), pa.float64()
_MOST_LOOKED_AT = 200  # calibrations of a store, the newest first

CALIBRATION = Table(
    "calibration.parquet",
    "one a watched column, and one a direction that it is compared with",
    (
        TableColumn("name", _TEXT, "of the column, or of what it is compared with"),
        TableColumn("kind", _TEXT, "`watched`, `difference_of_means`, `linear_probe` or `random_direction`"),
        TableColumn("feature", _TEXT, "`uri#number`, or the direction's URI; null of what is compared with"),
        TableColumn("hook", _TEXT, "hook point that it is read at"),
        TableColumn("part", _TEXT, "`all`, `prompt` or `reply`"),
        TableColumn("pool", _TEXT, "`max` or `top`"),
        TableColumn("top", _COUNT, "tokens that a mean of the largest is of"),
        TableColumn("digest", _TEXT, "of what is read and how; null of what is compared with"),
        TableColumn("per", _TEXT, "`text` or `token`: what rates are shares of"),
        TableColumn("rate", _REAL, "of false positives that was asked for"),
        TableColumn("threshold", _REAL, "value that has to be exceeded"),
        TableColumn("fitted_on", _COUNT, "reference texts or tokens that the threshold was found on"),
        TableColumn("checked_on", _COUNT, "others that it was checked on"),
        TableColumn("above", _COUNT, "of these, above it"),
        TableColumn("found_rate", _REAL, "that share"),
        TableColumn("rate_bound", _REAL, "what the rate is below, at the confidence that was asked for"),
        TableColumn("positives", _COUNT, "held-out positive texts; 0: none were given"),
        TableColumn("recall", _REAL, "share of these above the threshold; of random directions the mean"),
        TableColumn("recall_low", _REAL, "end of its interval; of random directions the least"),
        TableColumn("recall_high", _REAL, "likewise; the most"),
    ),
    by_feature=False,
)


class Calibrated(NamedTuple):
    """The threshold of a column."""

    rate: float
    per: str
    threshold: float
    rate_bound: float


def read_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """All rows of a calibration.

    Raises:
        DamagedArtifact: a file differs from what was published.
    """
    try:
        rows: list[dict[str, Any]] = pq.read_table(
            artifact.file(CALIBRATION.name), schema=CALIBRATION.schema
        ).to_pylist()
    except (pa.ArrowException, OSError) as error:
        message = f"{artifact.uri}: {CALIBRATION.name} cannot be read: {error}."
        raise DamagedArtifact(message) from error
    return rows


def thresholds(artifact: Artifact) -> dict[str, Calibrated]:
    """Thresholds by the digest of their column; errors as :func:`read_rows`."""
    return {
        row["digest"]: Calibrated(row["rate"], row["per"], row["threshold"], row["rate_bound"])
        for row in read_rows(artifact)
        if row["kind"] == WATCHED
    }


def with_calibration(watch_list: WatchList, columns: Sequence["Column"], store: Store) -> WatchList:
    """The list with the thresholds that calibrations have for it; arguments and errors as :func:`calibrated`."""
    found = calibrated(watch_list, columns, store)
    return watch_list.with_thresholds({name: each.threshold for name, each in found.items()})


def calibrated(watch_list: WatchList, columns: Sequence["Column"], store: Store) -> dict[str, Calibrated]:
    """What calibrations have for a list, by the names of its columns.

    A column without threshold, calibration and rate stays without: rules that look at it have to give one.

    Args:
        watch_list: as its file has it.
        columns: what its columns are.
        store: holds the calibrations; where a column asks for a rate and names none, the newest that has it is taken.

    Raises:
        NotFound: there is no such calibration.
        InputError: a calibration is of something else, or of another rate.
        ConfigError: a rate is asked for that no calibration has.
        DamagedArtifact: a file differs from what was published.
    """
    opened: dict[str, Mapping[str, Calibrated]] = {}
    found: dict[str, Calibrated] = {}
    for one, column in zip(watch_list.watched, columns, strict=True):
        uri = one.calibration or watch_list.calibration
        if one.threshold is not None or (uri is None and one.false_positive_rate is None):
            continue
        if uri is None:
            found[one.name] = _newest(store, one, column.digest, opened)
            continue
        if uri not in opened:
            opened[uri] = thresholds(open_artifact(store, uri, KIND))
        found[one.name] = _of(opened[uri], uri, one, column.digest)
    return found


def _of(known: Mapping[str, Calibrated], uri: str, one: Watched, digest: str) -> Calibrated:
    found = known.get(digest)
    if found is None:
        message = (
            f"watch list, {one.name}: {uri} has no threshold for it: it was made for other columns, or "
            "these are pooled otherwise. Run mistudio calibrate on this list."
        )
        raise InputError(message)
    if one.false_positive_rate is not None and found.rate != one.false_positive_rate:
        message = (
            f"watch list, {one.name}: {uri} has the threshold for a rate of {found.rate:g}, not "
            f"{one.false_positive_rate:g}. Run mistudio calibrate on this list."
        )
        raise InputError(message)
    return found


def _newest(store: Store, one: Watched, digest: str, opened: dict[str, Mapping[str, Calibrated]]) -> Calibrated:
    for uri in _calibrations(store):
        if uri not in opened:
            opened[uri] = thresholds(open_artifact(store, uri, KIND))
        found = opened[uri].get(digest)
        if found is not None and found.rate == one.false_positive_rate:
            return found
    message = (
        f"watch list, {one.name} asks for a false-positive rate of {one.false_positive_rate:g}, and no calibration in "
        f"{store.url} has its threshold. Run mistudio calibrate on this list."
    )
    raise ConfigError(message)


def _calibrations(store: Store) -> Iterable[str]:
    with Catalog(store) as catalog:
        return [entry.uri for entry in catalog.newest(KIND, limit=_MOST_LOOKED_AT)]
