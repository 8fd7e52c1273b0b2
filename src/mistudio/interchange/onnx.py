"""ONNX, for devices without PyTorch: ``encode.onnx``, ``decode.onnx``, and an encoder of a few chosen latents.

``encode`` takes x [T, D] to acts [T, F]; ``decode`` takes acts, and x where there is a skip, to out [T, E];
``encode_features`` takes x to the activations of the chosen latents alone, in the order chosen. Where latents do
not compete, its weights are those of the chosen ones alone.

Shape legend: T tokens, D and E widths of input and output, F features (latents).
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mistudio.errors import ConfigError
from mistudio.interchange.weights import Weights, thresholds, weights_of
from mistudio.sae import SparseAutoencoder

NAME = "onnx"
ENCODE, DECODE, ENCODE_FEATURES = "encode.onnx", "decode.onnx", "encode_features.onnx"

_OPSET, _IR_VERSION = 18, 9
_MAX_BYTES = (1 << 31) - (1 << 20)  # of one file, as of any protocol buffer


class _Graph:
    """A model being put together: operations, and the weights they use."""

    def __init__(self) -> None:
        try:
            self._onnx: Any = importlib.import_module("onnx")
        except ImportError as error:
            message = "Writing ONNX needs the package onnx, which is not installed: pip install onnx."
            raise ConfigError(message) from error
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def weight(self, name: str, value: Tensor) -> str:
        """Add a constant."""
        self._weights.append(self._onnx.numpy_helper.from_array(value.contiguous().numpy(), name))
        return name

    def add(self, operation: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add an operation."""
        self._nodes.append(self._onnx.helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def top(self, values: str, k: int) -> tuple[str, str]:
        """Add the selection of the k largest of each row: values and indices."""
        outputs = ["top_values", "top_indices"]
        inputs = [values, self.weight("k", torch.tensor([k]))]
        self._nodes.append(self._onnx.helper.make_node("TopK", inputs, outputs, axis=1, sorted=0))
        return outputs[0], outputs[1]

    def model(self, inputs: dict[str, int], outputs: dict[str, int]) -> bytes:
        """The model; inputs and outputs by name with their widths."""
        helper = self._onnx.helper
        sides = [
            [
                helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, ["tokens", width])
                for name, width in each
            ]
            for each in (inputs.items(), outputs.items())
        ]
        graph = helper.make_graph(self._nodes, "mistudio", *sides, self._weights)
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="mistudio")
        self._onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def write(sae: SparseAutoencoder, folder: Path, features: Sequence[int] = ()) -> list[Path]:
    """Write the models; return the files.

    Args:
        sae: what to write.
        folder: where to.
        features: latents for the small encoder; none is written without any.

    Raises:
        ConfigError: a latent does not exist, the architecture does not say what it computes, the file would be too
            large, or the package onnx is not installed.
    """
    _check(sae, features)
    models = {ENCODE: _encoder(sae, None), DECODE: _decoder(sae)}
    if features:
        models[ENCODE_FEATURES] = _encoder(sae, list(features))
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in models.items():
        (folder / name).write_bytes(model)
    return [folder / name for name in models]


def _check(sae: SparseAutoencoder, features: Sequence[int]) -> None:
    missing = [feature for feature in features if not 0 <= feature < sae.width]
    if missing:
        message = f"There is no latent {missing[0]}: this autoencoder has {sae.width:,}, numbered from 0."
        raise ConfigError(message)
    num_bytes = 4 * max(sae.W_enc.numel(), sae.W_dec.numel())
    if num_bytes > _MAX_BYTES:
        message = f"The weights of one file would take {num_bytes:,} bytes; ONNX files end at {_MAX_BYTES:,}."
        raise ConfigError(message)


def _encoder(sae: SparseAutoencoder, features: list[int] | None) -> bytes:
    weights, graph, form = weights_of(sae), _Graph(), sae.exported_as()
    if form and form.computes == "topk":
        acts = _top(graph, weights, sae.config.model_dump()["k"])
        if features is not None:
            acts = graph.add("Gather", [acts, graph.weight("features", torch.tensor(features))], "chosen", axis=1)
    else:
        acts = _independent(sae, graph, weights, slice(None) if features is None else features)
    graph.add("Identity", [acts], "acts")
    return graph.model({"x": sae.d_in}, {"acts": sae.width if features is None else len(features)})


def _product(graph: _Graph, weights: Weights, chosen: slice | list[int]) -> str:
    return graph.add("Gemm", ["x", graph.weight("W_enc", weights["W_enc"][chosen])], "product", transB=1)


def _top(graph: _Graph, weights: Weights, k: int) -> str:
    product = _product(graph, weights, slice(None))
    pre = graph.add("Add", [product, graph.weight("b_enc", weights["b_enc"])], "pre")
    values, indices = graph.top(pre, k)
    positive = graph.add("Relu", [values], "positive")
    zeros = graph.add("ConstantOfShape", [graph.add("Shape", [pre], "shape")], "zeros")
    return graph.add("ScatterElements", [zeros, indices, positive], "kept", axis=1)


def _independent(sae: SparseAutoencoder, graph: _Graph, weights: Weights, chosen: slice | list[int]) -> str:
    """Latents that are active or not whatever the others are: values where something exceeds a threshold."""
    product = _product(graph, weights, chosen)
    pre = graph.add("Add", [product, graph.weight("b_enc", weights["b_enc"][chosen])], "pre")
    form = sae.exported_as()
    if form and form.computes == "gated":
        threshold_F, scale_F = torch.zeros(sae.width)[chosen], weights["r_mag"].exp()[chosen]
        scaled = graph.add("Mul", [product, graph.weight("magnitude", scale_F)], "scaled")
        values = graph.add("Add", [scaled, graph.weight("b_mag", weights["b_mag"][chosen])], "values")
    else:
        threshold_F, values = thresholds(sae, NAME)[chosen], pre
    is_active = graph.add("Greater", [pre, graph.weight("threshold", threshold_F)], "is_active")
    positive = graph.add("Relu", [values], "positive")
    return graph.add("Where", [is_active, positive, graph.weight("zero", torch.tensor(0.0))], "kept")


def _decoder(sae: SparseAutoencoder) -> bytes:
    weights, graph, inputs = weights_of(sae), _Graph(), {"acts": sae.width}
    names = [graph.weight(name, weights[name]) for name in ("W_dec", "b_dec")]
    out = graph.add("Gemm", ["acts", *names], "decoded")
    if sae.config.skip != "none":
        inputs["x"] = sae.d_in
        name, operation = ("W_skip", "MatMul") if sae.config.skip == "linear" else ("skip_scale", "Mul")
        skipped = graph.add(operation, ["x", graph.weight(name, weights[name])], "skipped")
        out = graph.add("Add", [out, skipped], "sum")
    graph.add("Identity", [out], "out")
    return graph.model(inputs, {"out": sae.d_out})
