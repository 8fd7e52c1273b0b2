"""A watch list: features of autoencoders and directions that are read from traffic, each with what counts as much.

::

    version: 1
    calibration: calibration/0123456789abcdef
    watched:
    - name: trigger
      feature: 517
      threshold: 3.2
    - name: refusal
      direction: refusal
      offset: 0.8
      pool: top
      top: 8
      part: reply
      false_positive_rate: 0.001

A value of a text is made of those of its tokens by their maximum, or by the mean of the m largest. A mean over all
tokens is not offered: in a long text it hides what happens on few of them.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mistudio.instrument.edits import Latent
from mistudio.monitor.watch.written_files import digest_of, parse_written, read_written
from mistudio.paths import given_path
from mistudio.settings import Settings

Part = Literal["all", "prompt", "reply"]
Pool = Literal["max", "top"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="letters, digits, . _ -")]
MOST_TOP = 64
MOST_WATCHED = 65_536
_MOST = 1e9  # far beyond all that is meant

RealignmentUri = Annotated[str, Field(pattern=r"^realignment/[0-9a-f]{8,64}$")]
CalibrationUri = Annotated[str, Field(pattern=r"^calibration/[0-9a-f]{8,64}$")]
Rate = Annotated[float, Field(gt=0, lt=1)]


class Watched(Settings):
    """One column: a feature or a direction, how its tokens are pooled, and above what it counts."""

    name: Name
    feature: Latent | None = Field(None, description="number of a feature")
    autoencoder: str | None = Field(
        None, max_length=200, description="whose feature: name, URI or hook point; None: the first that is served"
    )
    direction: str | None = Field(
        None, max_length=200, description="name or URI of a direction, in place of a feature; read as a projection"
    )
    offset: float = Field(
        0.0, ge=-_MOST, le=_MOST, description="of a direction: what is taken off the projection, as a probe's has it"
    )
    pool: Pool = Field("max", description="of a text's tokens: the largest value, or the mean of the largest ones")
    top: int = Field(8, ge=1, le=MOST_TOP, description="tokens whose values are the largest ones")
    part: Part = Field("all", description="whose tokens: of the whole text, of the prompt, or of the reply")
    threshold: float | None = Field(None, ge=-_MOST, le=_MOST, description="value above which the column counts")
    calibration: CalibrationUri | None = Field(
        None, description="artifact that has the threshold; None: that of the list"
    )
    false_positive_rate: Rate | None = Field(
        None, description="share of reference texts above the threshold, which the calibration finds for it"
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> "Watched":
        if (self.feature is None) == (self.direction is None):
            message = f"{self.name}: give feature or direction, one of the two"
            raise ValueError(message)
        if self.direction is not None and self.autoencoder is not None:
            message = f"{self.name}: a direction has its own hook point: leave out autoencoder"
            raise ValueError(message)
        if self.feature is not None and self.offset:
            message = f"{self.name}: offset is for directions: leave it out"
            raise ValueError(message)
        if self.threshold is not None and (self.calibration or self.false_positive_rate):
            message = f"{self.name}: give a threshold, or what it is calibrated by"
            raise ValueError(message)
        return self

    @property
    def is_calibrated(self) -> bool:
        """Whether its threshold is one that a calibration has found."""
        return self.calibration is not None or self.false_positive_rate is not None


class WatchList(Settings):
    """What is read from traffic."""

    version: Literal[1] = Field(1, description="of this form of file")
    watched: tuple[Watched, ...] = Field(
        min_length=1, max_length=MOST_WATCHED, description="the columns, in the order in which values are told"
    )
    encode_in_full: tuple[str, ...] = Field(
        (), max_length=64, description="autoencoders of which all features are read: name, URI or hook point"
    )
    calibration: CalibrationUri | None = Field(None, description="artifact that has the thresholds that are not given")
    realignment: RealignmentUri | None = Field(
        None, description="artifact that says how the columns are read in a new version of the model; None: as they are"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "WatchList":
        seen: set[str] = set()
        for one in self.watched:
            if one.name in seen:
                message = f"two are named {one.name}: give each a name of its own"
                raise ValueError(message)
            seen.add(one.name)
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(one.name for one in self.watched)

    @cached_property
    def digest(self) -> str:
        """Of all that it says."""
        return digest_of(self)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other content, which nothing that was worked out of this one's goes with."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("names", "digest", "_number"):
            copied.__dict__.pop(name, None)
        return copied

    def named(self, name: str) -> Watched | None:
        """The column of this name."""
        number = self._number.get(name)
        return None if number is None else self.watched[number]

    def number(self, name: str) -> int:
        """Which column has this name.

        Raises:
            KeyError: none has it.
        """
        return self._number[name]

    @cached_property
    def _number(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def with_thresholds(self, thresholds: dict[str, float]) -> "WatchList":
        """The list with some columns' thresholds, by their names, in place of what they are calibrated by."""
        changed = tuple(
            one.model_copy(update={"threshold": thresholds[one.name], "calibration": None, "false_positive_rate": None})
            if one.name in thresholds
            else one
            for one in self.watched
        )
        return self.model_copy(update={"watched": changed})


def column_digest(artifact: str, one: Watched) -> str:
    """What a threshold holds for: what is read, from which artifact, and how it is pooled."""
    what = one.offset if one.feature is None else one.feature
    content = [artifact, one.feature is None, what, one.part, one.pool, one.top if one.pool == "top" else None]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_watch_list(path: Path) -> WatchList:
    """The watch list of a file.

    Raises:
        ConfigError: it cannot be read, or is refused; the message says where and why.
    """
    return read_written(path, WatchList, "watch list")


def given_watch_list(given: str) -> WatchList:
    """The watch list in a file, or the one that a text is; errors as :func:`read_watch_list`."""
    if "\n" in given or given.lstrip().startswith("{"):
        return parse_written(given.encode(), WatchList, "watch list")
    return read_watch_list(given_path(given, "a watch list"))
