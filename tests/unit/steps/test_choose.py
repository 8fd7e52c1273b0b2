"""What steps choose where a setting is not given."""

from types import SimpleNamespace

import pytest

from mistudio.sae.config import MatryoshkaConfig
from mistudio.steps.choose import choose_width


def chosen(d_in: int, given: int | None = None) -> int:
    manifest = SimpleNamespace(summary={"width.resid_post.1": d_in})
    inputs = SimpleNamespace(one=lambda _: SimpleNamespace(manifest=manifest))
    return choose_width(None, inputs, {"hook": "resid_post.1"}, given)


@pytest.mark.parametrize(
    ("d_in", "width"), [(64, 1024), (128, 1024), (576, 4608), (577, 4616), (768, 6144), (4096, 32_768), (5120, 32_768)]
)
def test_a_dictionary_is_exactly_eight_times_as_wide_within_its_bounds(d_in, width):
    assert chosen(d_in) == width


def test_a_width_that_is_given_is_kept():
    assert chosen(576, given=8192) == 8192


def test_a_width_that_is_no_power_of_two_nests_and_can_be_searched_in_groups_of_eight():
    width = chosen(577)
    assert MatryoshkaConfig(width=width, k=64).nested_widths[-1] == width
    assert width % 8 == 0
