"""The weights of a GGUF file, dequantised and written as safetensors, a part at a time.

transformers' own loading takes most of its time looking up the names of tensors once for each module of the model, and
holds all weights twice. Here the names are looked up once, and no more is held than a file of the result and a tensor.
What llama.cpp changed in the weights is undone by transformers' processors, one an architecture.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.errors import SubjectError
from mistudio.progress import progress
from mistudio.subject.gguf_header import GgufHeader, GgufTensor

if TYPE_CHECKING:
    import numpy as np
    import torch

SHARD_BYTES = 1 << 30
_MOST_NAMED = 5
_NOT_WEIGHTS = ("rope_freqs.weight",)  # read with the configuration


def write_weights(path: Path, header: GgufHeader, model: Any, dtype: "torch.dtype", folder: Path) -> None:
    """Write the weights of a GGUF file to ``folder``, by the names that they have in ``model``.

    Args:
        path: of the file.
        header: of the file.
        model: of the file's configuration, with no memory for its weights.
        dtype: number format to write.
        folder: where the files and their index are written.

    Raises:
        SubjectError: the file lacks weights of the model, or has others.
    """
    from safetensors.torch import save_file

    expected = _expected(model)
    total = sum(tensor.num_weights for tensor in header.tensors)
    shard: dict[str, torch.Tensor] = {}
    files: list[dict[str, torch.Size]] = []

    def flush() -> None:
        save_file(shard, folder / f"part-{len(files)}.safetensors", metadata={"format": "pt"})
        files.append({name: tensor.shape for name, tensor in shard.items()})
        shard.clear()

    with progress(f"Dequantise {path.name}", total, "weights") as bar:
        for name, tensor in _named_tensors(path, header, model, bar):
            shard[name] = tensor.to(dtype)
            if sum(each.nbytes for each in shard.values()) >= SHARD_BYTES:
                flush()
    if shard:
        flush()
    _check_complete(path, expected, {name: shape for file in files for name, shape in file.items()})
    _name_files(folder, [list(file) for file in files])


def _named_tensors(path: Path, header: GgufHeader, model: Any, bar: Any) -> "Iterator[tuple[str, torch.Tensor]]":
    """Tensors by their names in the model, dequantised, in the order of the file.

    Raises:
        SubjectError: the model has no place for one.
    """
    import numpy as np
    import torch
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=model.config.to_dict())
    names = get_gguf_hf_weights_map(_Flat(model), processor)
    put_together: dict[str, torch.Tensor] = {}  # of several tensors, as experts are
    left_over = []
    data = np.memmap(path, mode="r", dtype=np.uint8)
    for tensor in header.tensors:
        if tensor.name in _NOT_WEIGHTS:
            continue
        done = processor.process(
            weights=dequantised(data, header, tensor),
            name=tensor.name,
            tensor_key_mapping=names,
            parsed_parameters={"tensors": put_together},
        )
        bar.advance(tensor.num_weights)
        if done.name in names:
            yield names[done.name], torch.from_numpy(np.array(done.weights, order="C"))
        elif done.name is not None:
            left_over.append(tensor.name)
    yield from put_together.items()
    if left_over:
        raise SubjectError(_of_another_kind(path, f"the model has no place for {_listed(left_over)}"))


class _Flat:
    """A model as the look-up of names wants it, which goes through all modules, and needs the first two."""

    def __init__(self, model: Any, *, is_inner: bool = False) -> None:
        self.config = model.config
        self._model = model
        self._is_inner = is_inner

    def state_dict(self) -> Any:
        return self._model.state_dict()

    def named_children(self) -> "list[tuple[str, _Flat]]":
        inner = self._model.base_model
        if self._is_inner or inner is self._model:
            return []
        return [(self._model.base_model_prefix, _Flat(inner, is_inner=True))]


def dequantised(data: "np.ndarray[Any, Any]", header: GgufHeader, tensor: GgufTensor) -> "np.ndarray[Any, Any]":
    """A tensor in float32."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    kind = GGMLQuantizationType(tensor.type_number)
    block_weights, block_bytes = GGML_QUANT_SIZES[kind]
    start = header.data_start + tensor.offset
    row_bytes = tensor.shape[-1] // block_weights * block_bytes
    rows = tensor.num_weights // tensor.shape[-1]
    raw = data[start : start + rows * row_bytes].reshape(rows, row_bytes)
    return dequantize(raw, kind).reshape(tensor.shape)


def _expected(model: Any) -> "dict[str, torch.Size]":
    """Shapes of the weights that a file of the model has, by name; of tied ones the first alone."""
    model.tie_weights()
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _check_complete(path: Path, expected: "dict[str, torch.Size]", found: "dict[str, torch.Size]") -> None:
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise SubjectError(_of_another_kind(path, f"the file lacks {_listed(missing)}"))
    wrong = sorted(name for name, shape in expected.items() if found[name] != shape)
    if wrong:
        shapes = f"{tuple(found[wrong[0]])} in the file and {tuple(expected[wrong[0]])} in the model"
        raise SubjectError(_of_another_kind(path, f"{_listed(wrong)} differ in shape: {shapes}"))


def _of_another_kind(path: Path, what: str) -> str:
    return (
        f"{path.name} is of another kind than transformers reads from GGUF files: {what}. Use the model in Hugging "
        "Face format."
    )


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:_MOST_NAMED])}{', …' if len(names) > _MOST_NAMED else ''}"


def _name_files(folder: Path, files: list[list[str]]) -> None:
    """Name the parts as transformers looks for them."""
    if len(files) == 1:
        (folder / "part-0.safetensors").rename(folder / "model.safetensors")
        return
    where = {}
    for number, names in enumerate(files):
        target = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        (folder / f"part-{number}.safetensors").rename(folder / target)
        where.update(dict.fromkeys(names, target))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
