"""From positive and negative examples to the features that tell them apart, and to the direction between them.

Features are chosen on one half of the examples and tried on the other, so that what is reported was not what they were
chosen by. Beside it stands the same after the labels of the fitting half were shuffled: at 0.5 but for chance.

Shape legend: E examples, L features that are active on any of them, C features that are candidates.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata

from mistudio.correlate.config import CorrelateConfig
from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.example_files import as_files
from mistudio.correlate.hits import Found, make_hits
from mistudio.correlate.pooling import pooled
from mistudio.correlate.queries import ExamplesQuery
from mistudio.correlate.reading import TokenReader, read_active
from mistudio.correlate.replies import Hit, Separation
from mistudio.correlate.saving import direction_between
from mistudio.directions.config import Figure
from mistudio.directions.examples import EMPTY, Example, check_enough, read_examples
from mistudio.directions.fit import Halves, split
from mistudio.errors import InputError
from mistudio.evaluate.probes import METRICS, interval, resampled_figures
from mistudio.instrument.messages import Message

if TYPE_CHECKING:
    from mistudio.instrument.served import Served

_MOST_CANDIDATES = 1024  # of features whose AUROC is looked at: those whose means differ most
_AUROC = METRICS.index("auroc")
_TOKENS_OF_EXAMPLES = 8  # times as many tokens as a text may have

Values = NDArray[np.float64]
Labels = NDArray[np.bool_]


class Pooled(NamedTuple):
    """The features that are active on any example, pooled over the tokens that count."""

    value_EL: sparse.csr_array
    latent_L: NDArray[np.int64]
    is_positive_E: Labels


def features_of_examples(
    query: ExamplesQuery, dictionary: Dictionary, served: "Served", reader: TokenReader, config: CorrelateConfig
) -> tuple[tuple[Hit, ...], Separation]:
    """The features that tell positive examples from negative ones, and how well the direction between them does.

    Raises:
        InputError: a class has too few examples, there is too much text, the classes do not differ, or the direction is
            to be kept and cannot be.
        SubjectError: there is no template for chats, or messages of some roles cannot be found.
    """
    files = as_files(query.positive, query.negative)
    examples = read_examples(files, None, None, config.max_examples, query.seed)
    found = _pooled(query, examples.found, dictionary, served, reader, config)
    check_enough(found.is_positive_E.tolist(), examples.left_out)
    examples.left_out[EMPTY] += len(examples.found) - len(found.is_positive_E)
    halves = split(found.is_positive_E, query.seed)
    hits = _separating(query, found, halves, dictionary, config)
    direction = direction_between(query, files, examples.found, dictionary, served, config)
    return hits, Separation(
        positive=int(found.is_positive_E.sum()),
        negative=int((~found.is_positive_E).sum()),
        left_out={name: count for name, count in examples.left_out.items() if count},
        auroc=direction.auroc,
        random_auroc=direction.random_auroc,
        shuffled_auroc=direction.shuffled_auroc,
        shuffled_feature_auroc=_shuffled(query, found, halves, config),
        saved=direction.saved,
    )


def _pooled(
    query: ExamplesQuery,
    examples: Sequence[Example],
    dictionary: Dictionary,
    served: "Served",
    reader: TokenReader,
    config: CorrelateConfig,
) -> Pooled:
    """Each example's features, without examples of which no token counts."""
    texts = [
        reader.text(each.text)
        if isinstance(each.text, str)
        else reader.chat([Message.model_validate(one) for one in each.text], query.roles)
        for each in examples
    ]
    num_tokens, most = sum(len(one.ids) for one in texts), _TOKENS_OF_EXAMPLES * config.max_tokens
    if num_tokens > most:
        message = f"The examples have {num_tokens:,} tokens, and at most {most:,} are read: give fewer or shorter ones."
        raise InputError(message)
    rows, columns, values = [], [], []
    kept: list[bool] = []
    readings = read_active(served.session.subject, dictionary.placed, texts, config.piece_tokens)
    for example, active in zip(examples, readings, strict=True):
        if not active.num_counted:
            continue
        over = pooled(active)
        rows.append(np.full(len(over.latent_L), len(kept)))
        columns.append(over.latent_L)
        values.append(over.max_L if query.pool == "max" else over.mean_L)
        kept.append(example.is_positive)
    latent_L, column = np.unique(np.concatenate([np.empty(0, np.int64), *columns]), return_inverse=True)
    row = np.concatenate([np.empty(0, np.int64), *rows])
    value = np.concatenate([np.empty(0), *values])
    value_EL = sparse.csr_array((value, (row, column)), shape=(len(kept), len(latent_L)))
    return Pooled(value_EL, latent_L, np.array(kept, dtype=np.bool_))


