"""Files that are damaged, of another version or dangerous are refused with one clear message."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mistudio.errors import ConfigError, InputError, NotFound
from mistudio.interchange import FORMATS
from tests.unit.interchange.samples import assert_same, make

WEIGHTS = {
    "saelens": "sae_weights.safetensors",
    "sparsify": "sae.safetensors",
    "gemma_scope": "params.npz",
    "dictionary_learning": "ae.pt",
}
CONFIGS = {"saelens": "cfg.json", "sparsify": "cfg.json", "dictionary_learning": "config.json"}


def written(form: str, folder: Path) -> Path:
    FORMATS[form].write(make("jumprelu" if form == "gemma_scope" else "topk"), folder, "resid_post.3", None)
    return folder


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("form", WEIGHTS)
def test_a_missing_file_is_named(form: str, tmp_path: Path) -> None:
    (written(form, tmp_path) / WEIGHTS[form]).unlink()
    with pytest.raises(NotFound, match=rf"no file {WEIGHTS[form]}.*{form}"):
        FORMATS[form].read(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
@pytest.mark.parametrize("form", WEIGHTS)
def test_damaged_weights_are_named(form: str, damage: str, tmp_path: Path) -> None:
    path = written(form, tmp_path) / WEIGHTS[form]
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "text": b"not what it says"}[damage])
    with pytest.raises(InputError, match=f"{WEIGHTS[form]} cannot be read as"):
        FORMATS[form].read(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]"])
@pytest.mark.parametrize("form", CONFIGS)
def test_damaged_configurations_are_named(form: str, content: str, tmp_path: Path) -> None:
    (written(form, tmp_path) / CONFIGS[form]).write_text(content)
    with pytest.raises(InputError, match=rf"{CONFIGS[form]} (cannot be read as JSON|holds a JSON list)"):
        FORMATS[form].read(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("W_enc", None, "holds the tensors"),
        ("extra", torch.zeros(3), "holds the tensors .*extra"),
        ("b_enc", torch.zeros(63), r"b_enc has shape \[63\], but with the other weights it must be \[64\]"),
        ("W_enc", torch.zeros(12), r"tensor W_enc has shape \[12\]"),
        ("b_dec", torch.full((12,), float("nan")), "b_dec has numbers that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_named(name: str, tensor: torch.Tensor | None, reason: str, tmp_path: Path) -> None:
    path = written("saelens", tmp_path) / WEIGHTS["saelens"]
    tensors = load_file(path)
    tensors.pop(name, None)
    save_file(tensors | ({} if tensor is None else {name: tensor}), path)
    with pytest.raises(InputError, match=reason):
        FORMATS["saelens"].read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "temporal"}, "architecture 'temporal' of SAELens"),
        ({"metadata": None}, "not of SAELens 6"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations 'layer_norm'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations 'hook_z'"),
        ({"k": None}, "cannot hold: k"),
        ({"k": 65}, "k 65 is larger than width 64"),
    ],
)
def test_what_miStudio_cannot_hold_is_refused(changes: dict[str, object], reason: str, tmp_path: Path) -> None:
    edit(written("saelens", tmp_path) / "cfg.json", **changes)
    with pytest.raises(ConfigError, match=reason):
        FORMATS["saelens"].read(tmp_path)


def test_other_activations_of_sparsify_and_other_classes_of_dictionary_learning_are_refused(tmp_path: Path) -> None:
    edit(written("sparsify", tmp_path / "a") / "cfg.json", activation="groupmax")
    with pytest.raises(ConfigError, match="groupmax"):
        FORMATS["sparsify"].read(tmp_path / "a")
    edit(written("dictionary_learning", tmp_path / "b") / "config.json", trainer={"dict_class": "CrossCoder"})
    with pytest.raises(ConfigError, match="'CrossCoder'"):
        FORMATS["dictionary_learning"].read(tmp_path / "b")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    written("dictionary_learning", tmp_path)
    torch.save({"encoder.weight": Trap(tmp_path / "ran")}, tmp_path / "ae.pt")
    with pytest.raises(InputError, match="ae.pt cannot be read as tensors alone"):
        FORMATS["dictionary_learning"].read(tmp_path)
    np.savez(tmp_path / "params.npz", W_enc=np.array([Trap(tmp_path / "ran")], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="params.npz (cannot be read as|holds the tensors)"):
        FORMATS["gemma_scope"].read(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_something_else_than_tensors_is_refused(tmp_path: Path) -> None:
    written("dictionary_learning", tmp_path)
    torch.save([1, 2], tmp_path / "ae.pt")
    with pytest.raises(InputError, match="something else than tensors by name"):
        FORMATS["dictionary_learning"].read(tmp_path)


def test_a_changed_byte_in_an_npz_is_found(tmp_path: Path) -> None:
    path = written("gemma_scope", tmp_path) / "params.npz"
    with zipfile.ZipFile(path) as archive:
        offset = archive.infolist()[0].header_offset + 400
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match="params.npz"):
        FORMATS["gemma_scope"].read(tmp_path)


def test_half_precision_is_read(tmp_path: Path) -> None:
    sae = make("topk")
    for name in sae.weight_names():
        getattr(sae, name).copy_(getattr(sae, name).bfloat16())
    FORMATS["saelens"].write(sae, tmp_path, "resid_post.3", None)
    path = tmp_path / WEIGHTS["saelens"]
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path)
    assert_same(sae, FORMATS["saelens"].read(tmp_path).sae)


def test_thresholds_below_zero_act_as_zero(tmp_path: Path) -> None:
    sae = make("standard")
    FORMATS["gemma_scope"].write(sae, tmp_path, "resid_post.3", None)
    with np.load(tmp_path / "params.npz", allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "params.npz", allow_pickle=False, **arrays | {"threshold": arrays["threshold"] - 0.5})
    assert_same(sae, FORMATS["gemma_scope"].read(tmp_path).sae)
