"""What features do to the next token, by which those are chosen that a model can be steered with.

What a feature fires on says little of what it does. Both measures amplify it on the last token of a neutral text:

    output score        (1 - rank / V) x probability of its own tokens, those that the logit lens gives it: the best
                        rank and the largest probability of any (Arad, Mueller and Belinkov 2025, arXiv:2505.20063)
    Δ token confidence  change of the prediction's confidence, -1/k sum of log p over the k likeliest tokens (Fu et
                        al. 2025, arXiv:2508.15260), as Wang et al. 2025 (arXiv:2510.03659) choose features by

Amplified is by so many times the strongest activation of any feature there, as Arad et al. do.

Shape legend: F features, T tokens, D width of the hook point, E width of what the output head reads, V vocabulary,
K own tokens of a feature.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mistudio.instrument import PlacedAutoencoder
from mistudio.instrument.resume import continue_to_head, head_logits, run_to
from mistudio.steer.evaluate.config import EffectsConfig
from mistudio.steer.evaluate.windows import Ids
from mistudio.subject import Subject, unembed

_FEATURES_AT_ONCE = 64


class Effect(NamedTuple):
    """What one feature does to the next token; the output score is None where directions have no logits."""

    feature: int
    output_score: float | None
    rank: int | None  # best of its own tokens, from 0
    probability: float | None  # largest of any of them
    delta_confidence: float


@torch.no_grad()
def effects(
    subject: Subject, placed: PlacedAutoencoder, prompt: Ids, features: Sequence[int], config: EffectsConfig
) -> list[Effect]:
    """Both measures of each feature, behind a prompt.

    Raises:
        SubjectError: the model predicts no tokens.
    """
    ids_1T = torch.tensor([prompt], dtype=torch.int64, device=subject.device)
    prefix = run_to(subject, [placed.ends.read, placed.ends.write], ids_1T)
    sae = placed.sae
    strongest = float(sae.encode(prefix.values[placed.ends.read.point][0, -1:].to(sae.W_enc.dtype)).max())
    acts_1TD = prefix.values[placed.ends.write.point]
    clean_V = head_logits(subject, continue_to_head(subject, prefix)[0, -1:]).float()[0]
    clean = float(confidence(clean_V[None], config.likeliest)[0])
    found: list[Effect] = []
    for start in range(0, len(features), _FEATURES_AT_ONCE):
        some = list(features[start : start + _FEATURES_AT_ONCE])
        directions_FD = sae.W_dec.detach()[some]
        changed_FTD = acts_1TD.repeat(len(some), 1, 1)
        changed_FTD[:, -1] += (directions_FD * (strongest * config.amplification)).to(changed_FTD)
        rows_F = torch.zeros(len(some), dtype=torch.int64, device=subject.device)
        stream_FE = continue_to_head(subject, prefix, changed_FTD, rows_F)[:, -1]
        logits_FV = head_logits(subject, stream_FE).float()
        own_FK = own_tokens(subject, directions_FD, config.own_tokens)
        delta_F = (confidence(logits_FV, config.likeliest) - clean).tolist()
        scores = _output_scores(logits_FV, own_FK) if own_FK is not None else [(None, None, None)] * len(some)
        found += [Effect(feature, *score, delta) for feature, score, delta in zip(some, scores, delta_F, strict=True)]
    return found


def confidence(logits_FV: Tensor, likeliest: int) -> Tensor:
    """Minus the mean log-probability of the likeliest tokens [F]: the larger, the surer of the first."""
    logprob_FV = logits_FV.log_softmax(dim=-1)
    return -logprob_FV.topk(min(likeliest, logprob_FV.shape[-1]), dim=-1).values.mean(dim=-1)


def own_tokens(subject: Subject, directions_FD: Tensor, count: int) -> Tensor | None:
    """The tokens that directions promote most [F, K]; None at a hook point that is not as wide as the stream."""
    if directions_FD.shape[1] != subject.d_model:
        return None
    logits_FV = unembed(subject, directions_FD)
    return logits_FV.topk(min(count, logits_FV.shape[1]), dim=-1).indices


def _output_scores(logits_FV: Tensor, own_FK: Tensor) -> list[tuple[float, int, float]]:
    """Output score, rank and probability of each row."""
    probability_FV = logits_FV.softmax(dim=-1)
    own_FK = own_FK.to(logits_FV.device)
    most_F = probability_FV.gather(1, own_FK).amax(dim=-1)
    best_F1 = logits_FV.gather(1, own_FK).amax(dim=-1, keepdim=True)
    rank_F = (logits_FV > best_F1).sum(dim=-1)
    score_F = (1 - rank_F / logits_FV.shape[1]) * most_F
    return list(zip(score_F.tolist(), rank_F.tolist(), most_F.tolist(), strict=True))
