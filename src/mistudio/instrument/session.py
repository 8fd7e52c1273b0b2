"""A session: a language model with autoencoders at their hook points, loaded once and kept until its owner closes it.

::

    with open_session(sae) as session:
        for reading in session.read(["The cat sat on the mat."], latents=[5, 17]):
            print(reading.tokens.strings, reading.value_TL)

Several threads may read from one session.

Shape legend: T tokens, D width of a hook point, L chosen latents.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch

from mistudio.activations import captured_config, captured_source
from mistudio.artifacts import Artifact, open_input
from mistudio.errors import ConfigError, NotFound, SubjectError
from mistudio.instrument.readings import (
    ActivationReading,
    ActiveReading,
    ChosenReading,
    read_activations,
    read_active,
    read_chosen,
)
from mistudio.instrument.texts import Text
from mistudio.sae import SparseAutoencoder, hook_of, load_autoencoder, target_hook_of
from mistudio.subject import (
    HookPoint,
    ResolvedHook,
    Subject,
    SubjectConfig,
    SubjectSource,
    load_subject,
    resolve_hooks,
)


class Ends(NamedTuple):
    """Where an autoencoder reads, and where its reconstruction belongs: one place, or two for a transcoder."""

    read: ResolvedHook
    write: ResolvedHook

    @property
    def hooks(self) -> list[str]:
        """Names of the hook points: one, or two for a transcoder."""
        return list(dict.fromkeys(str(end.point) for end in self))


@dataclass(frozen=True, eq=False)
class PlacedAutoencoder:
    """An autoencoder at its hook points in a loaded model.

    Attributes:
        sae: the autoencoder, on the model's device.
        ends: its hook points.
        uri: of its artifact.
        digest: of its artifact.
    """

    sae: SparseAutoencoder
    ends: Ends
    uri: str
    digest: str


class Session:
    """A loaded model and the autoencoders placed in it; close it, or use it in a ``with`` block.

    Args:
        subject: the model.
        autoencoders: in the order in which they are asked for by number.
        source: where the model comes from, which names its content.
    """

    def __init__(
        self, subject: Subject, autoencoders: Sequence[PlacedAutoencoder] = (), source: SubjectSource | None = None
    ) -> None:
        self.source = source
        self._subject: Subject | None = subject
        self._autoencoders = tuple(autoencoders)

    @property
    def subject(self) -> Subject:
        """The model.

        Raises:
            SubjectError: the session is closed.
        """
        if self._subject is None:
            message = "This session is closed: its model is gone. Open another one."
            raise SubjectError(message)
        return self._subject

    @property
    def autoencoders(self) -> tuple[PlacedAutoencoder, ...]:
        """What is placed in the model; none once the session is closed."""
        return self._autoencoders

    @property
    def digests(self) -> dict[str, str]:
        """Digests by URI of all that was loaded."""
        placed = {one.uri: one.digest for one in self._autoencoders}
        return placed if self.source is None else {self.source.uri: self.source.digest, **placed}

    def placed(self, number: int = 0) -> PlacedAutoencoder:
        """One of the autoencoders.

        Raises:
            ConfigError: there is none of that number.
        """
        _ = self.subject  # refuses, where the session is closed
        if not 0 <= number < len(self._autoencoders):
            message = f"There is no autoencoder {number} in this session: it has {len(self._autoencoders)}."
            raise ConfigError(message)
        return self._autoencoders[number]

    def read(
        self, texts: Iterable[Text], latents: Sequence[int], *, autoencoder: int = 0, context_length: int | None = None
    ) -> Iterator[ChosenReading]:
        """The values [T, L] of chosen latents on every token of texts or chats, which may come without end.

        Args:
            texts: plain texts, or chats.
            latents: which.
            autoencoder: whose, by number.
            context_length: texts with more tokens are read in pieces; special tokens count. None: what the model takes.

        Raises:
            ConfigError: there is no such autoencoder.
            InputError: there is no such latent.
            SubjectError: the tokenizer's template cannot be understood, or has none for chats.
        """
        placed = self.placed(autoencoder)
        return read_chosen(self.subject, placed.ends.read, placed.sae, texts, latents, context_length)

    def active(
        self, texts: Iterable[Text], *, autoencoder: int = 0, context_length: int | None = None
    ) -> Iterator[ActiveReading]:
        """All latents that are active on the tokens of texts or chats; arguments and errors as :meth:`read`."""
        placed = self.placed(autoencoder)
        return read_active(self.subject, placed.ends.read, placed.sae, texts, context_length)

    def activations(
        self, texts: Iterable[Text], hooks: Sequence[str], *, context_length: int | None = None
    ) -> Iterator[ActivationReading]:
        """Activations [T, D] at hook points on the tokens of texts or chats.

        Raises:
            ConfigError: what is given is no hook point.
            SubjectError: the model has none of these, or the tokenizer's template cannot be understood.
        """
        resolved = resolve_hooks(self.subject, [HookPoint.parse(hook) for hook in hooks])
        return read_activations(self.subject, resolved, texts, context_length)

    def close(self) -> None:
        """Let go of everything that was loaded; whoever took a part of it keeps that part."""
        on_gpu = self._subject is not None and self._subject.device.type == "cuda"
        self._subject, self._autoencoders = None, ()
        if on_gpu:
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def open_session(
    saes: Artifact | Sequence[Artifact] = (),
    source: SubjectSource | None = None,
    config: SubjectConfig | None = None,
    versions: Collection[str] = (),
) -> Session:
    """Load a model and autoencoders of it.

    Args:
        saes: artifacts of kind ``sae``.
        source: the model; by default that which they were trained on, found where its capture says.
        config: how to load it; by default in the number format and quantisation of that capture.
        versions: digests of models that ``source`` may be in place of that which they were trained on.

    Raises:
        ConfigError: neither an autoencoder nor a model is given.
        InputError: an autoencoder is of another model, or the model is not to be found.
        SubjectError: the model cannot be loaded.
        DamagedArtifact: a file differs from what was published.
    """
    artifacts = [saes] if isinstance(saes, Artifact) else list(saes)
    captures = [capture for capture in map(_capture_of, artifacts) if capture is not None]
    for capture in captures:
        if source is None or source.digest not in versions:
            source = captured_source(capture.store, capture, source)
    if source is None:
        message = "There is no autoencoder whose capture names its model: give the model."
        raise ConfigError(message)
    if config is None:
        config = captured_config(captures[0]) if captures else SubjectConfig()
    subject = load_subject(source, config)
    return Session(subject, [place_autoencoder(subject, artifact) for artifact in artifacts], source)


def place_autoencoder(subject: Subject, artifact: Artifact) -> PlacedAutoencoder:
    """Load an artifact of kind ``sae`` onto the device of a model, and find its hook points there.

    Raises:
        SubjectError: the model has no such hook points, or other widths there.
        DamagedArtifact: a file differs from what was published.
    """
    hook = hook_of(artifact)
    ends = Ends(*resolve_hooks(subject, [HookPoint.parse(name) for name in (hook, target_hook_of(artifact) or hook)]))
    sae = load_autoencoder(artifact, subject.device)
    for end, width in zip(ends, (sae.d_in, sae.d_out), strict=True):
        if end.width != width:
            message = (
                f"{artifact.uri} is for activations of {width} components, and those at {end.point} have {end.width}: "
                "it is not of this model."
            )
            raise SubjectError(message)
    return PlacedAutoencoder(sae, ends, artifact.uri, artifact.digest)


def _capture_of(sae: Artifact) -> Artifact | None:
    """The activations that an autoencoder was trained on; None where it has none, or where the store has not got them.

    Whoever serves an autoencoder needs its weights alone. Nor do activations help that name no model.
    """
    ref = sae.manifest.inputs.get("activations")
    try:
        capture = None if ref is None else open_input(sae.store, ref, "activations")
    except NotFound:
        return None
    return capture if capture is not None and "subject" in capture.manifest.inputs else None
