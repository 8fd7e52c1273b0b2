"""Settings of other libraries that change what the weights compute: honoured, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mistudio.errors import ConfigError, NotFound
from mistudio.interchange import FORMATS
from mistudio.interchange.gemma_scope import _hook
from mistudio.interchange.weights import centred_input
from tests.unit.interchange.samples import make, rows

LOADING = "model_from_pretrained_kwargs"


def written(form: str, folder: Path) -> Path:
    FORMATS[form].write(make("topk"), folder, "resid_post.3", None)
    return folder


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("form", "name", "changes", "reason"),
    [
        ("saelens", "cfg.json", {"activation_fn": "tanh-relu"}, "activation_fn 'tanh-relu'"),
        ("saelens", "cfg.json", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
        ("saelens", "cfg.json", {"metadata": {"hook_head_index": 0}}, "hook_head_index '0'"),
        ("saelens", "cfg.json", {"metadata": {LOADING: {"rescale": 2}}}, rf"{LOADING} has the setting rescale"),
        (
            "saelens",
            "cfg.json",
            {"metadata": {"hook_name": "blocks.1.mlp.hook_in", LOADING: {"fold_ln": True}}},
            "fold_ln 'True'",
        ),
        ("sparsify", "cfg.json", {"signed": True}, "signed 'True'"),
        ("sparsify", "cfg.json", {"a_new_one": {"x": 1}}, "a_new_one"),
        ("dictionary_learning", "config.json", {"trainer": {"dict_class": "AutoEncoderTopK", "tied": 1}}, "tied '1'"),
        ("dictionary_learning", "config.json", {"buffer": {"rescale_acts": True}}, "rescale_acts 'True'"),
        ("dictionary_learning", "config.json", {"buffer": {"io": "in_and_out"}}, "io 'in_and_out'"),
    ],
)
def test_what_is_not_known_is_refused_by_name(
    form: str, name: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    change(written(form, tmp_path) / name, **changes)
    with pytest.raises(ConfigError, match=reason):
        FORMATS[form].read(tmp_path)


@pytest.mark.parametrize(
    ("form", "name", "changes"),
    [
        ("saelens", "cfg.json", {"l1_coefficient": 3, "finetuning_scaling_factor": False, "activation_fn": None}),
        ("sparsify", "cfg.json", {"expansion_factor": 32, "multi_topk": True, "signed": False}),
        ("dictionary_learning", "config.json", {"buffer": {"io": "out", "ctx_len": 128}}),
    ],
)
def test_what_is_switched_off_or_of_training_alone_is_passed_over(
    form: str, name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    change(written(form, tmp_path) / name, **changes)
    assert FORMATS[form].read(tmp_path).hook == (None if form == "sparsify" else "resid_post.3")


def test_activations_from_before_a_submodule_are_not_taken_for_its_output(tmp_path: Path) -> None:
    change(written("dictionary_learning", tmp_path) / "config.json", buffer={"io": "in"})
    assert FORMATS["dictionary_learning"].read(tmp_path).hook is None


@pytest.mark.parametrize(("hook", "centred"), [("hook_resid_post", True), ("mlp.hook_post", False)])
def test_a_model_with_centred_weights_is_told_where_it_shows(hook: str, centred: bool, tmp_path: Path) -> None:
    metadata = {"hook_name": f"blocks.3.{hook}", LOADING: {"center_writing_weights": True, "fold_ln": True}}
    change(written("saelens", tmp_path) / "cfg.json", metadata=metadata)
    assert FORMATS["saelens"].read(tmp_path).centred is centred


@pytest.mark.parametrize("name", ["standard", "topk", "gated", "jumprelu", "batchtopk"])
def test_an_autoencoder_of_a_centred_model_is_folded_for_the_plain_one(name: str) -> None:
    sae, x_TD = make(name), rows()
    mean_T1 = x_TD.mean(dim=1, keepdim=True)
    folded = centred_input(sae, keeps_mean=True)
    torch.testing.assert_close(folded.encode(x_TD), sae.encode(x_TD - mean_T1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(folded.reconstruct(x_TD), sae.reconstruct(x_TD - mean_T1) + mean_T1)


@pytest.mark.parametrize(
    ("path", "hook"),
    [
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "resid_post.20"),
        ("layer_3/gemma-scope-2b-pt-mlp/layer_20/width_16k", "mlp_out.20"),
        ("a-res/layer_1/gemma-scope-2b-pt-mlp/layer_7/width_16k", "mlp_out.7"),
        ("gemma-scope-2b-pt-att/layer_5/width_16k", None),
        ("layer_5/gemma-scope-2b-pt-res", None),
    ],
)
def test_the_layer_of_gemma_scope_is_that_of_the_release(path: str, hook: str | None, tmp_path: Path) -> None:
    assert _hook(tmp_path / path) == hook


def test_a_folder_of_several_layers_says_which_there_are(tmp_path: Path) -> None:
    for layer in (10, 11):
        written("sparsify", tmp_path / f"layers.{layer}")
    with pytest.raises(NotFound, match=r"name one of them: layers\.10, layers\.11\."):
        FORMATS["sparsify"].read(tmp_path)
