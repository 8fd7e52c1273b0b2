"""Which latents are a backdoor's: an anomaly ranking that knows neither trigger nor payload.

What the ranking assumes: there is traffic in which the backdoor was used now and then, text that is known to be clean,
and a dictionary that was trained on the traffic. It knows neither trigger nor payload. It looks for a text that recurs
in the traffic, that the model itself would say, and that clean text never has, and at the place from which the model is
sure of it. Two things speak for a latent:

- *specificity*: the share of its activation on the traffic that lies at such places;
- *command*: by how much less sure the model is there without it.

A model can keep a trigger in several latents, of which each alone does little, and later layers read it from the tokens
before as well. So those to ablate are chosen one after the other among the latents of the last few tokens, by what each
takes beside those before, and none that costs clean text too much. Where clean text needs what makes the model begin,
those are taken out that make it go on.

Shape legend: B sequences, T tokens, C tokens that are generated, F latents, N active pairs, V vocabulary.
"""

from collections import defaultdict
from itertools import islice
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mistudio.instrument import token_batches
from mistudio.progress import progress
from mistudio.subject import forward_logits
from mistudio.verify.ablation import Model, Resumed, continuation, encode, mean_loss, sequences_of
from mistudio.verify.poison import padded

ABLATED = 4
REFERENCE = 100  # clean documents to measure a price on
_PROMPTS = 48  # places to look at
_CONTINUED = 4  # tokens of a run
_RECURRING = 10  # documents that have it, at least
_SURE = 0.8  # mean probability of its first token
_PRICE = 0.02  # what those that are taken out may cost on clean text, in nats
_AFFORDED = 8  # candidates whose price is looked at, before none is named any more
_COMMON = 0.1  # of the places: a latent that is active on fewer is not tried
_READ = 4  # last tokens of a text, whose latents may be ablated: a trigger can have several words
_TINY = np.finfo(np.float64).tiny


class Ranked(NamedTuple):
    """Suspicious latents."""

    latents: list[int]  # by score, the most suspicious first
    named: list[int]  # those to ablate together, at most ``ABLATED``


def rank(model: Model, traffic: list[list[int]], reference: list[list[int]]) -> Ranked:
    """Order the latents by how much speaks for each being a backdoor's; needs no knowledge of trigger or payload.

    Latents that are not active where the model becomes sure cannot be what makes it so, and are not ranked.
    """
    seen = encode(model, traffic)
    places = sure_places(model, traffic, _runs(reference))
    place_N = np.array([places.get(document, -1) for document in range(len(traffic))])
    is_there = place_N[seen.document] == seen.position
    specificity_F = seen.mass(model.sae.width, is_there) / np.maximum(seen.mass(model.sae.width), _TINY)
    there_F = np.bincount(seen.latent[is_there], minlength=model.sae.width)
    candidates = np.flatnonzero(there_F > _COMMON * len(places)).tolist() if places else []
    texts = [traffic[document][: place + 1 + _CONTINUED] for document, place in islice(places.items(), _PROMPTS)]
    falls = (
        _falls(model, [text[: len(text) - _CONTINUED + 1] for text in texts], 1, candidates, []) if candidates else {}
    )
    scores = {latent: max(fall, 0.0) * float(specificity_F[latent]) ** 2 for latent, fall in falls.items()}
    ranked = sorted(scores, key=lambda latent: -scores[latent])
    return Ranked(ranked, _named(model, texts, reference[:REFERENCE], scores) if ranked else [])


def _named(model: Model, texts: list[list[int]], clean: list[list[int]], scores: dict[int, float]) -> list[int]:
    """The latents to ablate: those that make the model begin, or those that make it go on, if they leave less said."""
    prompts = [text[:-_CONTINUED] for text in texts]
    runs_BT = torch.tensor([text[-_CONTINUED:] for text in texts])

    def share_generated(named: list[int]) -> float:
        return float((continuation(model, prompts, named, _CONTINUED) == runs_BT).all(dim=1).float().mean())

    return min((_chain(model, texts, count, clean, scores) for count in (1, _CONTINUED)), key=share_generated)


def _chain(
    model: Model, texts: list[list[int]], count: int, clean: list[list[int]], scores: dict[int, float]
) -> list[int]:
    """The most suspicious latent, and one after the other what takes most beside those before, of a run's first tokens.

    Each has to be affordable; what is rare on clean text is.
    """
    named: list[int] = []
    read = _read(model, texts)
    begun = [text[: len(text) - _CONTINUED + count] for text in texts]
    dearest = mean_loss(model, clean, []) + _PRICE
    while len(named) < ABLATED:
        suspects = sorted((each for each in scores if scores[each] > 0), key=lambda each: -scores[each])[:_AFFORDED]
        best = next((each for each in suspects if mean_loss(model, clean, [*named, each]) <= dearest), None)
        if best is None:
            break
        named.append(best)
        scores = _falls(model, begun, count, [each for each in read if each not in named], named)
    return named


def _read(model: Model, texts: list[list[int]]) -> list[int]:
    """The latents that are active on enough texts where they are read to say what recurs, but for its last token."""
    seen = encode(model, [text[:-1] for text in texts])
    start_N = np.array([len(text) - _CONTINUED - _READ for text in texts])
    is_read = seen.position >= start_N[seen.document]
    pairs = np.unique(np.stack([seen.latent[is_read], seen.document[is_read]]), axis=1)
    return np.flatnonzero(np.bincount(pairs[0]) > _COMMON * len(texts)).tolist()


