"""Memory estimates, against what models really take."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mistudio.errors import ConfigError, SubjectError
from mistudio.explain import ExplainConfig
from mistudio.find import FindConfig
from mistudio.find.contexts import TopContexts
from mistudio.find.search import MAX_TASKS, POOL, POSITION_EDGES
from mistudio.find.statistics import FeatureStatistics
from mistudio.sae import TopKConfig
from mistudio.score import ScoreConfig
from mistudio.steps import memory
from mistudio.steps.memory import MemoryEstimate, estimate_memory
from mistudio.steps.memory_config import MemoryConfig
from mistudio.subject import (
    HookPoint,
    Subject,
    SubjectConfig,
    SubjectSource,
    resolve_hooks,
    resolve_source,
    run_captured,
)
from mistudio.train import TrainConfig
from tests.support.families import CAUSAL, ENCODERS, FAMILIES, build_model

GB = 10**9
SMALL = {"layer": 1, "context_length": 64, "batch_size": 8, "width": 256}


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates do not depend on the machine that the tests run on."""
    monkeypatch.setattr(memory, "num_cores", lambda: 1)


def weights_of(folder: Path) -> list[tuple[str, torch.Tensor]]:
    return list(load_file(folder / "model.safetensors").items())


def source_of(family: str, folder: Path) -> SubjectSource:
    ({**CAUSAL, **ENCODERS})[family]().save_pretrained(folder)
    return resolve_source(str(folder))


def estimate(source: SubjectSource, **changes: Any) -> MemoryEstimate:
    return estimate_as(source, SubjectConfig(device="cpu"), **{**SMALL, **changes})


def estimate_as(
    source: SubjectSource, config: SubjectConfig, budget_bytes: int | None = None, **sizes: Any
) -> MemoryEstimate:
    return estimate_memory(source, config, MemoryConfig(**sizes), budget_bytes)


