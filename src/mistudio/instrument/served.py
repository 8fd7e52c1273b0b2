"""From a store to what services share: a model, its autoencoders, and what was found of their features."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from mistudio.artifacts import Artifact, Catalog, Line, Store, open_artifact
from mistudio.artifacts.line import LINE_STARTS
from mistudio.errors import InputError, MistudioError, NotFound
from mistudio.features import FeatureSet
from mistudio.instrument.session import Session, open_session
from mistudio.subject import SubjectConfig, SubjectSource


@dataclass(eq=False)
class ServedFeatures:
    """An autoencoder that is served, and what was found of its features.

    Attributes:
        name: what requests may call it.
        line: from its newest scores, explanations or features back to the model.
    """

    name: str
    line: Line

    @cached_property
    def features(self) -> FeatureSet | None:
        """What was found; None where nothing was looked for."""
        found = self.line.features
        if found is None:
            return None
        return FeatureSet(found, self.line.explanations, self.line.scores)

    def maximum(self, feature: int) -> float | None:
        """The largest activation of a feature that was found."""
        return None if self.features is None else self.features.maximum(feature)

    def label(self, feature: int) -> str | None:
        """What was said of a feature."""
        return None if self.features is None else self.features.label(feature)


@dataclass(eq=False)
class Served:
    """A loaded model with all that can be asked of it; close it, or use it in a ``with`` block.

    Attributes:
        session: the model and its autoencoders.
        features: of each autoencoder, in their order.
        name: of the model.
        store: where they came from.
    """

    session: Session
    features: tuple[ServedFeatures, ...]
    name: str
    store: Store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model."""
        self.session.close()


def open_served(
    store: Store,
    lines: Sequence[str] = (),
    source: SubjectSource | None = None,
    config: SubjectConfig | None = None,
    versions: Collection[str] = (),
) -> Served:
    """Load what is to be served.

    Args:
        store: may be read only.
        lines: artifacts of kind scores, explanations, features or sae, of one model; none: the newest line.
        source: the model, where it is not found as the captures name it.
        config: how to load it; None: as it was captured.
        versions: digests of models that ``source`` may be in place of the one that was captured.

    Raises:
        NotFound: the store has no such artifact, or nothing to serve.
        InputError: an artifact is of another kind, or they are of different models.
        SubjectError: the model cannot be loaded.
    """
    chosen = [_line(store, uri) for uri in lines] if lines else [_newest(store)]
    saes = [line.sae for line in chosen]
    session = open_session(saes, source, config, versions)
    served = tuple(ServedFeatures(_name(line, chosen), line) for line in chosen)
    name = session.source.name if session.source is not None else "model"
    return Served(session, served, name, store)


def _newest(store: Store) -> Line:
    with Catalog(store) as catalog:
        try:
            return catalog.newest_line()
        except NotFound as error:
            message = f"There is nothing to serve in {store.url}: no autoencoder was trained there. {error}"
            raise NotFound(message) from error


def _line(store: Store, uri: str) -> Line:
    artifact: Artifact = open_artifact(store, uri)
    kind = artifact.manifest.kind.removeprefix("mistudio.").split("/")[0]
    if kind not in LINE_STARTS:
        message = f"{uri} is of kind {kind}: name one of kind {', '.join(LINE_STARTS)}."
        raise InputError(message)
    return Line(store, artifact)


def _name(line: Line, lines: Sequence[Line]) -> str:
    """The autoencoder's hook point, where that tells it from the others; otherwise its URI."""
    from mistudio.sae import hook_of

    try:
        hooks = [hook_of(one.sae) for one in lines]
    except MistudioError:
        return line.sae.uri
    hook = hook_of(line.sae)
    return hook if hooks.count(hook) == 1 else line.sae.uri
