"""Subjects too large for their device: quantised, or with layers on disk."""

import json
from pathlib import Path

import pytest
import torch
import transformers as tf
from accelerate.utils import OffloadedWeightsLoader

from mistudio.activations import ActivationReader, CaptureConfig, capture
from mistudio.artifacts import InputRef, open_store
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.ingest import ingest
from mistudio.corpus.sources import open_source
from mistudio.errors import SubjectError
from mistudio.steps.memory import estimate_memory
from mistudio.steps.memory_config import MemoryConfig
from mistudio.subject import (
    HookPoint,
    Subject,
    SubjectConfig,
    forward_logits,
    load_subject,
    load_tokenizer,
    resolve_hooks,
    resolve_source,
    run_captured,
)
from mistudio.subject.hooks import available_points
from tests.support.families import TEXT, byte_level_tokenizer

HOOKS = [HookPoint("resid_post", 1), HookPoint("mlp_act", 2)]
LAYERS = 4
# Relative error of the hidden states of random weights, about thrice what was seen.
TOLERANCE = {"int8": 0.06, "nf4": 0.35}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose linear layers are large beside its embeddings, and not of a multiple of 64 rows."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    tokenizer = byte_level_tokenizer()
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ids_BT() -> torch.Tensor:
    return torch.randint(3, 250, (2, 24), generator=torch.Generator().manual_seed(3))


def load(folder: Path, **settings: object) -> Subject:
    return load_subject(resolve_source(str(folder)), SubjectConfig.model_validate({"device": "cpu", **settings}))


def captured(subject: Subject, ids_BT: torch.Tensor) -> dict[HookPoint, torch.Tensor]:
    return run_captured(subject, resolve_hooks(subject, HOOKS), ids_BT)


def offloaded(folder: Path, **settings: object) -> Subject:
    """Loaded where there is room for about half of the layers."""
    size = (folder / "model.safetensors").stat().st_size
    return load(folder, device_map="auto", max_memory_gb=0.7 * size / 1e9, **settings)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantised_model_computes_nearly_the_same(
    quantization: str, dtype: str, folder: Path, ids_BT: torch.Tensor
) -> None:
    pytest.importorskip("bitsandbytes")
    exact = captured(load(folder), ids_BT)
    near = captured(load(folder, quantization=quantization, dtype=dtype), ids_BT)
    for point, acts_BTD in exact.items():
        error = (near[point].float() - acts_BTD).norm() / acts_BTD.norm()
        assert 1e-4 < error < TOLERANCE[quantization]


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_the_bytes_of_quantised_weights_are_as_estimated(quantization: str, folder: Path, ids_BT: torch.Tensor) -> None:
    pytest.importorskip("bitsandbytes")
    subject = load(folder, quantization=quantization)
    forward_logits(subject, ids_BT)  # bitsandbytes makes its scales ready at the first product
    actual = sum(_bytes_of(module) for module in subject.model.modules())
    estimate = estimate_memory(
        resolve_source(str(folder)),
        SubjectConfig(device="cpu", quantization=quantization),
        MemoryConfig(layer=1, context_length=32, batch_size=2, width=64),
    )
    assert estimate.parts["evaluate"]["weights"] == pytest.approx(actual, rel=0.15)
    assert estimate.weights_by_quantization[quantization] == estimate.parts["evaluate"]["weights"]


def _bytes_of(module: torch.nn.Module) -> int:
    """Of a module's own parameters and buffers, and of the scales that bitsandbytes keeps beside them."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    scales = [state.absmax] if state is not None else []
    scales += [module.state.SCB] if getattr(module, "state", None) is not None else []
    return sum(tensor.nbytes for tensor in (*own, *scales))


def test_a_quantised_model_is_captured(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    store, source = open_store(str(tmp_path / "store")), resolve_source(str(folder))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"{number}: {TEXT[0]}"}) + "\n" for number in range(20)))
    tokenizer_ref = InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest)
    chunks = open_source(str(texts), store), load_tokenizer(source), tokenizer_ref
    corpus = ingest(store, *chunks, IngestConfig(context_length=32, held_out_fraction=0.2)).artifact
    settings = CaptureConfig(hooks=("resid_post.1",))
    plain, nf4 = (
        capture(store, corpus, source, SubjectConfig(device="cpu", quantization=quantization), settings).artifact
        for quantization in ("none", "nf4")
    )
    exact_ND, near_ND = (ActivationReader(found, "resid_post.1", "train").acts(0, 64).float() for found in (plain, nf4))
    assert 1e-3 < (near_ND - exact_ND).norm() / exact_ND.norm() < TOLERANCE["nf4"]


def test_without_bitsandbytes_it_is_said_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mistudio.subject.devices.find_spec", lambda _name: None)
    with pytest.raises(SubjectError, match=r"nf4 needs bitsandbytes.*pip install 'mistudio\[quantised\]'"):
        load(folder, quantization="nf4")


def test_layers_on_disk_give_the_same_activations(folder: Path, ids_BT: torch.Tensor) -> None:
    subject = offloaded(folder)
    assert {"cpu", "disk"} == set(subject.model.hf_device_map.values())
    exact = captured(load(folder), ids_BT)
    for point, acts_BTD in captured(subject, ids_BT).items():
        torch.testing.assert_close(acts_BTD, exact[point], rtol=0, atol=0)


def test_layers_on_disk_have_the_same_hook_points(folder: Path) -> None:
    plain, subject = load(folder), offloaded(folder)
    for layer in range(LAYERS):
        assert available_points(subject, layer) == available_points(plain, layer)


def test_layers_behind_the_hook_are_never_read_from_disk(
    folder: Path, ids_BT: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = offloaded(folder)
    read: list[str] = []
    plain_get = OffloadedWeightsLoader.__getitem__

    def get(self: OffloadedWeightsLoader, key: str) -> torch.Tensor:
        read.append(key)
        return plain_get(self, key)

    hooks = resolve_hooks(subject, HOOKS)
    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", get)
    run_captured(subject, hooks, ids_BT)
    assert any("layers.2." in key for key in read)
    assert not [key for key in read if "layers.3." in key or "lm_head" in key or "down_proj" in key and ".2." in key]


def test_layers_on_disk_hold_no_memory_between_forward_passes(folder: Path, ids_BT: torch.Tensor) -> None:
    subject = offloaded(folder)
    captured(subject, ids_BT)
    held = sum(parameter.nbytes for parameter in subject.model.parameters() if parameter.device.type != "meta")
    assert held <= 0.7 * (folder / "model.safetensors").stat().st_size


def test_layers_of_another_number_format_go_to_disk_too(folder: Path, ids_BT: torch.Tensor, tmp_path: Path) -> None:
    limit = 0.35 * (folder / "model.safetensors").stat().st_size / 1e9
    settings = {"device_map": "auto", "max_memory_gb": limit, "offload_folder": str(tmp_path / "layers")}
    subject = load(folder, dtype="bfloat16", **settings)
    assert "disk" in subject.model.hf_device_map.values()
    exact = captured(load(folder, dtype="bfloat16"), ids_BT)
    for point, acts_BTD in captured(subject, ids_BT).items():
        torch.testing.assert_close(acts_BTD, exact[point], rtol=0, atol=0)
