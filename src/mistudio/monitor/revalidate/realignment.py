"""Artifacts of kind ``realignment``: what became of each column of a watch list in a new version of the model.

Shape legend: D width of a hook point.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, ValidationError

from mistudio.artifacts import Artifact
from mistudio.errors import DamagedArtifact, GateFailed
from mistudio.monitor.revalidate.realign import Realigned
from mistudio.settings import Settings

KIND = "realignment"
VERDICTS_NAME, MAPS_NAME, VECTORS_NAME = "verdicts.json", "maps.safetensors", "vectors.safetensors"
Outcome = Literal["kept", "realigned", "refused"]


class Likeness(Settings):
    """How like two sets of values are."""

    correlation: float | None = Field(None, description="of a text's values; null where one of them never changes")
    agreement: float | None = Field(
        None, description="of what is above the threshold: Cohen's kappa; null where old values are on one side"
    )
    same: float = Field(description="share of texts that are on the same side of the threshold")


class Verdict(Settings):
    """What became of a column."""

    name: str = Field(description="of the column")
    hook: str = Field(description="its hook point")
    digest: str = Field("", description="of what is read and how it is pooled, which the verdict holds for")
    outcome: Outcome = Field(description="kept, realigned or refused")
    reason: str = Field(description="why it is refused; empty elsewhere")
    threshold: float = Field(description="that agreement was measured at")
    is_own_threshold: bool = Field(description="whether it is the watch list's; else a quantile")
    num_above: int = Field(ge=0, description="judged texts above it in the old version")
    as_is: Likeness = Field(description="old and new values, as the columns are")
    realigned: Likeness = Field(description="after the map")


class Maps(Settings):
    """What an artifact says: the content of ``verdicts.json``."""

    subject: str = Field(description="the new version, for people")
    subject_digest: str = Field(description="of its content")
    num_judged: int = Field(ge=0, description="texts that columns were judged on")
    verdicts: tuple[Verdict, ...] = Field(description="of each column")
    maps: dict[str, dict[str, float | str]] = Field(description="by hook point: kind of map, and what it leaves over")


@dataclass(frozen=True, eq=False)
class Realignment:
    """An artifact of kind ``realignment``, opened.

    Attributes:
        found: verdicts and figures.
        maps: by hook point.
    """

    found: Maps
    maps: Mapping[str, Realigned]

    def named(self, outcome: Outcome) -> tuple[str, ...]:
        """Names of the columns of an outcome."""
        return tuple(one.name for one in self.found.verdicts if one.outcome == outcome)


def open_realignment(artifact: Artifact) -> Realignment:
    """Verdicts and maps of an artifact.

    Raises:
        DamagedArtifact: its files do not belong together.
    """
    from safetensors.numpy import load_file

    try:
        found = Maps.model_validate_json(artifact.file(VERDICTS_NAME).read_bytes())
        arrays = load_file(artifact.file(MAPS_NAME))
        maps = {
            hook: Realigned(
                str(about["kind"]),
                arrays[f"{hook}.weight"],
                arrays[f"{hook}.shift"],
                float(about["unexplained"]),
                float(about["unexplained_as_is"]),
            )
            for hook, about in found.maps.items()
        }
    except (ValidationError, KeyError, ValueError) as error:
        message = f"{artifact.uri} is damaged: {error}"
        raise DamagedArtifact(message) from error
    return Realignment(found, maps)


def check_none_refused(realignment: Realignment) -> None:
    """Refuse a watch list of which columns were refused.

    Raises:
        GateFailed: some were; the message names them.
    """
    refused = [one for one in realignment.found.verdicts if one.outcome == "refused"]
    if refused:
        shown = "; ".join(f"{one.name}: {one.reason}" for one in refused[:20])
        more = f"; and {len(refused) - 20:,} more" if len(refused) > 20 else ""
        message = (
            f"{len(refused):,} of {len(realignment.found.verdicts):,} columns do not see in the new version what they "
            f"saw: {shown}{more}. Take them off the watch list, or make them anew."
        )
        raise GateFailed(message)
