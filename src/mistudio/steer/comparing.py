"""How a steered answer differs from the one without edits, and what the model as it is would say to it.

Shape legend: T tokens of an answer, V vocabulary.
"""

import math

import torch
from torch import Tensor

from mistudio.instrument.text_engine import TextEngine
from mistudio.instrument.where import PromptTokens
from mistudio.steer.diff import token_diff
from mistudio.steer.requests import Comparison
from mistudio.steer.tickets import Answer, Prepared


def compare(engine: TextEngine, prepared: Prepared, steered: Answer, plain: Answer, tokenizer: object) -> Comparison:
    """Read both answers as the model as it is, and the steered one with its edits too."""
    prompt, tokens = prepared.prompt, steered.generation.tokens
    as_it_is = engine.judge(prompt, tokens)
    with_edits = engine.judge(prompt, tokens, prepared.edits)
    logprob_TV = torch.log_softmax(as_it_is.logits_TV, dim=-1)
    steered_TV = torch.log_softmax(with_edits.logits_TV, dim=-1)
    kl_T = (logprob_TV.exp() * (logprob_TV - steered_TV)).sum(dim=-1)
    own = engine.judge(prompt, plain.generation.tokens)
    own_TV = torch.log_softmax(own.logits_TV, dim=-1)
    return Comparison(
        plain_text=plain.stream.text,
        plain_reason=plain.reason or "stop",
        diff=token_diff(tokenizer, plain.generation.tokens, tokens),
        kl=tuple(kl_T.clamp(min=0).tolist()),
        perplexity=_perplexity(logprob_TV, tokens),
        plain_perplexity=_perplexity(own_TV, plain.generation.tokens),
        watched_plain=tuple(plain.watched) if prepared.watched else None,
        dose=with_edits.dose,
    )


def plain_logprobs(engine: TextEngine, prompt: PromptTokens, tokens: list[int]) -> list[float]:
    """What the model as it is gives each token of an answer, in nats."""
    logprob_TV = torch.log_softmax(engine.judge(prompt, tokens).logits_TV, dim=-1)
    found: list[float] = logprob_TV.gather(1, torch.tensor(tokens, device=logprob_TV.device)[:, None])[:, 0].tolist()
    return found


def _perplexity(logprob_TV: Tensor, tokens: list[int]) -> float:
    if not tokens:
        return math.nan
    chosen_T = logprob_TV.gather(1, torch.tensor(tokens, device=logprob_TV.device)[:, None])
    return math.exp(min(-float(chosen_T.mean()), 700.0))
