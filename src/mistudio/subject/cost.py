"""What running a model costs: floating point operations from its sizes, and seconds from a speed measured on the spot.

::

    flop = pass_flop(shape, tokens=20_000, context_length=128)
    say(f"Evaluate in the model: {stated(flop, subject_speed(subject))}")

A multiplication and an addition are two operations (FLOP). Counted are the products of matrices: two operations a
weight and token, and four a token, width and token of the context for attention, as in Kaplan et al. 2020
(arXiv:2001.08361, table 1). What is looked up, normed or added is not counted; it lowers the speed that is measured. Of
a mixture of experts all weights of a block are counted, which is more than are used.

Once a model is loaded, its speed is that of one short pass through it (:func:`subject_speed`). Where there is none yet
it is that of one block of its sizes with random weights (:func:`measured_speed`): products of matrices alone are up to
twenty-five times as quick as a small model, which spends its time between them.

Shape legend: B sequences, T tokens of a sequence, D model width, M inner width of the MLP, H heads, K width of a head.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # steps that find their artifact compute nothing
    import torch

    from mistudio.subject.footprint import ModelShape
    from mistudio.subject.load import Subject

_PASS_TOKENS = 256
_PASS_LENGTH = 128
_MOST_COLUMNS = 4096
_MEASURED_S = 0.05  # of each measurement, after what warms up
# What passes reach of the speed of the block that stands in for theirs: 0.91 in SmolLM2-135M, 0.76 in stories260K.
EFFICIENCY = 0.85
_UNITS = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))


def pass_flop(
    shape: "ModelShape",
    tokens: float,
    context_length: int,
    *,
    blocks: int | None = None,
    head: bool = True,
    backward: bool = False,
) -> float:
    """FLOP of running ``tokens`` tokens through a model.

    Args:
        shape: of the model.
        tokens: padding included.
        context_length: tokens of a sequence, each of which attends to all.
        blocks: how many of the blocks are run; None: all.
        head: whether logits are computed too.
        backward: whether a gradient goes back the same way, to activations and not to weights, as models are frozen.
    """
    num_blocks = shape.num_layers if blocks is None else blocks
    per_token = num_blocks * (2 * shape.block_parameters + 4 * context_length * shape.d_model)
    if head:
        per_token += 2 * shape.d_model * shape.vocab_size
    return float(tokens) * per_token * (2 if backward else 1)


def encoding_flop(rows: float, d_in: int, width: int) -> float:
    """FLOP of an autoencoder's encoder on so many rows; decoding the few active latents costs little beside it."""
    return 2.0 * rows * d_in * width


def training_flop(rows: float, d_in: int, width: int, *, few_active: bool) -> float:
    """FLOP of training an autoencoder on ``rows`` rows, as multiples of its encoder's product.

    Three, with one for each gradient, where latents are not chosen one by one and begin active on many tokens. With
    ``few_active`` (TopK and its like) gradients are products at active pairs; these, the choice and the optimiser took
    less than half as long again as the encoder's product (docs/performance.md).
    """
    return (1.5 if few_active else 3.0) * encoding_flop(rows, d_in, width)


