"""Requests made ready for the engine: checked, tokenised, their edits compiled; on any thread, and without a pass."""

from collections.abc import Callable

from mistudio.errors import InputError, NotFound
from mistudio.instrument.compiled import CompiledEdits, Nameable, compile_edits
from mistudio.instrument.edits import Edits
from mistudio.instrument.where import PromptTokens
from mistudio.plain_text import shortened
from mistudio.steer.bounds import check
from mistudio.steer.config import ServiceConfig
from mistudio.steer.prompts import PromptReader
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
    """

    def __init__(
        self,
        nameable: Nameable,
        reader: PromptReader,
        config: ServiceConfig,
        max_tokens: int,
        presets: Callable[[str], Edits] | None = None,
    ) -> None:
        self._nameable, self._reader, self._config, self._presets = nameable, reader, config, presets
        self._max_tokens = max_tokens
        self._compiled: dict[str, CompiledEdits] = {}

    def prepare(self, request: GenerationRequest) -> Prepared:
        """Check a request, and get ready all that it needs.

        Raises:
            InputError: it cannot be done as asked; the message names the field.
            NotFound: a feature, autoencoder, direction or preset is not there.
        """
        prompt = self._prompt(request)
        limit = request.max_tokens or max(min(self._config.default_tokens, self._max_tokens - prompt.length), 1)
        changes, watched = Edits(), tuple[tuple[int, int], ...]()
        if request.steering is not None:
            changes = self._changes(request.steering)
            watched = tuple(self._latent(one.autoencoder, one.feature) for one in request.steering.watch)
            if request.steering.compare and request.n > 1:
                message = "steering.compare: two answers are compared: leave out n."
                raise InputError(message)
        prepared = Prepared(request, prompt, limit, self._compile(changes), watched, changes)
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

    def _changes(self, steering: Steering) -> Edits:
        """All that a request does to the model, its preset's edits included, within what it may."""
        own, preset = Edits(edits=steering.edits, stop_when=steering.stop_when), None
        if steering.preset is not None:
            if self._presets is None:
                message = f"steering.preset: there is no preset {shortened(steering.preset)} here."
                raise NotFound(message)
            preset = self._presets(steering.preset)
        check(own, self._config.limits, self._canonical, preset=preset)
        if preset is None:
            return own
        return Edits(edits=(*own.edits, *preset.edits), stop_when=(*own.stop_when, *preset.stop_when))

    def _canonical(self, autoencoder: str | None) -> str:
        """The one name of an autoencoder."""
        return self._nameable.session.autoencoders[self._nameable.number(autoencoder)].uri

    def _compile(self, edits: Edits) -> CompiledEdits | None:
        """Edits for the model; equal ones are made once."""
        if not edits:
            return None
        key = edits.model_dump_json()
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = compile_edits(edits, self._nameable)
            if len(self._compiled) >= _KEPT_EDITS:
                self._compiled.pop(next(iter(self._compiled)), None)
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