def _separating(
    query: ExamplesQuery, found: Pooled, halves: Halves, dictionary: Dictionary, config: CorrelateConfig
) -> tuple[Hit, ...]:
    """The features that were best on the fitting half, with what they do on the other, in the order of the first."""
    is_E = found.is_positive_E[halves.fitting_E]
    chosen = best_on(found.value_EL[halves.fitting_E], is_E, query.side, query.top)
    means_L = [np.asarray(found.value_EL[is_E_].mean(axis=0)) for is_E_ in (found.is_positive_E, ~found.is_positive_E)]
    return make_hits(
        dictionary,
        "auroc",
        [
            Found(
                int(found.latent_L[place]),
                figure.value,
                {
                    "auroc_low": figure.low,
                    "auroc_high": figure.high,
                    "fitting_auroc": fitting,
                    "positive_mean": float(means_L[0][place]),
                    "negative_mean": float(means_L[1][place]),
                    "difference": float(means_L[0][place] - means_L[1][place]),
                },
            )
            for place, fitting in chosen
            for figure in [_heldout(found, halves, place, config.resamples, query.seed)]
        ],
    )


def best_on(value_EL: sparse.csr_array, is_E: Labels, side: str, count: int) -> list[tuple[int, float]]:
    """The columns with the largest AUROC on some examples, best first, with it.

    AUROCs are of the columns whose means differ most in deviations, up to a bound; between equal ones that decides.
    """
    effect_L = _effects(value_EL, is_E)
    sided_L = {"positive": effect_L, "negative": -effect_L, "both": np.abs(effect_L)}[side]
    candidate_C = np.argsort(-sided_L, kind="stable")[: max(_MOST_CANDIDATES, count)]
    candidate_C = candidate_C[sided_L[candidate_C] > 0]
    auroc_C = _aurocs(value_EL[:, candidate_C].toarray(), is_E)
    sided_C = {"positive": auroc_C, "negative": 1 - auroc_C, "both": np.abs(auroc_C - 0.5) + 0.5}[side]
    order = np.argsort(-sided_C, kind="stable")[:count].tolist()
    return [(int(candidate_C[place]), float(auroc_C[place])) for place in order]


def _effects(value_EL: sparse.csr_array, is_E: Labels) -> Values:
    """Difference of the classes' means over the deviation within them; 0 where there is none."""
    means, variances = [], []
    for own_E in (is_E, ~is_E):
        own_EL = value_EL[own_E]
        mean_L = np.asarray(own_EL.mean(axis=0))
        means.append(mean_L)
        variances.append(np.asarray(own_EL.multiply(own_EL).mean(axis=0)) - mean_L**2)
    difference_L = means[0] - means[1]
    deviation_L = np.sqrt(np.maximum(sum(variances), 0) / 2)
    # A feature that is constant within both classes and differs between them is as good as can be, not left out.
    floor_L = 1e-6 * np.maximum(np.abs(means[0]), np.abs(means[1])) + 1e-30
    effects_L: Values = difference_L / np.maximum(deviation_L, floor_L)
    return effects_L


def _aurocs(value_EC: Values, is_E: Labels) -> Values:
    """AUROC of each column, from the ranks of its values; a tie counts half (Mann and Whitney 1947)."""
    num_positive, num_negative = int(is_E.sum()), int((~is_E).sum())
    rank_EC = rankdata(value_EC, axis=0)
    above_C: Values = rank_EC[is_E].sum(axis=0) - num_positive * (num_positive + 1) / 2
    return above_C / (num_positive * num_negative)


def _heldout(found: Pooled, halves: Halves, place: int, resamples: int, seed: int) -> Figure:
    """A feature's AUROC on the half that it was not chosen by, with its bootstrap interval."""
    score_E = found.value_EL[halves.heldout_E][:, [place]].toarray().ravel()
    value, *draws = resampled_figures(score_E, found.is_positive_E[halves.heldout_E], resamples, seed)[_AUROC]
    low, high = interval(np.array(draws))
    return Figure(value=float(value), low=low, high=high)


def _shuffled(query: ExamplesQuery, found: Pooled, halves: Halves, config: CorrelateConfig) -> Figure:
    """What the first feature reaches on the held-out half where labels were shuffled on the other."""
    values = list(_shuffled_aurocs(query, found, halves, config.controls))
    low, high = interval(np.array(values))
    return Figure(value=float(np.mean(values)), low=low, high=high)


def _shuffled_aurocs(query: ExamplesQuery, found: Pooled, halves: Halves, times: int) -> Iterator[float]:
    generator = np.random.default_rng(query.seed)
    fitting_EL, heldout_EL = found.value_EL[halves.fitting_E], found.value_EL[halves.heldout_E]
    heldout_is_E = found.is_positive_E[halves.heldout_E]
    for _ in range(times):
        is_E = generator.permutation(found.is_positive_E[halves.fitting_E])
        chosen = best_on(fitting_EL, is_E, query.side, 1)
        # Where nothing differs there is nothing to choose: chance.
        yield float(_aurocs(heldout_EL[:, [chosen[0][0]]].toarray(), heldout_is_E)[0]) if chosen else 0.5
