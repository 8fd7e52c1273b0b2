"""One autoencoder that is looked up in, with what is known of its features; parts are made when first asked for.

Shape legend: F features.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from mistudio.artifacts import Artifact, Catalog
from mistudio.correlate.background import Background
from mistudio.correlate.concepts.embedders import Embedder
from mistudio.correlate.concepts.search import ConceptSearch
from mistudio.correlate.concepts.text_index import TEXTS_NAME
from mistudio.correlate.index.decoder_rows import mapped_decoder, mapped_encoder
from mistudio.correlate.index.directions_index import KIND as INDEX_KIND
from mistudio.correlate.index.directions_index import DirectionIndex, ExactIndex, open_index
from mistudio.correlate.pages import Pages
from mistudio.correlate.token_tables import TokenTables
from mistudio.errors import InputError
from mistudio.features import FeatureSet

if TYPE_CHECKING:
    from mistudio.instrument.served import ServedFeatures
    from mistudio.instrument.session import PlacedAutoencoder

Made = TypeVar("Made")

_LOOK_AGAIN_S = 60.0  # after which the store is asked anew for what may have been published


@dataclass
class _Part:
    """What is made once, by the first thread that asks; the others wait for it."""

    lock: Lock = field(default_factory=Lock)
    made: Any = None
    is_made: bool = False
    until: float = 0.0


class Dictionary:
    """An autoencoder that is served, for look-ups. Any number of threads may use it.

    Args:
        placed: the autoencoder, at its hook points.
        served: what was found of its features.
        embedder: of concepts; None: they are searched by words.
        concepts_folder: where the concept search keeps its files; None: in the private folder of this machine.
    """

    def __init__(
        self,
        placed: "PlacedAutoencoder",
        served: "ServedFeatures",
        embedder: Embedder | None = None,
        concepts_folder: Path | None = None,
    ) -> None:
        self.placed, self.served, self.name = placed, served, served.name
        self._embedder, self._concepts_folder = embedder, concepts_folder
        self._parts: dict[str, _Part] = {}
        self._lock = Lock()

    @property
    def features(self) -> FeatureSet | None:
        """What was found of the features; None where nothing was looked for."""
        return self._once("features", lambda: self.served.features)

    def known(self, what: str) -> FeatureSet:
        """What was found of the features, where it is needed.

        Raises:
            InputError: nothing was looked for.
        """
        features = self.features
        if features is None:
            message = (
                f"{what}: nothing is known of the features of {self.name} ({self.placed.uri}): run mistudio find, or "
                "serve a line that has its features."
            )
            raise InputError(message)
        return features

    @property
    def is_explained(self) -> bool:
        """Whether anything was said of the features."""
        return self.features is not None and self.features.explained is not None

    def background(self, what: str) -> Background:
        """What features do on the training tokens.

        Raises:
            InputError: nothing was looked for.
        """
        features = self.known(what)
        return self._once("background", lambda: Background(features))

    def token_tables(self, what: str) -> TokenTables:
        """Which features go with which tokens.

        Raises:
            InputError: nothing was looked for.
        """
        features = self.known(what)
        return self._once("token_tables", lambda: TokenTables(features.artifact))

    def concepts(self, what: str) -> ConceptSearch:
        """What searches the explanations.

        Raises:
            InputError: there are none.
        """
        features = self.known(what)
        if features.explained is None:
            message = f"{what}: nothing was said of the features of {self.name} yet: run mistudio explain."
            raise InputError(message)
        return self._once(
            "concepts", lambda: ConceptSearch(features, self._concepts_folder, self._embedder, self._texts())
        )

    def decoder(self) -> tuple[DirectionIndex, str | None]:
        """What finds decoder directions, and the artifact of the index; None: all are compared.

        The newest index of this autoencoder in the store is taken; one that is published later is found too.
        """
        found = self._fresh("index", lambda: self._newest_from(self.served.line.sae, INDEX_KIND))
        if found is None:
            return self._once("decoder", lambda: ExactIndex(mapped_decoder(self.served.line.sae))), None
        return self._once(f"index {found.digest}", lambda: open_index(found)), found.uri

    def _texts(self) -> Path | None:
        """The index of the explanations' words, where the newest index of this autoencoder has it."""
        explanations = self.served.line.explanations
        found = self._newest_from(self.served.line.sae, INDEX_KIND)
        if found is None or explanations is None or TEXTS_NAME not in found.paths():
            return None
        is_of_these = found.manifest.inputs["explanations"].digest == explanations.digest
        return found.file(TEXTS_NAME) if is_of_these else None

    def encoder(self) -> DirectionIndex:
        """What compares a vector with all encoder directions."""
        return self._once("encoder", lambda: ExactIndex(mapped_encoder(self.served.line.sae)))

    def page(self, feature: int) -> str | None:
        """Where the store has the page of a feature; None where it has none."""
        features = self.features
        if features is None:
            return None
        report = self._fresh("report", lambda: self._newest_from(features.artifact, "report"))
        return None if report is None else self._once(f"report {report.digest}", lambda: Pages(report)).of(feature)

    def _newest_from(self, artifact: Artifact, kind: str) -> Artifact | None:
        with Catalog(self.served.line.store) as catalog:
            return catalog.newest_from(artifact, kind)

    def _once(self, name: str, make: Callable[[], Made]) -> Made:
        part = self._part(name)
        with part.lock:
            if not part.is_made:
                part.made, part.is_made = make(), True
            made: Made = part.made
            return made

    def _fresh(self, name: str, make: Callable[[], Made]) -> Made:
        """As ``_once``, made anew after a while."""
        part = self._part(name)
        with part.lock:
            if time.monotonic() >= part.until:
                part.made = make()
                part.until = time.monotonic() + _LOOK_AGAIN_S
            made: Made = part.made
            return made

    def _part(self, name: str) -> _Part:
        with self._lock:
            return self._parts.setdefault(name, _Part())
