"""What a format can hold comes back with equal encodings; what it cannot hold is refused by name."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mistudio.errors import ConfigError
from mistudio.interchange import FORMATS
from mistudio.sae import ExportForm
from mistudio.sae.standard import StandardAutoencoder
from mistudio.sae.topk import TopKAutoencoder
from tests.unit.interchange.samples import ARCHITECTURES, assert_same, make

# What each architecture comes back as.
HELD = {
    "saelens": {name: name for name in ("standard", "gated", "topk", "jumprelu")}
    | {"batchtopk": "jumprelu", "matryoshka": "jumprelu"},
    "sparsify": {"topk": "topk"},
    "gemma_scope": dict.fromkeys(("standard", "batchtopk", "matryoshka", "jumprelu"), "jumprelu"),
    "dictionary_learning": {name: name for name in ARCHITECTURES},
}
CASES = [(form, name) for form in HELD for name in ARCHITECTURES]


@pytest.mark.parametrize(("form", "name"), CASES)
def test_every_architecture_comes_back_or_is_refused(form: str, name: str, tmp_path: Path) -> None:
    sae = make(name)
    if name not in HELD[form]:
        with pytest.raises(ConfigError, match=f"{form}.*{name}"):
            FORMATS[form].write(sae, tmp_path / "out", "resid_post.3", None)
        assert not (tmp_path / "out").exists()
        return
    FORMATS[form].write(sae, tmp_path / "out", "resid_post.3", None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FORMATS[form].files)
    reading = FORMATS[form].read(tmp_path / "out")
    assert reading.sae.config.architecture == HELD[form][name]
    assert_same(sae, reading.sae)


@pytest.mark.parametrize("form", ["sparsify", "dictionary_learning"])
def test_weights_come_back_although_the_format_subtracts_a_bias(form: str, tmp_path: Path) -> None:
    sae = make("topk")
    FORMATS[form].write(sae, tmp_path, "resid_post.3", None)
    back = FORMATS[form].read(tmp_path).sae
    for name in sae.weight_names():
        assert (getattr(back, name) - getattr(sae, name)).abs().max() < 1e-6


def test_nested_widths_and_k_come_back(tmp_path: Path) -> None:
    FORMATS["dictionary_learning"].write(make("matryoshka", prefixes=(7, 40, 64)), tmp_path, "resid_post.3", None)
    config = FORMATS["dictionary_learning"].read(tmp_path).sae.config.model_dump()
    assert (config["prefixes"], config["k"]) == ((7, 40, 64), 5)


@pytest.mark.parametrize(
    "hook", ["resid_pre.0", "resid_mid.2", "resid_post.3", "attn_out.11", "mlp_in.7", "mlp_out.4", "mlp_act.5"]
)
@pytest.mark.parametrize("form", ["saelens", "dictionary_learning"])
def test_the_hook_point_comes_back_where_the_format_has_it(form: str, hook: str, tmp_path: Path) -> None:
    FORMATS[form].write(make("topk"), tmp_path, hook, None)
    assert FORMATS[form].read(tmp_path).hook == hook


@pytest.mark.parametrize(
    ("form", "folder", "name", "hook"),
    [
        ("sparsify", "layers.3", "topk", "resid_post.3"),
        ("sparsify", "h.3.mlp", "topk", "mlp_out.3"),
        ("sparsify", "my-own", "topk", None),
        ("gemma_scope", "gemma-scope-2b-pt-res/layer_20/width_16k", "jumprelu", "resid_post.20"),
        ("gemma_scope", "gemma-scope-2b-pt-mlp/layer_4", "jumprelu", "mlp_out.4"),
        ("gemma_scope", "my-own", "jumprelu", None),
    ],
)
def test_the_hook_point_is_found_in_the_names_of_folders(
    form: str, folder: str, name: str, hook: str | None, tmp_path: Path
) -> None:
    FORMATS[form].write(make(name), tmp_path / folder, "resid_post.0", None)
    assert FORMATS[form].read(tmp_path / folder).hook == hook


@pytest.mark.parametrize("skip", ["none", "linear"])
@pytest.mark.parametrize(
    ("form", "name", "d_out"),
    [
        ("saelens", "standard", 9),
        ("saelens", "jumprelu", 9),
        ("saelens", "batchtopk", 12),
        ("sparsify", "topk", 12),
        ("gemma_scope", "jumprelu", 9),
    ],
)
def test_transcoders_come_back(form: str, name: str, d_out: int, skip: str, tmp_path: Path) -> None:
    sae = make(name, d_out, skip=skip)
    if form == "gemma_scope" and skip == "linear":
        with pytest.raises(ConfigError, match="skip of kind linear"):
            FORMATS[form].write(sae, tmp_path, "resid_mid.3", "mlp_out.3")
        return
    FORMATS[form].write(sae, tmp_path, "resid_mid.3", "mlp_out.3")
    reading = FORMATS[form].read(tmp_path)
    assert_same(sae, reading.sae)
    assert (reading.hook, reading.target_hook) in [("resid_mid.3", "mlp_out.3"), (None, None)]
    assert (reading.hook is not None) == (form == "saelens")


@pytest.mark.parametrize(
    ("form", "name", "d_out", "settings", "reason"),
    [
        ("saelens", "topk", 9, {}, "no topk transcoders"),
        ("saelens", "topk", 12, {"skip": "scale"}, "skip of kind scale"),
        ("sparsify", "topk", 9, {}, "cannot hold a transcoder"),
        ("sparsify", "topk", 12, {"skip": "learned_scale"}, "skip of kind learned_scale"),
        ("dictionary_learning", "standard", 9, {}, "cannot hold a transcoder"),
        ("dictionary_learning", "topk", 12, {"skip": "scale"}, "skip of kind scale"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_written(
    form: str, name: str, d_out: int, settings: dict[str, object], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        FORMATS[form].write(make(name, d_out, **settings), tmp_path / "out", "resid_post.3", None)
    assert not (tmp_path / "out").exists()


class _Capped(TopKAutoencoder):
    """Computes something else than the architecture that it derives from."""

    def activate(self, pre_A: Tensor, feature_A: Tensor) -> Tensor:
        return pre_A.clamp(0, 6)


class _Shifted(StandardAutoencoder):
    """Has no counterpart in any format, but says what it computes."""

    export_form = ExportForm("thresholds")

    @property
    def threshold_F(self) -> Tensor:
        return torch.linspace(0.1, 0.4, self.width)


@pytest.mark.parametrize("form", HELD)
def test_one_that_derives_from_another_is_not_written_as_that(form: str, tmp_path: Path) -> None:
    sae = make("topk")
    sae.__class__ = _Capped
    with pytest.raises(ConfigError, match=form):
        FORMATS[form].write(sae, tmp_path / "out", "resid_post.3", None)


@pytest.mark.parametrize("form", ["saelens", "gemma_scope", "dictionary_learning"])
def test_one_with_thresholds_goes_out_as_a_jumprelu_without_being_named_anywhere(form: str, tmp_path: Path) -> None:
    sae = make("standard")
    sae.__class__ = _Shifted
    FORMATS[form].write(sae, tmp_path, "resid_post.3", None)
    reading = FORMATS[form].read(tmp_path)
    assert reading.sae.config.architecture == "jumprelu"
    assert_same(sae, reading.sae)
