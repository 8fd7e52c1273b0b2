"""From a text to features: what is active on it, by token and over all tokens that count.

Shape legend: T tokens of the text, L latents that are active on it, A active (token, latent) pairs.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.correlate.config import CorrelateConfig
from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.hits import Found, make_hits, rounded
from mistudio.correlate.pooling import Pooled, best_first, pooled
from mistudio.correlate.queries import TextQuery
from mistudio.correlate.reading import Active, TokenReader, Tokens, read_active
from mistudio.correlate.replies import Hit, ReadToken, TokenFeature
from mistudio.errors import InputError
from mistudio.subject import Subject

Values = NDArray[np.float64]


class TextFound(NamedTuple):
    """What a text gave."""

    hits: tuple[Hit, ...]
    tokens: tuple[ReadToken, ...] | None
    num_tokens: int
    warnings: tuple[str, ...]


def features_of_text(
    query: TextQuery, dictionary: Dictionary, subject: Subject, reader: TokenReader, config: CorrelateConfig
) -> TextFound:
    """The features that are active on a text, a chat or token ids.

    Raises:
        InputError: it is too long, more values are asked for than a reply may have, no message is of the roles, there
            is no such token, or what features do on other text is asked for and not known.
        SubjectError: there is no template for chats.
    """
    tokens = _tokens(query, reader)
    _check_size(query, len(tokens.ids), config)
    (active,) = read_active(subject, dictionary.placed, [tokens], config.piece_tokens)
    over = pooled(active)
    values = _values(query, over, dictionary)
    value_L = values[query.pool]
    best = [place for place in best_first(value_L, query.top).tolist() if value_L[place] > 0]
    found = [_found(place, over, values, query, active, len(tokens.ids)) for place in best]
    shown = _shown(tokens, active, query.strongest) if query.by_token or query.strongest else None
    hits = make_hits(dictionary, query.pool, found)
    return TextFound(hits, shown, active.num_counted, tuple(_warnings(query, tokens, active)))


def _tokens(query: TextQuery, reader: TokenReader) -> Tokens:
    if query.messages is not None:
        return reader.chat(query.messages, query.roles)
    return reader.ids(query.ids) if query.ids is not None else reader.text(query.text or "")


def _check_size(query: TextQuery, num_tokens: int, config: CorrelateConfig) -> None:
    if num_tokens > config.max_tokens:
        message = f"The text has {num_tokens:,} tokens, and at most {config.max_tokens:,} are read: give a part of it."
        raise InputError(message)
    most = num_tokens * max(query.top * query.by_token, query.strongest)
    if most > config.max_values:
        message = (
            f"by_token, strongest: {most:,} values are asked for with {num_tokens:,} tokens, and a reply has at most "
            f"{config.max_values:,}: lower top or strongest, or give a shorter text."
        )
        raise InputError(message)


def _values(query: TextQuery, over: Pooled, dictionary: Dictionary) -> dict[str, Values]:
    """The figures of each active latent that are known, by name; that which is ordered by is among them."""
    values: dict[str, Values] = {"max": over.max_L, "mean": over.mean_L, "fires": over.fires_L.astype(np.float64)}
    if query.pool in ("difference", "standardised") or dictionary.features is not None:
        background = dictionary.background(f"pool {query.pool}")
        values["difference"] = over.mean_L - background.mean_F[over.latent_L]
        if query.pool == "standardised":
            with np.errstate(invalid="ignore", divide="ignore"):
                values["standardised"] = values["difference"] / background.std_F[over.latent_L]
            # A feature that never fired on the training tokens has no deviation to be measured in.
            values["standardised"][~np.isfinite(values["standardised"])] = 0
    return values


def _found(
    place: int, over: Pooled, values: Mapping[str, Values], query: TextQuery, active: Active, num_tokens: int
) -> Found:
    latent = int(over.latent_L[place])
    further = {name: float(value_L[place]) for name, value_L in values.items() if name != query.pool}
    by_token = _by_token(active, latent, num_tokens) if query.by_token else None
    return Found(latent, float(values[query.pool][place]), further, by_token)


def _by_token(active: Active, latent: int, num_tokens: int) -> tuple[float, ...]:
    """A latent's activation on each token; 0 where a token does not count."""
    own_A = active.latent_A == latent
    value_T = np.zeros(num_tokens)
    value_T[active.token_A[own_A]] = active.value_A[own_A]
    return tuple(map(rounded, value_T.tolist()))


def _shown(tokens: Tokens, active: Active, strongest: int) -> tuple[ReadToken, ...]:
    num_tokens = len(tokens.ids)
    offsets = [(None, None)] * num_tokens if tokens.offsets is None else tokens.offsets.tolist()
    ends = np.searchsorted(active.token_A, np.arange(num_tokens + 1)).tolist()
    return tuple(
        ReadToken(
            id=int(tokens.ids[place]),
            text=tokens.strings[place],
            start=start,
            end=end,
            role=tokens.roles[place] if tokens.roles is not None else None,
            left_out=active.left_out[place],
            strongest=tuple(_strongest(active, slice(ends[place], ends[place + 1]), strongest)),
        )
        for place, (start, end) in enumerate(offsets)
    )


def _strongest(active: Active, own: slice, count: int) -> Iterator[TokenFeature]:
    latents, values = active.latent_A[own], active.value_A[own].astype(np.float64)
    for place in best_first(values, count).tolist():
        yield TokenFeature(feature=int(latents[place]), value=rounded(float(values[place])))


def _warnings(query: TextQuery, tokens: Tokens, active: Active) -> Iterator[str]:
    if not len(tokens.ids):
        yield "The text is empty: there is no token to read."
    elif query.messages is not None and tokens.roles is not None and not any(tokens.roles):
        yield (
            "messages: the chat template changes what they say, so that all tokens count as the template's and none is "
            "read."
        )
    elif not active.num_counted:
        reasons = ", ".join(sorted({why for why in active.left_out if why is not None}))
        yield f"No token counts: all are left out ({reasons})."
