"""What a step chooses where it is asked to choose: -1 for a number, an empty string for a text.

KFP parameters cannot be None, so these two stand for "as fits the model".
"""

from mistudio.artifacts import Artifact
from mistudio.errors import ConfigError, InputError

CHOOSE = -1
_MAX_CONTEXT = 512
_MIN_WIDTH, _MAX_WIDTH = 1024, 32_768
_MIN_K, _MAX_K = 8, 64


def optional(value: int) -> int | None:
    """None where the step shall choose."""
    return None if value == CHOOSE else value


def choose_context_length(context_length: int, max_positions: int | None) -> int:
    """The length given, or as much as the model takes up to 512 tokens.

    Raises:
        InputError: the model cannot read sequences that long.
    """
    limit = max_positions or _MAX_CONTEXT
    if context_length == CHOOSE:
        return min(limit, _MAX_CONTEXT)
    if context_length > limit:
        message = f"context_length {context_length} is more than the {limit} positions of the model. Lower it."
        raise InputError(message)
    return context_length


def choose_layer(layer: int, num_layers: int) -> int:
    """The layer given, or the one in the middle.

    Raises:
        InputError: the model has no such layer.
    """
    if layer == CHOOSE:
        return num_layers // 2
    if not 0 <= layer < num_layers:
        message = f"There is no layer {layer}: the model has {num_layers} layers, 0 to {num_layers - 1}."
        raise InputError(message)
    return layer


def name_hooks(hook: str, layer: int) -> list[tuple[str, int]]:
    """Kind and layer of each hook point between the commas; a kind without a layer of its own takes ``layer``.

    Raises:
        ConfigError: a name is neither a kind nor KIND.LAYER, or ``layer`` is given and no hook point takes it.
    """
    from mistudio.subject.points import KINDS, HookPoint

    names = hook.replace(" ", "").split(",")
    if layer != CHOOSE and not any(name in KINDS for name in names):
        points = ", ".join(str(HookPoint.parse(name)) for name in names)
        message = f"layer {layer} is for hook points that name no layer, and {points} names its own: leave layer out."
        raise ConfigError(message)
    return [(name, layer) if name in KINDS else HookPoint.parse(name) for name in names]


def choose_width(width: int, d_in: int) -> int:
    """The width given, or eight times the activations' width as a power of two, 1,024 to 32,768."""
    if width != CHOOSE:
        return width
    return min(max(1 << (8 * d_in - 1).bit_length(), _MIN_WIDTH), _MAX_WIDTH)


def choose_k(k: int, d_in: int) -> int:
    """The k given, or a quarter of the activations' width, 8 to 64."""
    return min(max(d_in // 4, _MIN_K), _MAX_K) if k == CHOOSE else k


def choose_hook(hook: str, activations: Artifact) -> str:
    """The hook point given, or the only one that was captured.

    Raises:
        InputError: several were captured and none was named, or that one was not captured.
    """
    hooks = str(activations.manifest.summary["hooks"]).split(", ")
    if hook and hook not in hooks:
        message = f"{activations.uri} has no activations of {hook}; it has {', '.join(hooks)}."
        raise InputError(message)
    if not hook and len(hooks) > 1:
        message = f"{activations.uri} has several hook points: name one of {', '.join(hooks)}."
        raise InputError(message)
    return hook or hooks[0]


def captured_width(activations: Artifact, hook: str) -> int:
    """Width of the activations at a hook point."""
    return int(str(activations.manifest.summary[f"width.{hook}"]))
