"""From a token to features: those that write it, by the logit lens, and those that are active on it.

Shape legend: F features, D width of the residual stream, V vocabulary, K hits.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.hits import Found, make_hits
from mistudio.correlate.pooling import best_first
from mistudio.correlate.queries import TokenQuery, TokenWay
from mistudio.correlate.reading import TokenReader
from mistudio.correlate.replies import Hit
from mistudio.correlate.token_tables import OfToken
from mistudio.errors import InputError, SubjectError
from mistudio.plain_text import shortened
from mistudio.subject import Subject, unembed, unembedding_rows

_FEATURES_AT_ONCE = 64  # whose logits of all tokens are held
_SHOWN_PIECES = 8


def token_id(token: int | str, reader: TokenReader, subject: Subject) -> int:
    """The id of a token that is given as such, or as a text.

    Raises:
        InputError: there is no such token, or the text is not one token.
    """
    if isinstance(token, int):
        if token >= subject.vocab_size:
            message = f"token: there is no token {token}; the model knows {subject.vocab_size:,}, numbered from 0."
            raise InputError(message)
        return token
    ids = reader.encode(token).tolist()
    if len(ids) != 1:
        pieces = ", ".join(f"{reader.strings[each]!r} ({each})" for each in ids[:_SHOWN_PIECES])
        more = ", …" if len(ids) > _SHOWN_PIECES else ""
        message = (
            f"token: {shortened(token)} is {len(ids)} tokens: {pieces or 'none'}{more}. Give the id of one of them, or "
            "a text that is one token; a space before a word belongs to its token."
        )
        raise InputError(message)
    return int(ids[0])


def features_of_token(query: TokenQuery, token: int, dictionary: Dictionary, subject: Subject) -> tuple[Hit, ...]:
    """The features that go with a token, by each way that is asked for, or by all that are known.

    Raises:
        InputError: a way is asked for that is not known here.
        SubjectError: the lens is asked for, and the model has no output embeddings.
    """
    hits: list[Hit] = []
    for way in dict.fromkeys(query.ways or ("lens", "contexts", "lift")):
        try:
            hits += _BY_WAY[way](query, token, dictionary, subject)
        except InputError:
            if query.ways is not None:
                raise
    return tuple(hits)


def lens_logits(subject: Subject, W_dec_FD: Tensor, token: int) -> Tensor:
    """What each feature's decoder direction adds to the logit of a token [F], float32, with activation 1.

    The same normalisation as in the promoted tokens of the table of features: :func:`mistudio.subject.unembed`.
    """
    (row_D,) = unembedding_rows(subject, [token])
    logit_F: Tensor = W_dec_FD.detach().to(subject.device, torch.float32) @ row_D
    return logit_F


def _lens(query: TokenQuery, token: int, dictionary: Dictionary, subject: Subject) -> tuple[Hit, ...]:
    point = dictionary.placed.ends.write.point
    if not point.is_in_stream:
        message = f"ways: the logit lens reads the residual stream, and {dictionary.name} writes at {point}."
        raise SubjectError(message)
    W_dec_FD = dictionary.placed.sae.W_dec
    logit_F = lens_logits(subject, W_dec_FD, token)
    count = min(query.top, len(logit_F))
    top = logit_F.topk(count, largest=not query.suppressed)
    rank_K = _ranks(subject, W_dec_FD[top.indices], token, largest=not query.suppressed)
    found = [
        Found(feature, value, {"rank": float(rank)})
        for feature, value, rank in zip(top.indices.tolist(), top.values.tolist(), rank_K, strict=True)
        if (value < 0 if query.suppressed else value > 0)
    ]
    return make_hits(dictionary, "logit", found)


def _ranks(subject: Subject, W_dec_KD: Tensor, token: int, *, largest: bool) -> Iterator[int]:
    """Which place the token has among all that a feature makes likelier, or less likely; from 1."""
    sign = 1 if largest else -1
    for start in range(0, len(W_dec_KD), _FEATURES_AT_ONCE):
        logits_RV = unembed(subject, W_dec_KD[start : start + _FEATURES_AT_ONCE]) * sign
        yield from ((logits_RV > logits_RV[:, [token]]).sum(dim=1) + 1).tolist()


def _contexts(query: TokenQuery, token: int, dictionary: Dictionary, _subject: Subject) -> tuple[Hit, ...]:
    found = dictionary.token_tables("ways: contexts").contexts(token)
    # Of features with as many contexts on the token, the one that is stronger there.
    strength_H = found.value_H + 1e-6 * found.mean_H / max(found.mean_H.max(initial=0), 1e-30)
    further = {"activation": found.mean_H}
    return make_hits(dictionary, "contexts", _best(found, strength_H, query.top, further))


def _lift(query: TokenQuery, token: int, dictionary: Dictionary, _subject: Subject) -> tuple[Hit, ...]:
    found = dictionary.token_tables("ways: lift").lift(token)
    return make_hits(dictionary, "lift", _best(found, found.value_H, query.top, {}))


def _best(found: OfToken, strength_H: "np.ndarray", count: int, further: "dict[str, np.ndarray]") -> Iterator[Found]:
    for place in best_first(strength_H, count).tolist():
        values = {name: float(value_H[place]) for name, value_H in further.items()}
        yield Found(int(found.feature_H[place]), float(found.value_H[place]), values)


_BY_WAY: dict[TokenWay, Callable[[TokenQuery, int, Dictionary, Subject], tuple[Hit, ...]]] = {
    "lens": _lens,
    "contexts": _contexts,
    "lift": _lift,
}
