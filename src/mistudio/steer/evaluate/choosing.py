"""Which features are looked at, and which of them are tried: by what they do, not by what they fire on."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mistudio.corpus.reader import TokenCorpus
from mistudio.corpus.tokens import TextEncoder
from mistudio.instrument.divergence import Divergence
from mistudio.steer.evaluate.bench import Bench
from mistudio.steer.evaluate.config import EffectsConfig, SteerEvaluateConfig
from mistudio.steer.evaluate.effects import Effect, effects, own_tokens
from mistudio.steer.evaluate.gains import gains
from mistudio.steer.evaluate.windows import Ids, read_windows

_PROMPTS_OF_GAINS = 4


class Candidate(NamedTuple):
    """A feature that was looked at."""

    effect: Effect
    push_gain: float | None  # None where it was not asked for, or cannot be told

    def value(self, name: str) -> float:
        """The effect of a name; what cannot be told comes last."""
        found = self.push_gain if name == "push_gain" else getattr(self.effect, name)
        return -math.inf if found is None or math.isnan(found) else float(found)


def candidates(
    bench: Bench, corpus: TokenCorpus, features: Sequence[int], config: SteerEvaluateConfig, seed: int
) -> list[Candidate]:
    """What each feature does, measured behind a neutral text and, where it is asked for, on training documents."""
    subject = bench.session.subject
    (ids,) = TextEncoder(subject.tokenizer).encode([config.effects.neutral])
    prompt: Ids = (*bench.windows.prefix, *map(int, ids))
    found = effects(subject, bench.placed, prompt, features, config.effects)
    pushed: Sequence[float | None] = [None] * len(found)
    if config.choose_by == "push_gain":
        windows = read_windows(corpus, config.texts, seed, "train").prompts[:_PROMPTS_OF_GAINS]
        divergence = bench.divergence_on(windows, behind=1)
        pushed = push_gains(bench, divergence, features, config.effects)
    return [Candidate(*each) for each in zip(found, pushed, strict=True)]


def push_gains(
    bench: Bench, divergence: Divergence, features: Sequence[int], config: EffectsConfig
) -> list[float | None]:
    """By how much each feature raises the mean probability of its own tokens at the push that is set."""
    subject, decoder_FD = bench.session.subject, bench.placed.sae.W_dec.detach().float()[list(features)]
    own_FK = own_tokens(subject, decoder_FD, config.own_tokens)
    if own_FK is None:
        return [None] * len(features)
    own = dict(zip(features, own_FK, strict=True))

    def tokens_of(feature: int) -> Tensor:
        return torch.zeros(1, subject.vocab_size).index_fill_(1, own[feature].cpu(), 1.0)

    found = gains(divergence, decoder_FD, tokens_of, config.push_kl, features)
    return [None if each is None else float((each.after_C - each.before_C)[0]) for each in found]


def chosen(found: Sequence[Candidate], config: SteerEvaluateConfig) -> list[int]:
    """The features with the largest effect of the kind that is asked for, strongest first."""
    ranked = sorted(found, key=lambda each: (-each.value(config.choose_by), each.effect.feature))
    return [each.effect.feature for each in ranked[: config.num_features]]
