"""A labelled sample: one half says what to look for, the other trains the judge of what was written.

The judge is a linear probe on the mean activation of a text, read alone by the model as it is. Directions, prompts and
the choice of features come from the fitting half, which the judge has not seen; on that half its own figure is taken.

Shape legend: E examples, D width of the hook point, F features, K latents.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mistudio.corpus.tokens import TextEncoder
from mistudio.directions.examples import Example
from mistudio.directions.fit import split
from mistudio.errors import InputError
from mistudio.steer.evaluate.reading import Reader
from mistudio.steer.evaluate.windows import Ids

_MOST_TOKENS = 128  # of an example
_MAX_ITERATIONS = 2000


class LabelProbe:
    """Takes a text for positive or not.

    Args:
        reader: of the model as it is.
        acts_ED: mean activations of examples.
        is_E: which of them are positive.
        c: how little the probe is regularised.
    """

    def __init__(self, reader: Reader, acts_ED: NDArray[np.float32], is_E: NDArray[np.bool_], c: float = 0.01) -> None:
        self._reader = reader
        self._mean_D, self._std_D = acts_ED.mean(axis=0), acts_ED.std(axis=0).clip(min=1e-6)
        self._model = LogisticRegression(class_weight="balanced", C=c, max_iter=_MAX_ITERATIONS)
        self._model.fit(self._scaled(acts_ED), is_E)

    def __call__(self, texts: Sequence[Ids]) -> NDArray[np.bool_]:
        """Which texts are taken for positive [E]; an empty one is not."""
        filled = np.array([bool(text) for text in texts], dtype=np.bool_)
        return (self.scores(mean_activations(self._reader, texts)) > 0) & filled

    def scores(self, acts_ED: NDArray[np.float32]) -> NDArray[np.float64]:
        """How positive examples are [E], from 0 on those that are taken for it."""
        found: NDArray[np.float64] = self._model.decision_function(self._scaled(acts_ED))
        return found

    def _scaled(self, acts_ED: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled: NDArray[np.float32] = (acts_ED - self._mean_D) / self._std_D
        return scaled


class Labelled(NamedTuple):
    """What a labelled sample says.

    Attributes:
        positives: examples of the fitting half that have it.
        negatives: those that do not.
        judge: trained on the other half.
        auroc: of the judge, on the fitting half.
    """

    positives: tuple[Ids, ...]
    negatives: tuple[Ids, ...]
    judge: LabelProbe
    auroc: float

    @classmethod
    def of(cls, reader: Reader, examples: Sequence[Example], seed: int) -> Self:
        """Read examples, share them out, and train the judge.

        Raises:
            InputError: an example is a chat.
        """
        texts, is_E = _as_ids(reader, examples), np.array([one.is_positive for one in examples], dtype=np.bool_)
        acts_ED = mean_activations(reader, texts)
        fitting_E, judging_E = split(is_E, seed)
        judge = LabelProbe(reader, acts_ED[judging_E], is_E[judging_E])
        auroc = float(roc_auc_score(is_E[fitting_E], judge.scores(acts_ED[fitting_E])))
        halves = [tuple(texts[place] for place in fitting_E.tolist() if is_E[place] == of) for of in (True, False)]
        return cls(halves[0], halves[1], judge, auroc)

    def separating(self, reader: Reader, features: Sequence[int], count: int) -> list[int]:
        """Of some features those that are stronger on positive examples than on others, best first."""
        one_EF, two_EF = (_strongest(reader, texts) for texts in (self.positives, self.negatives))
        spread_F = np.concatenate([one_EF, two_EF]).std(axis=0)
        apart_F = (one_EF.mean(axis=0) - two_EF.mean(axis=0)) / np.where(spread_F > 0, spread_F, np.inf)
        ranked = sorted((each for each in features if apart_F[each] > 0), key=lambda each: -apart_F[each])
        return ranked[:count]


def mean_activations(reader: Reader, texts: Sequence[Ids]) -> NDArray[np.float32]:
    """The mean activation of each text alone [E, D]; zeros of an empty one."""
    rows = [
        acts_TD.float().mean(dim=0) if len(acts_TD) else acts_TD.new_zeros(acts_TD.shape[1], dtype=torch.float32)
        for acts_TD in reader.activations(texts)
    ]
    return torch.stack(rows).cpu().numpy()


def _strongest(reader: Reader, texts: Sequence[Ids]) -> NDArray[np.float32]:
    """The largest activation of every feature on each text [E, F]."""
    sae, rows = reader.placed.sae, []
    for acts_TD in reader.activations(texts):
        strongest_F = torch.zeros(sae.width)
        if len(acts_TD):
            active = sae.encode_active(acts_TD.to(sae.W_enc.dtype))
            strongest_F.scatter_reduce_(0, active.feature_A.cpu(), active.value_A.float().cpu(), "amax")
        rows.append(strongest_F)
    return torch.stack(rows).numpy()


def _as_ids(reader: Reader, examples: Sequence[Example]) -> list[Ids]:
    texts = [one.text for one in examples if isinstance(one.text, str)]
    if len(texts) < len(examples):
        message = "The examples are chats, and what is written here are plain texts: give examples with text."
        raise InputError(message)
    return [tuple(ids[:_MOST_TOKENS].tolist()) for ids in TextEncoder(reader.subject.tokenizer).encode(texts)]
