"""What a configuration refuses, and the reason it gives."""

import pytest
from pydantic import TypeAdapter, ValidationError

from mistudio.sae import ArchitectureConfig, SAEConfig, StandardConfig, TopKConfig

ADAPTER: TypeAdapter[ArchitectureConfig] = TypeAdapter(SAEConfig)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"architecture": "topk", "width": 63, "k": 8}, "width 63 is too small: a dictionary needs at least 64"),
        ({"architecture": "standard", "width": 1}, "width 1 is too small"),
        ({"architecture": "topk", "width": 32_769, "k": 8}, r"width 32,769 is above 32,768.*check-memory.*allow_wide"),
        ({"architecture": "standard", "width": 65_536}, "width 65,536 is above 32,768"),
        ({"architecture": "topk", "width": 64, "k": 0}, "k 0 leaves no latent active"),
        ({"architecture": "topk", "width": 64, "k": -3}, "k -3 leaves no latent active"),
        ({"architecture": "topk", "width": 64, "k": 65}, "k 65 is larger than width 64: lower k or raise width"),
        ({"architecture": "topk", "width": 64}, "k: field required"),
        ({"architecture": "topk", "width": 64, "k": 8, "aux_k": 0}, "aux_k"),
        ({"architecture": "topk", "width": 64, "k": 8, "aux_coefficient": -1}, "aux_coefficient"),
        ({"architecture": "topk", "width": 64, "k": 8, "aux_coefficient": float("inf")}, "finite"),
        ({"architecture": "standard", "width": 64, "l1_coefficient": 0}, "l1_coefficient 0 must be above 0.*sparse"),
        ({"architecture": "standard", "width": 64, "l1_coefficient": -0.1}, "l1_coefficient -0.1 must be above 0"),
        ({"architecture": "standard", "width": 64, "l1_coefficient": 1.01}, "1.01 must be at most 1: .*dies"),
        ({"architecture": "standard", "width": 64, "l1_coefficient": float("nan")}, "finite"),
        ({"architecture": "standard", "width": 64, "penalty_warmup_fraction": 1.5}, "penalty_warmup_fraction"),
        ({"architecture": "standard", "width": 64, "encoder_bias": 0.1}, "encoder_bias"),
        ({"architecture": "standard", "width": 64, "k": 8}, "k: extra inputs are not permitted"),
        ({"architecture": "topk", "width": 64, "k": 8, "l1_coefficient": 0.1}, "extra inputs are not permitted"),
        ({"architecture": "vae", "width": 64}, "architecture 'vae' is unknown: use one of topk, batchtopk, matryoshka"),
        ({"architecture": None, "width": 64, "k": 8}, "architecture None is unknown"),
        ({"architecture": "jumprelu", "width": 64, "target_l0": 64}, "target_l0 64 must be below width 64"),
        ({"architecture": "gated", "width": 64, "target_l0": 0}, "target_l0"),
        ({"architecture": "gated", "width": 64, "target_l0": 8, "penalty_warmup_fraction": 0.6}, "0.6 leaves"),
        ({"architecture": "matryoshka", "width": 64, "k": 4, "prefixes": [32, 16, 64]}, "must rise"),
        ({"architecture": "matryoshka", "width": 64, "k": 4, "prefixes": [16, 32]}, "end with width 64"),
        ({"architecture": "topk", "width": 64, "k": 4, "skip": "scale", "skip_scale": 0.95}, "skip_scale"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_with_the_reason(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){reason}"):
        ADAPTER.validate_python(settings)


def test_where_no_architecture_is_named_it_is_topk() -> None:
    assert ADAPTER.validate_python({"width": 64, "k": 8}) == TopKConfig(width=64, k=8)


@pytest.mark.parametrize("width", [64, 32_768])
def test_the_ends_of_the_usual_range_are_accepted(width: int) -> None:
    assert TopKConfig(width=width, k=64).width == StandardConfig(width=width, l1_coefficient=1).width == width


def test_a_wider_dictionary_is_accepted_on_request() -> None:
    assert TopKConfig(width=65_536, k=64, allow_wide=True).width == 65_536
    assert StandardConfig(width=65_536, allow_wide=True).width == 65_536


def test_a_configuration_survives_json() -> None:
    for config in (TopKConfig(width=64, k=8, aux_k=3), StandardConfig(width=128, l1_coefficient=0.5)):
        assert ADAPTER.validate_json(config.model_dump_json()) == config


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TopKConfig(width=64, k=8).k = 9
