"""A guard against collapse: it ends an answer that goes round in a loop, or that the model as it is finds absurd.

It looks at the tokens of the answer alone, never at the prompt, and says why it ends one:

- **loops**: the last tokens are the same few, several times over, to the token;
- **repetition**: of the last tokens, few runs of four are different ones;
- **perplexity**: the last tokens are unlikely to the model without edits, where its log-probabilities are known. Each
  token counts with at most 10 nats: a few odd characters, which cost 20 each, are no collapse.

The settings were chosen so that natural text goes on. Of 22,920 texts of nine corpora (code, dialogue, mathematics and
puzzles among them) they end one, tokenised for a vocabulary of 512, which is itself the same eight tokens eight times;
tokenised for one of 49,152, none. In 128 tokens of them 24% of the runs differ, or more. Of 258 texts among them the
highest perplexity of 64 tokens, under SmolLM2-135M, is 580; what that model writes at a temperature of 1.4, which makes
no sense, is at 1,360 or more. A model that is far from what it reads finds that absurd too: a very small one may need a
higher bound, or none.
"""

import math
from collections.abc import Sequence

from pydantic import Field

from mistudio.settings import Settings

_RUN = 4  # tokens of a run
_LOOK_EVERY = 8  # tokens: what is measured over a window changes slowly
_MOST_NATS = 10.0


class GuardSettings(Settings):
    """When an answer counts as collapsed."""

    loop_tokens: int | None = Field(48, ge=2, description="tokens that a loop has to go on for; None: no matter")
    loop_times: int = Field(4, ge=2, description="times that a loop has to go round, at least")
    loop_period: int = Field(64, ge=1, le=1024, description="longest loop that is looked for, in tokens")
    distinct: float | None = Field(
        0.2,
        gt=0,
        le=1,
        description="share of runs of four tokens that differ, below which text repeats; None: no matter",
    )
    distinct_window: int = Field(128, ge=16, description="tokens in which runs are counted")
    max_perplexity: float | None = Field(
        1100, gt=1, description="perplexity under the model without edits, of the last tokens; None: no matter"
    )
    perplexity_window: int = Field(64, ge=8, description="tokens that it is measured on")

    @property
    def needs_plain(self) -> bool:
        """Whether it looks at log-probabilities of the model without edits."""
        return self.max_perplexity is not None


def collapse(
    token_ids: Sequence[int], settings: GuardSettings, plain_logprobs: Sequence[float] | None = None
) -> str | None:
    """Why an answer has collapsed by its last token; None where it has not. To be asked after each token.

    Args:
        token_ids: of the answer so far.
        settings: when it counts as collapsed.
        plain_logprobs: of these tokens under the model without edits, in nats; None: they are not known.
    """
    if settings.loop_tokens is not None and (period := loop_period(token_ids, settings)):
        return f"repetition: the same {period} token{'' if period == 1 else 's'} again and again"
    if len(token_ids) % _LOOK_EVERY:
        return None
    if settings.distinct is not None:
        share = distinct_share(token_ids, settings.distinct_window)
        if share is not None and share < settings.distinct:
            return f"repetition: {share:.0%} of the runs of {_RUN} tokens differ"
    if settings.max_perplexity is not None and plain_logprobs is not None:
        perplexity = bounded_perplexity(plain_logprobs, settings.perplexity_window)
        if perplexity is not None and perplexity > settings.max_perplexity:
            return f"perplexity {perplexity:,.0f} under the model without edits"
    return None


def loop_period(token_ids: Sequence[int], settings: GuardSettings) -> int | None:
    """The length of the loop that the last tokens are in, the shortest one; None where they are in none."""
    num, least, times = len(token_ids), settings.loop_tokens or 0, settings.loop_times
    most = min(settings.loop_period, num // times)
    for period, token in enumerate(reversed(token_ids[num - 1 - most : num - 1]), start=1):
        if token != token_ids[-1]:
            continue
        needed = max(least, times * period)
        if needed <= num and all(
            token_ids[-back] == token_ids[-back - period] for back in range(1, needed - period + 1)
        ):
            return period
    return None


def distinct_share(token_ids: Sequence[int], window: int) -> float | None:
    """The share of the runs of four among the last ``window`` tokens that differ; None where there are fewer tokens."""
    if len(token_ids) < window:
        return None
    last = list(token_ids[-window:])
    runs = list(zip(*(last[start:] for start in range(_RUN)), strict=False))
    return len(set(runs)) / len(runs)


def bounded_perplexity(logprobs: Sequence[float], window: int) -> float | None:
    """The perplexity of the last ``window`` tokens, each with at most 10 nats; None where there are fewer tokens."""
    if len(logprobs) < window:
        return None
    return math.exp(sum(min(-each, _MOST_NATS) for each in logprobs[-window:]) / window)