@cache
def measured_speed(shape: "ModelShape", device: str = "cpu", dtype: str = "float32") -> float:
    """FLOP/s that passes through a model of this shape may reach, by one block of its sizes with random weights.

    Takes a fraction of a second, once a process, shape, device and number format.

    Args:
        shape: of the model.
        device: where it is to run.
        dtype: in which number format.
    """
    import torch

    place, length = torch.device(device), min(_PASS_LENGTH, shape.max_positions or _PASS_LENGTH)
    block = _StandIn(shape.d_model, shape.d_mlp, shape.num_heads, device=place, dtype=getattr(torch, dtype))
    x_BTD = block.norm_D.new_ones(max(_PASS_TOKENS // length, 1), length, shape.d_model)
    with torch.no_grad():
        seconds = _seconds(lambda: block(x_BTD), place)
    flop = x_BTD[..., 0].numel() * (2 * block.num_weights + 4 * length * shape.d_model)
    return EFFICIENCY * float(flop) / seconds


@cache
def product_speed(rows: int, d_in: int, width: int, device: str = "cpu", dtype: str = "float32") -> float:
    """FLOP/s of an autoencoder's encoder on batches of so many rows; takes a fraction of a second, once a process."""
    import torch

    placed = {"device": torch.device(device), "dtype": getattr(torch, dtype)}
    columns = min(width, _MOST_COLUMNS)
    x_RD, W_DF = torch.ones(rows, d_in, **placed), torch.ones(d_in, columns, **placed)
    with torch.no_grad():
        seconds = _seconds(lambda: x_RD @ W_DF, placed["device"])
    return encoding_flop(rows, d_in, columns) / seconds


class _StandIn:
    """A transformer block as Llama's: norms, attention, a gated MLP; it stands in for any other of these sizes."""

    def __init__(self, d_model: int, d_mlp: int, num_heads: int, **placed: Any) -> None:
        import torch

        self.num_heads, inner = num_heads, num_heads * max(d_model // num_heads, 1)
        self.norm_D = torch.ones(d_model, **placed)
        sizes = ((d_model, inner),) * 3 + ((inner, d_model),) + ((d_model, d_mlp),) * 2 + ((d_mlp, d_model),)
        self.weights = [torch.randn(size, **placed).T / size[0] ** 0.5 for size in sizes]
        self.num_weights = sum(weight.numel() for weight in self.weights)

    def __call__(self, x_BTD: "torch.Tensor") -> "torch.Tensor":
        from torch.nn import functional as f

        query, key, value, out, gate, up, down = self.weights
        normed_BTD = f.rms_norm(x_BTD, x_BTD.shape[-1:], self.norm_D)
        of_heads = (*x_BTD.shape[:2], self.num_heads, -1)
        q_BHTK, k_BHTK, v_BHTK = (f.linear(normed_BTD, W).view(of_heads).transpose(1, 2) for W in (query, key, value))
        mixed_BHTK = f.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        x_BTD = x_BTD + f.linear(mixed_BHTK.transpose(1, 2).flatten(2), out)
        normed_BTD = f.rms_norm(x_BTD, x_BTD.shape[-1:], self.norm_D)
        return x_BTD + f.linear(f.silu(f.linear(normed_BTD, gate)) * f.linear(normed_BTD, up), down)


def subject_speed(subject: "Subject", blocks: int | None = None) -> float:
    """FLOP/s of one short batch through the first blocks of a loaded model, or all; measured once a model."""
    import torch

    blocks = subject.num_layers if blocks is None else blocks
    key = f"speed.{blocks}"
    if key not in subject.cache:
        length = min(_PASS_LENGTH, subject.max_positions or _PASS_LENGTH)
        ids_BT = _some_ids(subject, length)
        with torch.no_grad():
            seconds = _seconds(lambda: _run_blocks(subject, blocks, ids_BT), subject.device)
        flop = pass_flop(subject_shape(subject), ids_BT.numel(), length, blocks=blocks, head=False)
        subject.cache[key] = flop / seconds
    return float(subject.cache[key])


def subject_shape(subject: "Subject") -> "ModelShape":
    """The sizes of a loaded model, by its configuration: weights may lie packed."""
    from mistudio.subject.footprint import shape_of_class

    if "shape" not in subject.cache:
        subject.cache["shape"] = shape_of_class(type(subject.model), subject.model.config)
    shape: ModelShape = subject.cache["shape"]
    return shape


def stated(flop: float, speed: float) -> str:
    """What a piece of work takes, for people: ``about 3 min 20 s (12.3 TFLOP at 62 GFLOP/s)``."""
    return f"about {duration(flop / speed)} ({short_flop(flop)} at {short_flop(speed)}/s)"


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``8 s``, ``3 min 20 s``, ``4 h 12 min``."""
    if seconds < 1:
        return "1 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 3570:
        minutes, rest = divmod(round(seconds / 10) * 10, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def short_flop(flop: float) -> str:
    """FLOP in three digits: ``12.3 TFLOP``."""
    size, unit = next((known for known in _UNITS if flop >= known[0]), _UNITS[-1])
    return f"{flop / size:.3g} {unit}" if flop < 1000 * size else f"{flop / size:,.0f} {unit}"


def _some_ids(subject: "Subject", length: int) -> "torch.Tensor":
    """A few sequences of random tokens [B, T], the same every time."""
    import torch

    size = (max(_PASS_TOKENS // length, 1), length)
    return torch.randint(subject.vocab_size, size, generator=torch.Generator().manual_seed(0)).to(subject.device)


def _run_blocks(subject: "Subject", blocks: int, ids_BT: "torch.Tensor") -> None:
    """A pass that ends behind one of the blocks."""
    from mistudio.subject.structure import Tap
    from mistudio.subject.taps import reading, unedited
    from mistudio.subject.trace import StopForward

    def stop(_value: "torch.Tensor") -> None:
        raise StopForward

    with suppress(StopForward), unedited(), reading(Tap(subject.blocks[blocks - 1], "output"), stop):
        subject.model(input_ids=ids_BT)


def _seconds(work: Callable[[], object], device: "torch.device") -> float:
    """The quickest of a few runs: others may be using the machine meanwhile."""
    _timed(work, device)
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < _MEASURED_S:
        best = min(best, _timed(work, device))
    return best


def _timed(work: Callable[[], object], device: "torch.device") -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return max(time.perf_counter() - started, 1e-9)
