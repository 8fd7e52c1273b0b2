"""What a search costs, in floating-point operations (FLOP): the pass over the activations, and trials in the model."""

from functools import partial
from typing import NamedTuple

from mistudio.find.config import FindConfig, TrialConfig
from mistudio.subject.cost import encoding_flop, measured_speed, pass_flop, short_flop, stated
from mistudio.subject.footprint import ModelShape

_TFLOP = 1e12
_CHANGES = 2  # behind the hook: without the feature, and without the control


class TokenCost(NamedTuple):
    """FLOP of a token that is read to try a feature, as if no context shared its passes with another."""

    ablated: float
    traced: float


def token_cost(shape: ModelShape, blocks: int, config: TrialConfig, after: int) -> TokenCost:
    """What trying a feature takes.

    Args:
        shape: of the model.
        blocks: of it, up to and with that of the hook.
        config: how features are tried.
        after: tokens read behind a peak.
    """
    run = partial(pass_flop, shape, 1, config.causal_tokens + 1 + after)
    ablated = run() + _CHANGES * run(blocks=shape.num_layers - blocks)
    return TokenCost(ablated, config.attribution_steps * run(blocks=blocks, head=False, backward=True))


def feature_flop(shape: ModelShape, blocks: int, config: FindConfig) -> float:
    """The most that trying one feature takes: all its contexts with as many tokens as are read."""
    cost = token_cost(shape, blocks, config, config.context_after)
    around = config.causal_tokens + 1 + config.context_after
    before = max(config.causal_tokens, config.context_before) + 1
    return config.ablation_contexts * around * cost.ablated + config.attribution_contexts * before * cost.traced


def state_cost(
    shape: ModelShape, blocks: int, config: FindConfig, pass_rows: int, d_in: int, width: int, on: tuple[str, str]
) -> str:
    """What a search takes, for people; how long trials take is said by the model itself, once it is loaded.

    Args:
        shape: of the model.
        blocks: of it, up to and with that of the hook.
        config: what to find.
        pass_rows: activations that are still to be encoded; 0 where parts have been.
        d_in: width of an activation.
        width: features.
        on: device and number format of the model.
    """
    most = width * feature_flop(shape, blocks, config)
    if config.causal_tflop is not None:
        most = min(most, config.causal_tflop * _TFLOP)
    parts = []
    if pass_rows:
        cost = stated(encoding_flop(pass_rows, d_in, width), measured_speed(shape, *on))
        parts.append(f"encoding {pass_rows:,} tokens takes {cost}")
    parts += [f"trying features in the model is at most {short_flop(most)}"] if most else []
    return f"Find what {width:,} features do: {', '.join(parts) or 'little is left to compute'}"