class PeakMemory(TorchDispatchMode):
    """Bytes of all tensors that operations make, at the busiest moment."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in inputs | self.seen:
                    self.seen.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes())
        return output

    def drop(self, key: int, num_bytes: int) -> None:
        self.seen.discard(key)
        self.now -= num_bytes


@pytest.fixture
def huge(tmp_path: Path) -> SubjectSource:
    """The shape of Phi-4, 14.7 thousand million parameters; there are no weights on disk."""
    tf.Phi3Config(
        architectures=["Phi3ForCausalLM"],
        vocab_size=100_352,
        hidden_size=5120,
        intermediate_size=17_920,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=10,
        max_position_embeddings=16_384,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ).save_pretrained(tmp_path)
    return resolve_source(str(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bytes_of_the_weights_are_exact(family: str, tmp_path: Path, subject_of: Callable[[str], Subject]) -> None:
    parameters = list(subject_of(family).model.parameters())
    found = estimate(source_of(family, tmp_path), context_length=60)  # of RoBERTa's 64 positions, tokens get 63
    assert found.num_parameters == sum(parameter.numel() for parameter in parameters)
    assert found.parts["evaluate"]["weights"] == sum(parameter.nbytes for parameter in parameters)


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi3", "gemma3", "opt_pre_norm", "gpt_neox_parallel", "bert"])
def test_a_capture_takes_what_was_estimated_for_its_activations(
    family: str, tmp_path: Path, subject_of: Callable[[str], Subject]
) -> None:
    subject = subject_of(family)
    hooks = resolve_hooks(subject, [HookPoint("resid_post", 1)])
    ids_BT = torch.randint(3, 61, (8, 64))
    with PeakMemory() as memory:
        run_captured(subject, hooks, ids_BT)
    estimated = estimate(source_of(family, tmp_path)).parts["capture"]["activations"]
    assert memory.peak <= 1.1 * estimated
    assert estimated <= 2 * memory.peak


def test_a_huge_model_does_not_fit_a_small_device_and_four_bits_are_recommended(huge: SubjectSource) -> None:
    found = estimate(huge, layer=20, context_length=512, width=16_384, budget_bytes=16 * GB)
    assert not found.fits
    assert "58.6 GB, is subject weights" in found.reason
    assert "It fits with quantization nf4" in found.reason
    assert found.recommended is not None
    assert found.recommended.quantization == "nf4"
    assert found.num_parameters == 14_659_507_200


def test_the_weights_get_smaller_with_fewer_bits(huge: SubjectSource) -> None:
    sizes = estimate(huge, budget_bytes=GB).weights_by_quantization
    assert sizes["none"] > sizes["int8"] > sizes["nf4"] > 14_659_507_200 / 2


def test_more_memory_never_brings_a_more_modest_recommendation(huge: SubjectSource) -> None:
    ranks = []
    for budget in (8, 10, 11, 12, 13, 14, 16, 20, 24, 40, 80, 200):
        best = estimate(huge, context_length=2048, batch_size=64, budget_bytes=budget * GB).recommended
        bits = {"none": 16, "int8": 8, "nf4": 4}
        ranks.append((best.context_length, bits[best.quantization], best.batch_size) if best else (0, 0, 0))
    assert ranks == sorted(ranks)
    assert ranks[0] == (0, 0, 0)
    assert ranks[-1] == (2048, 16, 64)
    assert len(set(ranks)) > 4


def test_a_recommendation_fits(huge: SubjectSource) -> None:
    best = estimate(huge, context_length=2048, batch_size=64, budget_bytes=20 * GB).recommended
    assert best is not None
    again = estimate_as(
        huge,
        SubjectConfig(quantization=best.quantization),
        layer=1,
        context_length=best.context_length,
        batch_size=best.batch_size,
        width=256,
        budget_bytes=20 * GB,
    )
    assert again.fits
    assert again.recommended == best


def test_what_fits_has_no_reason_and_is_recommended_as_asked(tmp_path: Path) -> None:
    found = estimate(source_of("llama", tmp_path))
    assert found.fits
    assert found.reason == ""
    assert found.recommended == found.asked
    assert found.budget_bytes > 0


def test_quantisation_is_recommended_on_a_cpu_too(huge: SubjectSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mistudio.steps.memory.free_memory_bytes", lambda _device: 24 * GB)
    found = estimate(huge)
    assert not found.fits
    assert "cpu has free 24.0 GB" in found.reason
    assert "It fits with quantization int8" in found.reason


def test_weights_in_the_number_format_of_their_file_are_not_read_behind_the_hook(tmp_path: Path) -> None:
    build_model("llama").save_pretrained(tmp_path)
    source = resolve_source(str(tmp_path))
    first, last = (estimate(source, layer=layer).parts for layer in (0, 2))
    block = sum(tensor.nbytes for name, tensor in weights_of(tmp_path) if "layers.1." in name)
    head = sum(tensor.nbytes for name, tensor in weights_of(tmp_path) if "lm_head" in name)
    assert last["capture"]["weights"] - first["capture"]["weights"] == 2 * block
    assert last["evaluate"]["weights"] - last["capture"]["weights"] == head
    other = SubjectConfig(device="cpu", dtype="bfloat16")
    converted = estimate_as(source, other, layer=0, context_length=64, batch_size=8, width=256)
    assert converted.parts["capture"]["weights"] == converted.parts["evaluate"]["weights"]


def test_the_defaults_are_those_of_training(tmp_path: Path) -> None:
    source = source_of("llama", tmp_path)
    defaults = TrainConfig(hook="resid_post.1", sae=TopKConfig(width=256, k=8))
    given = {"sae_batch_size": defaults.batch_size, "buffer_rows": defaults.buffer_rows}
    assert estimate(source).parts == estimate(source, **given).parts


def test_offloading_leaves_room_for_everything_else(huge: SubjectSource) -> None:
    settings = {"layer": 20, "context_length": 512, "batch_size": 8, "width": 16_384, "budget_bytes": 16 * GB}
    found = estimate_as(huge, SubjectConfig(dtype="bfloat16", device_map="auto"), **settings)
    assert found.fits
    assert found.required_bytes == pytest.approx(16 * GB, rel=0.01)
    kept = found.parts["evaluate"]["weights"]
    assert found.offloaded_bytes + kept == found.weights_by_quantization["none"]
    assert 0 < kept < found.offloaded_bytes
    limited = SubjectConfig(dtype="bfloat16", device_map="auto", max_memory_gb=2)
    assert estimate_as(huge, limited, **settings).parts["evaluate"]["weights"] == pytest.approx(2.7 * GB, rel=0.05)


def test_where_offloading_leaves_no_room_at_all_it_does_not_fit(huge: SubjectSource) -> None:
    settings = {"layer": 20, "context_length": 512, "batch_size": 8, "width": 16_384, "budget_bytes": GB}
    found = estimate_as(huge, SubjectConfig(dtype="bfloat16", device_map="auto"), **settings)
    assert not found.fits
    assert found.parts["evaluate"]["weights"] < 2 * found.weights_by_quantization["none"] / 40


def test_an_autoencoder_that_is_too_wide_is_told_how_wide_it_can_be(tmp_path: Path) -> None:
    source = source_of("llama", tmp_path)
    found = estimate(source, width=1 << 20, budget_bytes=4 * GB)
    assert not found.fits
    assert "narrower: at most about" in found.reason
    width = int(found.reason.split("about ")[1].split(" ")[0].replace(",", ""))
    assert estimate(source, width=int(width * 0.9), budget_bytes=4 * GB).fits


def test_every_part_grows_with_what_it_depends_on(tmp_path: Path) -> None:
    source = source_of("llama", tmp_path)
    small, longer, wider, larger_buffer = (
        estimate(source, **changes).parts
        for changes in ({}, {"batch_size": 16}, {"width": 512}, {"buffer_rows": 2 * 262_144})
    )
    assert longer["capture"]["activations"] == 2 * small["capture"]["activations"]
    assert longer["capture"]["rows"] == 2 * small["capture"]["rows"]
    assert longer["train"] == small["train"]
    assert longer["evaluate"] == small["evaluate"]
    assert wider["train"]["sae_optimizer"] == 2 * wider["train"]["sae_weights"]
    assert wider["train"]["sae_weights"] > 1.9 * small["train"]["sae_weights"]
    assert larger_buffer["train"]["rows"] > 1.5 * small["train"]["rows"]


def test_what_is_kept_of_features_is_what_a_search_holds(tmp_path: Path) -> None:
    config = FindConfig(contexts=7, sampled_contexts=3, context_before=5, context_after=2)
    window = config.context_before, config.context_after
    classes = {"task": MAX_TASKS, "position": len(POSITION_EDGES)}
    held = [
        *TopContexts(256, config.contexts, *window).state_dict().values(),
        *TopContexts(256, POOL * config.sampled_contexts, *window).state_dict().values(),
        *FeatureStatistics(256, 1.0, classes).state_dict().values(),
    ]
    estimated = estimate(source_of("llama", tmp_path), find=config).parts["find"]["features"]
    assert estimated == pytest.approx(sum(tensor.nbytes for tensor in held), rel=0.1)


def test_finding_explaining_and_scoring_grow_with_what_they_read(tmp_path: Path) -> None:
    source = source_of("llama", tmp_path)
    few, many, sparse, wide = (
        estimate(source, **changes)
        for changes in (
            {"explain": ExplainConfig(max_tokens=1000), "score": ScoreConfig(max_tokens=1000)},
            {},
            {"active": 2.0},
            {"width": 512},
        )
    )
    for step in ("explain", "score"):
        assert few.steps[step] < sparse.steps[step] < many.steps[step] < wide.steps[step]
    assert many.parts["explain"]["sample"] == 2 * many.parts["score"]["sample"]  # tokens by default
    assert sparse.parts["find"]["sample"] < many.parts["find"]["sample"]
    assert wide.parts["find"]["features"] == 2 * many.parts["find"]["features"]


def test_an_architecture_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="architecture 'relu' is unknown"):
        estimate(source_of("llama", tmp_path), architecture="relu")


def test_a_penalised_autoencoder_begins_dense_unless_it_has_a_target(tmp_path: Path) -> None:
    source = source_of("llama", tmp_path)
    topk, standard, steered, gated = (
        estimate(source, **changes).steps["train"]
        for changes in (
            {},
            {"architecture": "standard"},
            {"architecture": "standard", "target_l0": 8.0},
            {"architecture": "gated"},
        )
    )
    assert topk == steered < standard < gated


def test_a_layer_or_a_context_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    source = source_of("llama", tmp_path)
    with pytest.raises(SubjectError, match=r"no layer 3 in .*: it has 3 layers, 0 to 2"):
        estimate(source, layer=3)
    with pytest.raises(SubjectError, match="context length of 65 is too long .* at most 64 tokens"):
        estimate(source, context_length=65)


def test_forward_passes_beside_each_other_count_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = source_of("llama", tmp_path)
    parts = {}
    for cores in (1, 4):
        monkeypatch.setattr(memory, "num_cores", lambda cores=cores: cores)
        parts[cores] = estimate(source).parts
    assert parts[4]["evaluate"]["logits"] == 2 * parts[1]["evaluate"]["logits"]
    for step in ("capture", "evaluate"):
        assert parts[4][step]["activations"] == 2 * parts[1][step]["activations"]
        assert parts[4][step]["weights"] == parts[1][step]["weights"]
