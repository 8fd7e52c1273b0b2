"""onnxruntime computes from an exported autoencoder what PyTorch does."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mistudio.errors import ConfigError
from mistudio.interchange import onnx
from tests.unit.interchange.samples import ARCHITECTURES, make, rows


def run(path: Path, **inputs: Tensor) -> Tensor:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


@pytest.mark.parametrize(
    ("d_out", "skip"), [(12, "none"), (12, "scale"), (9, "linear")], ids=["plain", "scaled skip", "skip transcoder"]
)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_onnxruntime_agrees(name: str, d_out: int, skip: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    sae, x_TD = make(name, d_out, skip=skip), rows()
    paths = onnx.write(sae, tmp_path, features=[63, 0, 17])
    assert [path.name for path in paths] == ["encode.onnx", "decode.onnx", "encode_features.onnx"]
    acts_TF = run(paths[0], x=x_TD)
    assert (acts_TF > 0).any()
    assert_close(acts_TF, sae.encode(x_TD), atol=1e-5, rtol=1e-4)
    extra = {} if skip == "none" else {"x": x_TD}
    assert_close(run(paths[1], acts=acts_TF, **extra), sae.reconstruct(x_TD), atol=1e-5, rtol=1e-4)
    assert_close(run(paths[2], x=x_TD), sae.encode(x_TD)[:, [63, 0, 17]], atol=1e-5, rtol=1e-4)


def test_chosen_latents_that_do_not_compete_make_a_small_file(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    encode, _, few = onnx.write(make("jumprelu"), tmp_path, features=[5])
    assert few.stat().st_size < encode.stat().st_size / 2


def test_a_latent_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no latent 64: this autoencoder has 64"):
        onnx.write(make("topk"), tmp_path, features=[3, 64])
