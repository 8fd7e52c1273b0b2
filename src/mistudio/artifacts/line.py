"""The line that an artifact stands on: from scores back to the text and the model, each opened when it is asked for."""

from mistudio.artifacts.artifact import Artifact, open_input
from mistudio.artifacts.manifest import InputRef
from mistudio.artifacts.store import Store
from mistudio.errors import InputError

# From scores back to the corpus, each artifact names the next among its inputs.
LINE_KINDS = ("scores", "explanations", "features", "sae", "activations", "corpus")
LINE_STARTS = LINE_KINDS[:4]  # what a line is made for


class Line:
    """What an artifact was made from, by kind. Evaluations and the like stand beside the line, and lead to it.

    Args:
        store: holds everything.
        artifact: where the line starts; what would come before it there (such as scores of features) is None.
    """

    def __init__(self, store: Store, artifact: Artifact) -> None:
        self.store, self.artifact = store, artifact
        self._opened: dict[str, Artifact] = {}

    @property
    def scores(self) -> Artifact | None:
        """How well the explanations predict, where the line starts there."""
        return self.find("scores")

    @property
    def explanations(self) -> Artifact | None:
        """What is said of the features, where the line starts there or behind."""
        return self.find("explanations")

    @property
    def features(self) -> Artifact | None:
        """What was found, where the line starts there or behind."""
        return self.find("features")

    @property
    def sae(self) -> Artifact:
        """The autoencoder.

        Raises:
            InputError: the line starts before it.
        """
        return self.required("sae")

    @property
    def activations(self) -> Artifact:
        """What the autoencoder was trained on.

        Raises:
            InputError: the line starts before it.
        """
        return self.required("activations")

    @property
    def corpus(self) -> Artifact:
        """The text.

        Raises:
            InputError: the line has none.
        """
        return self.required("corpus")

    @property
    def subject(self) -> InputRef:
        """The language model, as the activations name it: it may lie outside the store."""
        return self.activations.manifest.inputs["subject"]

    def find(self, kind: str) -> Artifact | None:
        """The artifact of a kind of ``LINE_KINDS``; None where the line does not reach it.

        Raises:
            NotFound: it, or one on the way to it, is no longer in the store.
            DamagedArtifact: one of them is another by now.
        """
        at = self.artifact
        for role in LINE_KINDS[: LINE_KINDS.index(kind) + 1]:
            ref = at.manifest.inputs.get(role)
            if ref is not None:
                at = self._opened[role] = self._opened.get(role) or open_input(self.store, ref, role)
        return at if at.manifest.short_kind == kind else None

    def required(self, kind: str) -> Artifact:
        """As :meth:`find`, where the line has to reach that kind.

        Raises:
            InputError: it does not.
        """
        found = self.find(kind)
        if found is None:
            message = f"{self.artifact.uri} ({self.artifact.manifest.kind}) was not made from anything of kind {kind}."
            raise InputError(message)
        return found
