"""Shards: what is written is what is read, bit for bit, from a memory map.

Shape legend: N rows, D width.
"""

import ctypes
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mistudio.activations import shards as shards_module
from mistudio.activations.shards import BLOCK_ROWS, META_COLUMNS, ShardFile, ShardWriter, block_rows, narrowed
from mistudio.errors import InputError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def meta_of(start: int, stop: int) -> dict[str, np.ndarray]:
    """Another number in each column of each row."""
    return {name: np.arange(start, stop, dtype=np.int32) * 4 + place for place, name in enumerate(META_COLUMNS)}


def write(path: Path, acts_ND: Tensor, dtype: str, pieces: tuple[int, ...] = ()) -> ShardFile:
    """Write rows in pieces that end at ``pieces``."""
    with ShardWriter(path, acts_ND.shape[1], dtype) as writer:
        for start, stop in zip((0, *pieces), (*pieces, len(acts_ND)), strict=True):
            writer.append(acts_ND[start:stop], meta_of(start, stop))
    return ShardFile(path)


def normal(rows: int, width: int = 4) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 7])
def test_rows_come_back_bit_for_bit(tmp_path: Path, dtype: str, rows: int) -> None:
    acts_ND = normal(rows)
    shard = write(tmp_path / "s", acts_ND, dtype, tuple(range(5000, rows, 5000)))
    assert (shard.num_rows, shard.width, shard.dtype) == (rows, 4, dtype)
    assert torch.equal(shard.acts(0, rows), acts_ND.to(DTYPES[dtype]))
    assert shard.acts(0, 1).dtype == DTYPES[dtype]
    for name, column in meta_of(0, rows).items():
        assert np.array_equal(shard.meta(name, 0, rows), column)


def test_every_bit_pattern_of_bfloat16_that_is_a_number_survives(tmp_path: Path) -> None:
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    numbers_ND = bits.view(torch.bfloat16)[:, None]
    numbers_ND = numbers_ND[torch.isfinite(numbers_ND).squeeze(1)]
    read_ND = write(tmp_path / "s", numbers_ND, "bfloat16").acts(0, len(numbers_ND))
    assert torch.equal(read_ND.view(torch.uint16), numbers_ND.view(torch.uint16))


def test_a_range_of_rows_may_span_blocks(tmp_path: Path) -> None:
    acts_ND = normal(3 * BLOCK_ROWS)
    shard = write(tmp_path / "s", acts_ND, "float16")
    for start, stop in [(0, 5), (BLOCK_ROWS - 2, BLOCK_ROWS + 3), (10, 2 * BLOCK_ROWS + 10), (BLOCK_ROWS, BLOCK_ROWS)]:
        assert torch.equal(shard.acts(start, stop), acts_ND[start:stop].half())
        assert np.array_equal(shard.meta("position", start, stop), meta_of(start, stop)["position"])
    assert shard.acts(7, 7).shape == (0, 4)
    assert len(shard.meta("position", 7, 7)) == 0


@pytest.mark.parametrize(("dtype", "stored"), [("float16", pa.float16()), ("bfloat16", pa.uint16())])
def test_any_reader_of_arrow_can_tell_what_a_shard_holds(tmp_path: Path, dtype: str, stored: pa.DataType) -> None:
    acts_ND = normal(10)
    write(tmp_path / "s", acts_ND, dtype)
    with pa.ipc.open_file(tmp_path / "s") as reader:
        table = reader.read_all()
    assert table.schema.metadata == {b"mistudio.dtype": dtype.encode()}
    assert table.schema.field("activation").type == pa.list_(pa.field("item", stored, nullable=False), 4)
    assert [field.name for field in table.schema] == ["activation", *META_COLUMNS]
    assert table.schema.field("document").type == pa.int32()
    bits = np.array(table["activation"].to_pylist(), dtype=stored.to_pandas_dtype()).view(np.uint16)
    assert np.array_equal(bits, acts_ND.to(DTYPES[dtype]).view(torch.uint16).numpy())


def test_rows_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    shard = write(tmp_path / "s", normal(100), "float16")
    address = shard.acts(3, 5).data_ptr()
    assert shard.acts(3, 5).data_ptr() == address
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path / "s") in line]
    bounds = [tuple(int(end, 16) for end in fields[0].split("-")) for fields in mapped]
    assert any(low <= address < high for low, high in bounds)
    assert ctypes.string_at(address, 8) == normal(100)[3].half().numpy().tobytes()


def test_a_shard_that_was_written_with_other_blocks_reads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts_ND = normal(1000)
    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "BLOCK_ROWS", 64)
        write(tmp_path / "s", acts_ND, "float16", (100, 101))
    shard = ShardFile(tmp_path / "s")
    assert torch.equal(shard.acts(60, 700), acts_ND[60:700].half())
    assert np.array_equal(shard.meta("token_id", 60, 700), meta_of(60, 700)["token_id"])


def test_the_same_rows_give_the_same_bytes_however_they_were_cut(tmp_path: Path) -> None:
    write(tmp_path / "a", normal(20_000), "float16")
    write(tmp_path / "b", normal(20_000), "float16", (1, 9000, 17_000))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("width", [64, 512, 768, 5120])
def test_blocks_of_wide_rows_are_about_a_mebibyte_and_equal_rows_give_equal_bytes(tmp_path: Path, width: int) -> None:
    rows = block_rows(width)
    assert rows % 512 == 0
    assert rows == 512 or (1 << 19) <= 2 * width * rows <= 1 << 20
    acts_ND = normal(rows + 300, width)
    shard = write(tmp_path / "a", acts_ND, "bfloat16")
    write(tmp_path / "b", acts_ND, "bfloat16", (1, 200, rows - 1, rows + 7))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert torch.equal(shard.acts(rows - 5, rows + 5), acts_ND[rows - 5 : rows + 5].bfloat16())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_of_a_format_are_kept_and_the_next_are_refused(dtype: str) -> None:
    largest = torch.finfo(DTYPES[dtype]).max
    kept_ND = torch.tensor([[largest, -largest, -0.0]])
    assert torch.equal(narrowed(kept_ND, dtype).float(), kept_ND)
    for value in (2 * largest, -2 * largest, float("inf"), -float("inf"), float("nan"), -float("nan")):
        with pytest.raises(InputError):
            narrowed(torch.tensor([[0.0, value, 0.0]]), dtype)


def test_a_value_beyond_float16_is_refused_with_the_value_and_what_to_do(tmp_path: Path) -> None:
    acts_ND = torch.tensor([[1.0, -70_000.0]])
    with pytest.raises(InputError, match=r"magnitude 7e\+04 does not fit float16.*storage_dtype bfloat16"):
        write(tmp_path / "s", acts_ND, "float16")
    assert write(tmp_path / "s", acts_ND, "bfloat16").acts(0, 1).tolist() == [[1.0, -70_144.0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_laid_to_the_model(tmp_path: Path, dtype: str, value: float) -> None:
    with pytest.raises(InputError, match="The model's activations hold NaN or infinity"):
        write(tmp_path / "s", torch.tensor([[1.0, value]]), dtype)
