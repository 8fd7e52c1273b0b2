"""Presets: edits under a name, with all that they mean something with.

A preset states of each edit the hook point, the operation and the unit, and of every autoencoder and direction that it
names the digest; and of which model. An edit without these does something else than was meant, or nothing, on another
model: a preset that lacks one is refused, and so is one whose autoencoder or direction is not the very one that is
loaded. The file is JSON::

    {"name": "calm", "author": "me", "notes": "...", "subject": "<digest>",
     "autoencoders": {"sae/0123456789abcdef": "<digest>"}, "directions": {},
     "edits": [{"hook": "resid_post.3", "op": "add", "feature": 12, "autoencoder": "sae/0123456789abcdef",
                "strength": 4.0, "unit": "feature_max", "where": "generated"}],
     "stop_when": [], "ship_range": [0.5, 1.5], "evaluation": null}

Each edit is as in a request, with its hook point.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_serializer, model_validator

from mistudio.directions.artifact import Digest
from mistudio.errors import ConfigError
from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.instrument.edits import Edit, Edits, When
from mistudio.plain_text import shortened
from mistudio.settings import Settings
from mistudio.subject.points import KINDS

HookName = Annotated[str, Field(pattern=rf"^(?:{'|'.join(KINDS)})\.\d+$", description="for example resid_post.3")]
Named = Annotated[str, Field(min_length=1, max_length=200)]


class PresetEdit(Settings):
    """An edit, and the hook point at which it acts; in JSON side by side."""

    hook: HookName
    edit: Edit

    @model_validator(mode="before")
    @classmethod
    def _from_side_by_side(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "edit" in value:
            return value
        edit = {name: part for name, part in value.items() if name != "hook"}
        return {**({"hook": value["hook"]} if "hook" in value else {}), "edit": edit}

    @model_serializer
    def _side_by_side(self) -> dict[str, Any]:
        return {"hook": self.hook, **self.edit.model_dump(mode="json")}


class PresetEvaluation(Settings):
    """What was measured of a preset."""

    digest: Digest = Field(description="of the artifact that has it")
    figures: Mapping[str, float] = Field(default={}, description="the main ones, by name")


class Preset(Settings):
    """Edits under a name, with all that they mean something with."""

    name: Named = Field(description="what requests call it")
    author: Named = Field(description="who made it")
    notes: str = Field("", max_length=10_000, description="what it is for, and what it does beside")
    subject: Digest = Field(description="of the model's content")
    autoencoders: Mapping[str, Digest] = Field(default={}, description="digests, by what edits call them")
    directions: Mapping[str, Digest] = Field(default={}, description="digests, by what edits call them")
    placed: tuple[PresetEdit, ...] = Field(alias="edits", max_length=256, description="edits, each with its hook point")
    stop_when: tuple[When, ...] = Field((), max_length=64, description="features that end the answer when they fire")
    ship_range: tuple[float, float] | None = Field(
        None, description="factors on all strengths between which text stays coherent, as was measured"
    )
    evaluation: PresetEvaluation | None = Field(None, description="what was measured; None: nothing yet")

    @property
    def edits(self) -> Edits:
        """What it does, as a request would ask for it."""
        return Edits(edits=tuple(each.edit for each in self.placed), stop_when=self.stop_when)

    @model_validator(mode="after")
    def _all_is_stated(self) -> "Preset":
        if not self.placed:
            _refuse("edits: there are none")
        for number, placed in enumerate(self.placed):
            edit, where = placed.edit, f"edits[{number}]"
            if "unit" in type(edit).model_fields and "unit" not in edit.model_fields_set:
                _refuse(f"{where}.unit: state it; a preset takes nothing for granted")
            if edit.latents:
                self._check_stated("autoencoder", edit.autoencoder, where)
            else:
                self._check_stated("direction", getattr(edit, "direction", None), where)
            if edit.when is not None:
                self._check_stated("autoencoder", edit.when.autoencoder, f"{where}.when")
        for number, when in enumerate(self.stop_when):
            self._check_stated("autoencoder", when.autoencoder, f"stop_when[{number}]")
        if self.ship_range is not None and not self.ship_range[0] < self.ship_range[1]:
            _refuse(f"ship_range: {list(self.ship_range)} is no range: give the lower factor first")
        return self

    def _check_stated(self, what: str, name: str | None, where: str) -> None:
        digests: Mapping[str, str] = getattr(self, f"{what}s")
        if name is None:
            _refuse(f"{where}.{what}: name it, and state its digest under {what}s")
        elif name not in digests:
            _refuse(f"{what}s: the digest of {shortened(name)} is missing, which {where} names")

    def content(self) -> dict[str, Any]:
        """What stands in its file."""
        return self.model_dump(mode="json", by_alias=True)


def read_preset(text: str | bytes, origin: str) -> Preset:
    """The preset of a file's text; see :func:`checked_preset`."""
    try:
        content = parse_json(text)
    except RefusedJSON as error:
        message = f"{origin} is no JSON: {error}."
        raise ConfigError(message) from error
    return checked_preset(content, origin)


def checked_preset(content: object, origin: str) -> Preset:
    """The preset of this content.

    Args:
        content: of a file.
        origin: where it is from, for messages.

    Raises:
        ConfigError: it is no preset, or lacks something; the message names the field.
    """
    try:
        return Preset.model_validate(content)
    except ValidationError as error:
        message = f"{origin}: {'; '.join(map(_reason, error.errors()))}."
        raise ConfigError(message) from error


def _refuse(message: str) -> None:
    raise ValueError(message)


def _reason(problem: Any) -> str:
    text = str(problem["msg"]).removeprefix("Value error, ")
    path = "".join(_path(problem["loc"]))
    if not path:
        return text
    given = "" if problem["type"] in ("missing", "value_error") else f", not {shortened(problem['input'])}"
    return f"{path}: {text[:1].lower()}{text[1:]}{given}"


def _path(parts: Sequence[int | str]) -> Iterator[str]:
    """The parts of a field's path, as JSON has it: without what an edit, or one of its fields, is read as."""
    for place, part in enumerate(parts):
        if isinstance(part, int):
            yield f"[{part}]"
        elif part != "edit" and not part.startswith("~") and (place == 0 or parts[place - 1] != "edit"):
            yield f".{part}" if place else part
