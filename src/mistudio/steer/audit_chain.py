"""What stands in the lines of an audit log.

How lines are chained is said in ``mistudio.artifacts.chain``.

Lines are numbered from 0. The first line of each file says that it begins; the others are interventions, or say that a
line that was only written in part was cut off.
"""

from typing import Literal

from pydantic import Field

from mistudio.instrument.edits import Edits
from mistudio.settings import Settings

VERSION = 1
BEGIN, INTERVENTION, RECOVERED = "begin", "intervention", "recovered"

Outcome = Literal["admitted", "stop", "length", "content_filter", "cancelled", "failed", "refused"]


class EditNote(Settings):
    """What an edit does, without where and when."""

    op: str
    autoencoder: str | None = None
    features: tuple[int, ...] = ()
    direction: str | None = None
    strength: float | None = Field(None, description="or value, or factor; in the unit")
    unit: str | None = None


class Intervention(Settings):
    """One request that changes what a model does, and what came of it; never its text."""

    request: str = Field(min_length=1, max_length=200, description="id of the request")
    key: str | None = Field(None, max_length=200, description="name of the key that it came with; None: without one")
    model: str = Field(max_length=500, description="name of the subject")
    preset: str | None = Field(None, max_length=200, description="name of the preset that it named")
    edits: tuple[EditNote, ...] = Field((), description="what it changes, the preset's edits included")
    stop_when: int = Field(0, ge=0, description="features that would end the answer")
    steering: str = Field(max_length=200, description="digest of what it changes")
    prompt: str = Field(max_length=200, description="keyed digest of the prompt")
    outcome: Outcome = Field(description="admitted: it begins; else what came of it")
    detail: str | None = Field(None, max_length=500, description="for example what ended it")


def notes_of(edits: Edits) -> tuple[EditNote, ...]:
    """What a request changes, as the log has it."""
    return tuple(
        EditNote(
            op=edit.op,
            autoencoder=edit.autoencoder,
            features=edit.latents,
            direction=getattr(edit, "direction", None),
            strength=next(
                (getattr(edit, name) for name in ("strength", "value", "factor") if hasattr(edit, name)), None
            ),
            unit=getattr(edit, "unit", None),
        )
        for edit in edits.edits
    )
