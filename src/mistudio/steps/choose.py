"""What a step chooses where a setting is not given, and what only its inputs can check: one function a setting.

Each takes the context, the inputs, the settings so far and the value given (or None), and returns the value to use.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mistudio.errors import ConfigError, InputError, SubjectError
from mistudio.settings import get
from mistudio.steps.spec import Choice, Inputs

if TYPE_CHECKING:
    from mistudio.steps.context import Context

Content = Mapping[str, Any]

_MAX_CONTEXT = 512
_MIN_WIDTH, _MAX_WIDTH = 1024, 32_768
_MIN_K, _MAX_K = 8, 64
_CAUSAL_TFLOP_CPU, _CAUSAL_TFLOP_GPU = 20.0, 2000.0


def choose_context_length(context: "Context", _inputs: Inputs, _content: Content, given: int | None) -> int:
    """The length given, or as much as the model takes up to 512 tokens.

    Raises:
        InputError: the model cannot read sequences that long.
    """
    positions = context.model_facts().max_positions
    if given is None:
        return default_context_length(positions)
    limit = positions or _MAX_CONTEXT
    if given > limit:
        message = f"context_length {given} is more than the {limit} positions of the model. Lower it."
        raise InputError(message)
    return given


def default_context_length(max_positions: int | None) -> int:
    """As many tokens as the model takes, up to 512."""
    return min(max_positions or _MAX_CONTEXT, _MAX_CONTEXT)


def choose_hooks(context: "Context", inputs: Inputs, _content: Content, given: list[str] | None) -> list[str]:
    """The hook points given, each with a layer: its own, the one given, or the one in the middle.

    Raises:
        SubjectError: the model's configuration does not say how many layers it has.
        InputError: the model has no such layer.
    """
    corpus = inputs.maybe("corpus")
    facts, layer = context.model_facts(corpus), context.argument("layer")
    if facts.num_layers is None:
        name = context.source(corpus).name
        message = f"The configuration of {name} does not say how many transformer blocks there are."
        raise SubjectError(message)
    hooks = name_hooks(given or [_DEFAULT_HOOK], layer)
    return [f"{kind}.{choose_layer(number, facts.num_layers)}" for kind, number in hooks]


def choose_layer(layer: int | None, num_layers: int) -> int:
    """The layer given, or the one in the middle.

    Raises:
        InputError: the model has no such layer.
    """
    if layer is None:
        return num_layers // 2
    if not 0 <= layer < num_layers:
        message = f"There is no layer {layer}: the model has {num_layers} layers, 0 to {num_layers - 1}."
        raise InputError(message)
    return layer


def name_hooks(hooks: list[str], layer: int | None) -> list[tuple[str, int | None]]:
    """Kind and layer of each hook point; a kind without a layer of its own takes ``layer``.

    Raises:
        ConfigError: a name is neither a kind nor KIND.LAYER, or ``layer`` is given and no hook point takes it.
    """
    from mistudio.subject.points import KINDS, HookPoint

    if layer is not None and not any(name in KINDS for name in hooks):
        points = ", ".join(str(HookPoint.parse(name)) for name in hooks)
        message = f"layer {layer} is for hook points that name no layer, and {points} names its own: leave layer out."
        raise ConfigError(message)
    return [(name, layer) if name in KINDS else HookPoint.parse(name) for name in hooks]


def choose_hook(_context: "Context", inputs: Inputs, _content: Content, given: str | None) -> str:
    """The hook point given, or the only one that was captured.

    Raises:
        InputError: several were captured and none was named, or that one was not captured.
    """
    activations = inputs.one("activations")
    hooks = str(activations.manifest.summary["hooks"]).split(", ")
    if given and given not in hooks:
        message = f"{activations.uri} has no activations of {given}; it has {', '.join(hooks)}."
        raise InputError(message)
    if not given and len(hooks) > 1:
        message = f"{activations.uri} has several hook points: name one of {', '.join(hooks)}."
        raise InputError(message)
    return given or hooks[0]


def check_target_hook(context: "Context", inputs: Inputs, content: Content, given: str | None) -> str | None:
    """The hook point that a transcoder predicts, which has to be captured too.

    Raises:
        InputError: it was not captured.
    """
    return choose_hook(context, inputs, content, given) if given else None


def choose_width(_context: "Context", inputs: Inputs, content: Content, given: int | None) -> int:
    """The width given, or the default for the activations."""
    return given if given is not None else default_width(_captured_width(inputs, content))


def default_width(d_in: int) -> int:
    """Exactly eight times the activations' width, 1,024 to 32,768.

    No kernel needs a power of two. The quick selection on a CPU needs a multiple of eight, which this is.
    """
    return min(max(8 * d_in, _MIN_WIDTH), _MAX_WIDTH)


def choose_k(_context: "Context", inputs: Inputs, content: Content, given: int | None) -> int:
    """The k given, or the default for the activations."""
    return given if given is not None else default_k(_captured_width(inputs, content))


def default_k(d_in: int) -> int:
    """A quarter of the activations' width, 8 to 64."""
    return min(max(d_in // 4, _MIN_K), _MAX_K)


def choose_causal_tflop(context: "Context", _inputs: Inputs, content: Content, given: float | None) -> float | None:
    """The budget given; where features are named, none; else what takes about five minutes on a device of the class.

    That is 67 GFLOP/s of two cores, and 7 TFLOP/s of a GPU, which small cards reach in half precision.
    """
    if given is not None or content.get("only"):
        return given
    return _CAUSAL_TFLOP_CPU if context.device == "cpu" else _CAUSAL_TFLOP_GPU


def _captured_width(inputs: Inputs, content: Content) -> int:
    """Width of the activations at the hook point."""
    return int(str(inputs.one("activations").manifest.summary[f"width.{get(content, 'hook')}"]))


_DEFAULT_HOOK = "resid_post"
# What checks before a run assume where the step will choose: any valid value serves.
CONTEXT_LENGTH = {"context_length": Choice("as the model takes, at most 512", choose_context_length, 128)}
HOOKS = {
    "hooks": Choice(
        "resid_pre, resid_mid, resid_post, attn_out, mlp_in, mlp_out or mlp_act, at layer, or with a layer of its own",
        choose_hooks,
        [f"{_DEFAULT_HOOK}.0"],
        _DEFAULT_HOOK,
        lambda hooks: [f"{kind}.{layer or 0}" for kind, layer in name_hooks(hooks, None)],
    )
}
TRAINING = {
    "hook": Choice("the only one captured", choose_hook, f"{_DEFAULT_HOOK}.0"),
    "target_hook": Choice("", check_target_hook, None),
    "sae.width": Choice("eight times the activations' width, 1,024 to 32,768", choose_width, _MAX_WIDTH),
    "sae.k": Choice("a quarter of the activations' width, 8 to 64", choose_k, 1),
}
FINDING = {
    "causal_tflop": Choice(
        f"{_CAUSAL_TFLOP_CPU:.0f} on a CPU, {_CAUSAL_TFLOP_GPU:,.0f} on a GPU", choose_causal_tflop, _CAUSAL_TFLOP_CPU
    )
}
TRYING = {
    "causal_tflop": Choice(
        f"without limit where only is given, else {_CAUSAL_TFLOP_CPU:.0f} on a CPU, {_CAUSAL_TFLOP_GPU:,.0f} on a GPU",
        choose_causal_tflop,
        _CAUSAL_TFLOP_CPU,
    )
}
