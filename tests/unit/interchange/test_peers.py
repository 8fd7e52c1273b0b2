"""The libraries themselves compute the same from our files, and we from theirs.

They run in an environment of their own, which `make test-peers` makes from benchmarks/peers-requirements.txt:
MISTUDIO_PEERS_PYTHON names its interpreter, and make sets it wherever that is there.
"""

import os
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from mistudio.interchange import FORMATS
from tests.unit.interchange.samples import make, rows

PEERS = Path(__file__).parent / "peers"
PACKAGES = {"saelens": "sae_lens", "sparsify": "sparsify", "dictionary_learning": "dictionary_learning"}

EXPORTED = {
    "saelens": ["standard", "gated", "topk", "batchtopk", "matryoshka", "jumprelu"],
    "sparsify": ["topk"],
    "dictionary_learning": ["standard", "gated", "topk", "batchtopk", "matryoshka", "jumprelu"],
}
TRANSCODERS = {
    "saelens": [
        ("standard", 9, "none"),
        ("standard", 9, "linear"),
        ("jumprelu", 9, "none"),
        ("batchtopk", 9, "linear"),
    ],
    "sparsify": [("topk", 12, "none"), ("topk", 12, "linear")],
    "dictionary_learning": [],
}
THEIRS = {
    "saelens": [
        "standard",
        "topk",
        "topk-scaled",
        "gated",
        "jumprelu",
        "transcoder",
        "skip_transcoder",
        "jumprelu_transcoder",
        "jumprelu_skip_transcoder",
    ],
    "sparsify": ["plain", "skip", "transcoder", "skip-transcoder"],
    "dictionary_learning": [
        "AutoEncoder",
        "AutoEncoderNew",
        "GatedAutoEncoder",
        "JumpReluAutoEncoder",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
    ],
}


@pytest.fixture(params=PACKAGES)
def form(request: pytest.FixtureRequest) -> str:
    """A format whose library is at hand."""
    python = os.environ.get("MISTUDIO_PEERS_PYTHON")
    if not python:
        pytest.skip("the other libraries are not installed: make test-peers")
    probe = f"import importlib.util as u, sys; sys.exit(u.find_spec({PACKAGES[request.param]!r}) is None)"
    if subprocess.run([python, "-c", probe], check=False).returncode:
        pytest.skip(f"{python} has no {PACKAGES[request.param]}")
    return str(request.param)


def run_peer(form: str, folder: Path, what: str) -> None:
    """Let the library load, or save, in each folder of ``folder``."""
    save_file({"x": rows()}, folder / "rows.safetensors")
    command = [os.environ["MISTUDIO_PEERS_PYTHON"], str(PEERS / f"peer_{form}.py"), str(folder), what]
    # sparsify would decode with Triton wherever it is installed, which needs a GPU.
    environment = {**os.environ, "SPARSIFY_DISABLE_TRITON": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_their_library_computes_the_same_from_our_export(form: str, tmp_path: Path) -> None:
    saes = {name: (make(name), None) for name in EXPORTED[form]}
    for name, d_out, skip in TRANSCODERS[form]:
        saes[f"{name}-{skip}"] = (make(name, d_out, skip=skip), "mlp_out.3")
    for name, (sae, target) in saes.items():
        FORMATS[form].write(sae, tmp_path / name, "resid_post.3", target)
    run_peer(form, tmp_path, "load")
    for name, (sae, _) in saes.items():
        found = load_file(tmp_path / name / "outputs.safetensors")
        assert_close(
            found["acts"], sae.encode(rows()), atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name} {text}"
        )
        assert_close(found["out"], sae.reconstruct(rows()), atol=1e-5, rtol=1e-4)


def test_we_compute_the_same_from_their_files(form: str, tmp_path: Path) -> None:
    for name in THEIRS[form]:
        (tmp_path / name).mkdir()
    run_peer(form, tmp_path, "save")
    for name in THEIRS[form]:
        expected = load_file(tmp_path / name / "outputs.safetensors")
        sae = FORMATS[form].read(tmp_path / name).sae
        assert (expected["acts"] > 0).any()
        assert_close(
            sae.encode(rows()), expected["acts"], atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name} {text}"
        )
        assert_close(sae.reconstruct(rows()), expected["out"], atol=1e-5, rtol=1e-4)
