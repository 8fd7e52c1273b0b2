"""What steps choose where a setting is not given."""

from types import SimpleNamespace

import pytest

from mistudio.sae.config import MatryoshkaConfig
from mistudio.steps.choose import choose_width, default_context_length


def chosen(d_in: int, given: int | None = None) -> int:
    manifest = SimpleNamespace(summary={"width.resid_post.1": d_in})
    inputs = SimpleNamespace(one=lambda _: SimpleNamespace(manifest=manifest))
    return choose_width(None, inputs, {"hook": "resid_post.1"}, given)


@pytest.mark.parametrize(
    ("d_in", "width"), [(64, 1024), (128, 1024), (576, 4608), (577, 4616), (768, 6144), (4096, 32_768), (5120, 32_768)]
)
def test_a_dictionary_is_exactly_eight_times_as_wide_within_its_bounds(d_in, width):
    assert chosen(d_in) == width


@pytest.mark.parametrize(("positions", "length"), [(None, 512), (256, 256), (2048, 512)])
def test_a_sequence_is_as_long_as_the_model_takes_up_to_512(positions, length):
    assert default_context_length(positions) == length


def test_a_width_that_is_given_is_kept():
    assert chosen(576, given=8192) == 8192


def test_a_width_that_is_no_power_of_two_nests_and_can_be_searched_in_groups_of_eight():
    width = chosen(577)
    assert MatryoshkaConfig(width=width, k=64).nested_widths[-1] == width
    assert width % 8 == 0
