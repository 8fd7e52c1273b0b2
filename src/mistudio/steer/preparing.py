"""Requests made ready for the engine: checked, tokenised, their edits compiled; on any thread, and without a pass."""

from collections.abc import Callable
from threading import Lock

from pydantic import ValidationError

from mistudio.errors import InputError, NotFound
from mistudio.instrument.compiled import CompiledEdits, Nameable, compile_edits
from mistudio.instrument.edits import Edit, Edits, Schedule
from mistudio.instrument.prompts import PromptReader
from mistudio.instrument.where import PromptTokens
from mistudio.plain_text import shortened
from mistudio.settings import refused
from mistudio.steer.bounds import canonical_in, check
from mistudio.steer.config import ServiceConfig
from mistudio.steer.preset_use import NamedEdits
from mistudio.steer.requests import GenerationRequest, Steering
from mistudio.steer.tickets import Prepared

_KEPT_EDITS = 512


class Preparer:
    """Gets requests ready.

    Args:
        nameable: what edits can name.
        reader: makes prompts.
        config: what requests may ask for.
        max_tokens: of a prompt and its answer.
        presets: finds the edits of a preset by its name; None: there are none.

    Raises:
        NotFound: the limits name an autoencoder that is not served, so that they would hold nobody to anything.
    """

    def __init__(
        self,
        nameable: Nameable,
        reader: PromptReader,
        config: ServiceConfig,
        max_tokens: int,
        presets: Callable[[str], NamedEdits] | None = None,
    ) -> None:
        self._nameable, self._reader, self._config, self._presets = nameable, reader, config, presets
        self._max_tokens = max_tokens
        for name in (*config.limits.deny, *(config.limits.allow or ())):
            nameable.number(name)
        self._compiled: dict[tuple[str, ...], CompiledEdits] = {}
        self._lock = Lock()  # several threads prepare

    def prepare(self, request: GenerationRequest) -> Prepared:
        """Check a request, and get ready all that it needs.

        Raises:
            InputError: it cannot be done as asked; the message names the field.
            NotFound: a feature, autoencoder, direction or preset is not there.
        """
        prompt = self._prompt(request)
        limit = request.max_tokens or max(min(self._config.default_tokens, self._max_tokens - prompt.length), 1)
        changes, watched, warnings = Edits(), tuple[tuple[int, int], ...](), tuple[str, ...]()
        if request.steering is not None:
            preset = self._preset(request.steering)
            changes = self._changes(request.steering, preset)
            warnings = (*_warnings(request.steering, preset), *_prompt_warnings(request, prompt))
            watched = tuple(self._latent(one.autoencoder, one.feature) for one in request.steering.watch)
            if request.steering.compare and request.n > 1:
                message = "steering.compare: two answers are compared: leave out n."
                raise InputError(message)
        prepared = Prepared(request, prompt, limit, self._compile(changes), watched, changes, warnings)
        if prepared.rows > self._config.rows:
            message = f"n: {request.n} answers at once are asked for, and this server generates {self._config.rows}."
            raise InputError(message)
        self._check_bias(request)
        return prepared

    def _prompt(self, request: GenerationRequest) -> PromptTokens:
        if request.messages is not None:
            return self._reader.chat(request.messages)
        if isinstance(request.prompt, str):
            return self._reader.text(request.prompt)
        return self._reader.ids(request.prompt or ())

    def _preset(self, steering: Steering) -> NamedEdits | None:
        if steering.preset is None:
            return None
        if self._presets is None:
            message = f"steering.preset: there is no preset {shortened(steering.preset)} here."
            raise NotFound(message)
        return self._presets(steering.preset)

    def _changes(self, steering: Steering, preset: NamedEdits | None) -> Edits:
        """All that a request does to the model, its preset's edits included, within what it may."""
        own = Edits(edits=steering.edits, stop_when=steering.stop_when)
        added = _times(preset.edits, steering.preset_strength) if preset is not None else None
        check(own, self._config.limits, canonical_in(self._nameable), preset=added, direction=self._digest)
        if added is None:
            return own
        try:
            return Edits(edits=(*own.edits, *added.edits), stop_when=(*own.stop_when, *added.stop_when))
        except ValidationError as error:
            message = f"steering: with what the preset holds, {refused(error)}"
            raise InputError(message) from error

    def _digest(self, direction: str) -> str:
        return self._nameable.direction(direction).digest

    def _compile(self, edits: Edits) -> CompiledEdits | None:
        """Edits for the model; equal ones are made once, as long as the directions that they name are the same."""
        if not edits:
            return None
        nameable = self._nameable.holding(edits)
        named = [getattr(edit, "direction", None) for edit in edits.edits]
        key = (edits.model_dump_json(), *(nameable.direction(name).digest for name in named if name is not None))
        with self._lock:
            compiled = self._compiled.get(key)
            if compiled is None:
                compiled = compile_edits(edits, nameable)
                if len(self._compiled) >= _KEPT_EDITS:
                    self._compiled.pop(next(iter(self._compiled)))
                self._compiled[key] = compiled
        return compiled

    def _latent(self, autoencoder: str | None, feature: int) -> tuple[int, int]:
        number = self._nameable.number(autoencoder)
        return number, self._nameable.latent(number, feature)

    def _check_bias(self, request: GenerationRequest) -> None:
        vocabulary = self._nameable.session.subject.vocab_size
        wrong = next((token for token in request.sampling.logit_bias if not 0 <= token < vocabulary), None)
        if wrong is not None:
            message = f"logit_bias: there is no token {wrong}; the model knows {vocabulary:,}, numbered from 0."
            raise InputError(message)


def _times(edits: Edits, factor: float) -> Edits:
    """Edits with a factor on all that they change."""
    if factor == 1.0:
        return edits

    def scheduled(edit: Edit) -> Edit:
        old = edit.schedule or Schedule()
        try:
            new = Schedule(start=old.start * factor, end=old.end * factor, steps=old.steps)
        except ValidationError as error:
            message = f"steering.preset_strength: by {factor:g} the preset's schedule is too steep: {refused(error)}"
            raise InputError(message) from error
        return edit.model_copy(update={"schedule": new})

    return Edits(edits=tuple(map(scheduled, edits.edits)), stop_when=edits.stop_when)


def _warnings(steering: Steering, preset: NamedEdits | None) -> tuple[str, ...]:
    """What is doubtful about a preset as it is used."""
    if preset is None or preset.ship_range is None:
        return ()
    low, high = preset.ship_range
    if low <= steering.preset_strength <= high:
        return ()
    return (
        f"steering.preset_strength {steering.preset_strength:g} is outside {low:g} to {high:g}, where text under the "
        f"preset {shortened(str(steering.preset))} was found to stay coherent.",
    )


def _prompt_warnings(request: GenerationRequest, prompt: PromptTokens) -> tuple[str, ...]:
    """What is doubtful about a chat whose template does not show whose words are whose."""
    if (
        request.messages is None
        or not prompt.exempt_P.all()
        or not any(one.content.strip() for one in request.messages)
    ):
        return ()
    return (
        "messages: the chat template changes what they say, so that all tokens of the prompt count as the template's: "
        "edits leave them alone unless where.specials says otherwise.",
    )
