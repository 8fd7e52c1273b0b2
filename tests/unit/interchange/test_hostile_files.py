"""Autoencoders whose files hold what cannot be computed with, or would take all memory, are refused in short."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mistudio.errors import ConfigError, InputError
from mistudio.interchange import FORMATS, tensors
from mistudio.interchange.tensors import read_npz
from tests.unit.interchange.samples import D_IN, WIDTH, make

INF = float("inf")
FLAGS = [
    ("saelens", "apply_b_dec_to_input"),
    ("saelens", "rescale_acts_by_decoder_norm"),
    ("sparsify", "skip_connection"),
    ("sparsify", "transcode"),
]


def written(form: str, folder: Path, architecture: str = "topk") -> Path:
    FORMATS[form].write(make(architecture), folder, "resid_post.3", None)
    return folder


def refused(form: str, folder: Path, reason: str, kind: type[Exception] = InputError) -> None:
    with pytest.raises(kind, match=reason) as error:
        FORMATS[form].read(folder)
    assert len(str(error.value)) < 1000


def with_tensor(folder: Path, name: str, value: Tensor) -> None:
    """Put a tensor into a file of dictionary_learning."""
    path = folder / "ae.pt"
    torch.save({**torch.load(path, weights_only=True), name: value}, path)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("b_dec", torch.full((D_IN,), float("nan")), "not finite"),
        ("b_dec", torch.full((D_IN,), INF), "not finite"),
        ("b_dec", torch.full((D_IN,), 1e300, dtype=torch.float64), "not finite"),
        ("b_dec", torch.full((D_IN,), 3e38), "numbers above 1e[+]09, too large"),
        ("b_dec", torch.ones(D_IN, dtype=torch.complex64), "is of torch.complex64"),
        ("b_dec", torch.ones(D_IN, dtype=torch.bool), "is of torch.bool"),
        ("b_dec", torch.zeros(D_IN, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "is of torch.float4"),
        ("encoder.weight", torch.eye(WIDTH, D_IN).to_sparse(), "is sparse"),
        ("encoder.weight", torch.eye(WIDTH, D_IN).to_sparse_csr(), "is sparse"),
        ("encoder.weight", torch.empty(WIDTH, D_IN, device="meta"), "is of no values"),
        ("encoder.weight", torch.zeros(1).expand(10**6, 10**6), "but fewer numbers"),
        ("encoder.weight", torch.zeros(10**12, 0), "which holds nothing"),
        ("encoder.weight", torch.zeros(0, D_IN), "which holds nothing"),
        ("encoder.weight", torch.zeros(WIDTH, 1), "1 wide and the bias 12"),
        ("encoder.weight", torch.zeros(1, D_IN), "width 1 is too small"),
        ("k", torch.tensor(INF), "not finite"),
        ("k", torch.tensor(float("nan")), "not finite"),
        ("k", torch.tensor(1j), "is of torch.complex64"),
        ("k", torch.tensor(1.9), "whole numbers"),
        ("k", torch.tensor(-1), "whole numbers"),
        ("k", torch.zeros(1).expand(10**12), "whole numbers"),
        ("k", torch.tensor(10**6), "larger than width"),
    ],
)
def test_tensors_that_cannot_be_computed_with_are_refused(
    name: str, value: Tensor, reason: str, tmp_path: Path
) -> None:
    with_tensor(written("dictionary_learning", tmp_path), name, value)
    refused("dictionary_learning", tmp_path, reason, (InputError, ConfigError))  # type: ignore[arg-type]


def test_group_sizes_that_are_no_sizes_are_refused(tmp_path: Path) -> None:
    written("dictionary_learning", tmp_path, "matryoshka")
    for value in (torch.tensor([INF, 1.0]), torch.zeros(1).expand(10**10), torch.ones(100), torch.tensor([0.5, 63.5])):
        with_tensor(tmp_path, "group_sizes", value)
        refused("dictionary_learning", tmp_path, "group_sizes")
    with_tensor(tmp_path, "group_sizes", torch.tensor([3, 4]))
    refused("dictionary_learning", tmp_path, "prefixes", ConfigError)


def test_weights_that_fit_no_memory_together_are_refused_before_it_is_taken(tmp_path: Path) -> None:
    path = written("saelens", tmp_path) / "sae_weights.safetensors"
    weights = load_file(path)
    wide = {"W_enc": torch.zeros(1, 2_000_000), "b_enc": torch.zeros(2_000_000), "W_dec": torch.zeros(1, 2_000_000)}
    save_file(weights | wide, path)
    refused("saelens", tmp_path, r"W_dec has shape \[1, 2000000\], but .* it must be \[2000000, 2000000\]")


@pytest.mark.parametrize("value", [INF, float("nan"), 3e38, 1000.0])
def test_gated_magnitudes_are_bounded_as_they_are_used(value: float, tmp_path: Path) -> None:
    path = written("saelens", tmp_path, "gated") / "sae_weights.safetensors"
    save_file({**load_file(path), "r_mag": torch.full((WIDTH,), value)}, path)
    refused("saelens", tmp_path, "r_mag has (numbers|magnitudes)")


def header(**tensor: object) -> bytes:
    text = json.dumps({"W_enc": tensor}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        header(dtype="F32", shape=[-1], data_offsets=[0, 64]),
        header(dtype="F32", shape=[2**63, 2**63], data_offsets=[0, 64]),
        header(dtype="F32", shape=[2**32, 2**32], data_offsets=[0, 64]),
        header(dtype="F32", shape=[16], data_offsets=[0, 2**60]),
        header(dtype="F32", shape=[1.5], data_offsets=[0, 64]),
        header(dtype="F4", shape=[128], data_offsets=[0, 64]),
        header(dtype="F8_E8M0", shape=[64], data_offsets=[0, 64]),
        header(dtype="C64", shape=[8], data_offsets=[0, 64]),
        header(dtype="F6_E2M3", shape=[64], data_offsets=[0, 48]),
        header(dtype="Q9", shape=[16], data_offsets=[0, 64]),
        header(dtype="F32", shape=[2**40, 0], data_offsets=[0, 0]),
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_odd_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    (written("saelens", tmp_path) / "sae_weights.safetensors").write_bytes(content)
    refused("saelens", tmp_path, "cannot be read as safetensors|holds the tensors")


def test_names_of_tensors_are_listed_in_short(tmp_path: Path) -> None:
    path = written("saelens", tmp_path) / "sae_weights.safetensors"
    save_file({f"{'x' * 500}{number}": torch.zeros(1) for number in range(200)}, path)
    with pytest.raises(InputError, match="and 180 more") as error:
        FORMATS["saelens"].read(tmp_path)
    assert len(str(error.value)) < 3000


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(text: str, content: bytes = b"") -> bytes:
    padded = text.ljust(118) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode() + content


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps([1])),
        npy("{'descr': '<U2', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
        npy("{'descr': '|b1', 'fortran_order': False, 'shape': (1,), }", bytes(1)),
        npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", bytes(4)),
        npy("(" * 5000),
        npy("-" * 9000 + "1"),
        npy("[" * 90 + "1"),
        npy("{'descr': '<f4', 'shape': (" + "9" * 5000 + ",), 'fortran_order': False}"),
        b"\x93NUMPY\x09\x00",
        b"",
    ],
)
def test_odd_arrays_are_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"params\.npz cannot be read as an \.npz of numbers") as error:
        read_npz(zipped(tmp_path / "params.npz", W=content), ["W"])
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("value", [INF, float("nan"), 3e38, 1e300])
def test_arrays_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    path = written("gemma_scope", tmp_path, "jumprelu") / "params.npz"
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(path, allow_pickle=False, **arrays | {"threshold": np.full(WIDTH, value)})
    refused("gemma_scope", tmp_path, "threshold has numbers (that are not finite|above)")


@pytest.mark.parametrize("form", ["gemma_scope", "dictionary_learning"])
def test_archives_that_unpack_to_far_more_than_they_are_are_refused(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "_SMALL_BYTES", 1000)
    written(form, tmp_path, "jumprelu")
    path = tmp_path / FORMATS[form].files[-1]
    FORMATS[form].read(tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(3_000_000) if len(content) > 1000 else content)
    refused(form, tmp_path, r"would unpack to [\d,]+ bytes, more than 16 times its size")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"k": ' + "1" * 5000 + "}"])
@pytest.mark.parametrize(("form", "name"), [("saelens", "cfg.json"), ("dictionary_learning", "config.json")])
def test_configurations_that_cannot_be_read_are_refused(form: str, name: str, text: str, tmp_path: Path) -> None:
    (written(form, tmp_path) / name).write_text(text)
    refused(form, tmp_path, f"{name} cannot be read as JSON")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e400", '"x"', "1.9", "-1", "[3]", "1" * 90])
def test_numbers_of_latents_that_are_none_are_refused(value: str, tmp_path: Path) -> None:
    path = written("saelens", tmp_path) / "cfg.json"
    path.write_text(path.read_text().replace('"k": 5,', f'"k": {value},'))
    assert value in path.read_text()
    refused("saelens", tmp_path, "cannot be read as JSON|cannot hold: k|k [-1]+ ", (InputError, ConfigError))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["false", 0, 1.5, [], {}])
@pytest.mark.parametrize(("form", "name"), FLAGS)
def test_what_is_on_or_off_is_true_or_false(form: str, name: str, value: object, tmp_path: Path) -> None:
    path = written(form, tmp_path) / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    refused(form, tmp_path, f"{name} .*has to be true or false", ConfigError)
