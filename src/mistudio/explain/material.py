"""What explaining and scoring both start from: the artifacts behind found features, and tokens with their firings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, InputRef, Line, Store
from mistudio.corpus.reader import Split, TokenCorpus
from mistudio.errors import InputError
from mistudio.evaluate import check_subject, numerics
from mistudio.explain.firings import Firings, captured_sequences, read_firings
from mistudio.explain.tokens import Tokens, draw_sequences, read_tokens
from mistudio.features import FeatureSet
from mistudio.subject import SubjectConfig, SubjectSource, load_tokenizer, pick_device, token_strings

if TYPE_CHECKING:
    from torch import Tensor

    from mistudio.activations import RowSource


@dataclass(frozen=True)
class Material:
    """Found features, and what they were found in.

    Attributes:
        store: holds the artifacts.
        features: artifact of kind ``features``.
        sae: their autoencoder.
        activations: what it was trained on.
        corpus: the text behind those.
        source: the model, whose tokenizer is needed; whose weights are, where activations come live.
        subject_config: how to load it.
    """

    store: Store
    features: Artifact
    sae: Artifact
    activations: Artifact
    corpus: Artifact
    source: SubjectSource
    subject_config: SubjectConfig

    @property
    def num_features(self) -> int:
        """Features there are."""
        return self.found.num_features

    @cached_property
    def found(self) -> FeatureSet:
        """The features to be read."""
        return FeatureSet(self.features)

    def subject_recipe(self) -> tuple[InputRef, dict[str, str]]:
        """What stands in the recipe of that which runs the model: the model, and its number formats.

        Raises:
            InputError: it is not the model that was captured.
        """
        check_subject(self.activations, self.source)
        return InputRef(uri=self.source.uri, digest=self.source.digest), numerics(self.subject_config)

    def strings(self) -> list[str]:
        """How each token id reads."""
        return token_strings(load_tokenizer(self.source, self.subject_config.trust_remote_code))

    def maxima(self) -> NDArray[np.float32]:
        """The largest activation of each feature on all training documents [F]."""
        maxima: NDArray[np.float32] = self.found.column("max").to_numpy()
        return maxima

    def read(self, split: Split, max_tokens: int, seed: int, strings: Sequence[str]) -> tuple[Tokens, Firings]:
        """Tokens of documents of one split drawn at random, about so many, and where features fire on them.

        Raises:
            CorpusError: no whole document of the split has activations.
            InputError: training activations are not stored, and the model is not that which was captured.
        """
        from mistudio.activations import open_rows
        from mistudio.sae import hook_of, load_autoencoder

        device = pick_device(self.subject_config.device)
        corpus = TokenCorpus(self.corpus)
        live = split == "train" and self.activations.manifest.config.get("stored", "all") != "all"
        with open_rows(
            self.store,
            self.activations,
            hook_of(self.sae),
            split=split,
            source=self.source if live else None,
            subject_config=self.subject_config,
        ) as opened:
            source = cast("RowSource[Tensor]", opened)
            sequences = draw_sequences(corpus, split, captured_sequences(source), max_tokens, seed)
            tokens = read_tokens(corpus, split, sequences, strings)
            return tokens, read_firings(source, load_autoencoder(self.sae, device), tokens, device)


def open_material(
    store: Store, features: Artifact, source: SubjectSource, subject_config: SubjectConfig | None = None
) -> Material:
    """Open what ``features`` were found in.

    Raises:
        InputError: the tokens of the corpus are not those of the model's tokenizer.
        DamagedArtifact: an artifact is not what it was.
    """
    line = Line(store, features)
    sae, activations, corpus = line.sae, line.activations, line.corpus
    used = corpus.manifest.inputs["tokenizer"]
    if used.digest != source.tokenizer_digest:
        message = (
            f"{sae.uri} was trained on activations of {line.subject.uri}, whose tokenizer "
            f"({used.digest[:12]}) is not that of {source.uri} ({source.tokenizer_digest[:12]}): its features would be "
            "shown with the wrong tokens. Give the model that the activations come from."
        )
        raise InputError(message)
    return Material(store, features, sae, activations, corpus, source, subject_config or SubjectConfig())
