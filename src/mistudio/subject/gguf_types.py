"""The types of ggml that the tensors of a GGUF file may have, and whether all of the file is there."""

from pathlib import Path

from mistudio.errors import SubjectError
from mistudio.plain_text import without_surrogates
from mistudio.subject.gguf_header import GgufHeader, GgufTensor

READABLE_TYPES = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
)


def check_tensors(path: Path, header: GgufHeader) -> None:
    """Refuse a file with a tensor that cannot be dequantised, or that does not lie in it from start to end.

    Raises:
        SubjectError: there is one; the message names it.
    """
    size = path.stat().st_size
    for tensor in header.tensors:
        end = header.data_start + tensor.offset + _num_bytes(path, tensor)
        if end > size:
            message = (
                f"{without_surrogates(str(path))} is cut off: {tensor.name} would end at byte {end:,}, and it has "
                f"{size:,}. Download it again."
            )
            raise SubjectError(message)


def main_type(header: GgufHeader) -> str:
    """The type that most weights have, by ggml's name."""
    from gguf import GGMLQuantizationType

    sizes: dict[int, int] = {}
    for tensor in header.tensors:
        sizes[tensor.type_number] = sizes.get(tensor.type_number, 0) + tensor.num_weights
    return str(GGMLQuantizationType(max(sizes, key=lambda number: sizes[number])).name)


def _num_bytes(path: Path, tensor: GgufTensor) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(tensor.type_number)
    except ValueError:
        kind = None
    if kind is None or kind.name not in READABLE_TYPES:
        which = f"of ggml's type {tensor.type_number}" if kind is None else f"quantised as {kind.name}"
        message = (
            f"{without_surrogates(path.name)}: {tensor.name} is {which}, which cannot be read. Read are "
            f"{', '.join(READABLE_TYPES)}. Take the model in another quantisation."
        )
        raise SubjectError(message)
    block_weights, block_bytes = GGML_QUANT_SIZES[kind]
    return -(-tensor.num_weights // block_weights) * int(block_bytes)