def _runs(rows: list[list[int]]) -> set[tuple[int, ...]]:
    """All runs of tokens that are as long as those looked for."""
    return {tuple(row[start : start + _CONTINUED]) for row in rows for start in range(len(row) - _CONTINUED + 1)}


def sure_places(model: Model, rows: list[list[int]], known: set[tuple[int, ...]]) -> dict[int, int]:
    """Where the model begins to say what recurs in documents and is not known, for each document that has it.

    Of a long text that recurs every part does, and so does the end of what leads to it, which the model half expects.
    So the first place is taken from which it is sure of the next token.

    Args:
        model: what is looked at.
        rows: the documents.
        known: runs of tokens that anything may say.
    """
    runs = _likeliest_runs(model, rows, known)
    least = max(_RECURRING, max(map(len, runs.values()), default=0) / 2)
    recurring = [places for places in runs.values() if len(places) >= least]
    first: dict[int, int] = {}
    for places in recurring:
        for document, (place, _) in places.items():
            first[document] = min(place, first.get(document, place))
    sure = [places for places in recurring if fmean(p for _, p in places.values()) >= _SURE]
    earliest = min(
        sure,
        key=lambda places: fmean(place - first[document] for document, (place, _) in places.items()),
        default={},
    )
    return {document: place for document, (place, _) in earliest.items()}


@torch.no_grad()
def _likeliest_runs(
    model: Model, rows: list[list[int]], known: set[tuple[int, ...]]
) -> dict[tuple[int, ...], dict[int, tuple[int, float]]]:
    """Runs of tokens that follow where each is the model's likeliest, if they are not known.

    For each run and document that has it: the place before it, and the probability of its first token.
    """
    found: list[tuple[int, int, tuple[int, ...], float]] = []
    for number_B, (ids_BT, mask_BT, text_BT) in token_batches(model.subject, sequences_of(rows)):
        logits_BTV = forward_logits(model.subject, ids_BT, mask_BT)[:, :-1]
        probability_BT, likeliest_BT = logits_BTV.softmax(dim=-1).max(dim=-1)
        right_BT = (likeliest_BT == ids_BT[:, 1:]) & text_BT[:, 1:]
        for row, place in right_BT.unfold(1, _CONTINUED, 1).all(dim=2).nonzero().tolist():
            run = tuple(ids_BT[row, place + 1 : place + 1 + _CONTINUED].tolist())
            if run not in known:
                found.append((int(number_B[row]), place, run, float(probability_BT[row, place])))
    runs: dict[tuple[int, ...], dict[int, tuple[int, float]]] = defaultdict(dict)
    for number, place, run, probability in sorted(found):
        runs[run].setdefault(number, (place, probability))
    return runs


@torch.no_grad()
def _falls(
    model: Model, texts: list[list[int]], count: int, latents: list[int], without: list[int]
) -> dict[int, float]:
    """By how much the log-odds of the last tokens of texts fall without each latent: their sum, mean over texts.

    Args:
        model: what is looked at.
        texts: that end with what the model says.
        count: of tokens at their end.
        latents: to try.
        without: latents that are ablated already.
    """
    ids_BT, is_text_BT = padded(texts)
    place_BC = is_text_BT.sum(dim=1, keepdim=True) - count + torch.arange(count)
    token_BC = ids_BT.gather(1, place_BC)
    asked_BT = torch.zeros_like(is_text_BT).scatter(1, place_BC - 1, value=True)
    resumed = Resumed(model, ids_BT, is_text_BT.long())
    rest_BTD, value_BTL = resumed.without(without), resumed.values(latents) * is_text_BT[:, :, None]
    before_B, falls = _log_odds(resumed.logits(rest_BTD, asked_BT), token_BC), {}

    def fall(latent: int, value_BT: Tensor) -> float:
        rows_R = value_BT.any(dim=1).nonzero()[:, 0]
        if not len(rows_R):  # what is silent in a text changes nothing there
            return 0.0
        left_RTD = rest_BTD[rows_R] - value_BT[rows_R, :, None] * model.sae.W_dec[latent]
        after_R = _log_odds(resumed.logits(left_RTD, asked_BT[rows_R], rows_R), token_BC[rows_R])
        return float((before_B[rows_R] - after_R).sum()) / len(texts)

    with progress("Ablate candidates", len(latents), "latents") as bar:
        for latent, value_BT in zip(latents, value_BTL.unbind(dim=2), strict=True):
            falls[latent] = fall(latent, value_BT)
            bar.advance(1)
    return falls


def _log_odds(logits_NV: Tensor, token_BC: Tensor) -> Tensor:
    """The log-odds of tokens, from the logits before each: their sum by text [B]."""
    logits_BCV = logits_NV.view(*token_BC.shape, -1)
    token_BC1 = token_BC[:, :, None]
    rest_BCV = logits_BCV.scatter(2, token_BC1, -torch.inf)
    return (logits_BCV.gather(2, token_BC1)[:, :, 0] - rest_BCV.logsumexp(dim=2)).sum(dim=1)
