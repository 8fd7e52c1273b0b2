"""How the next token is chosen."""

import numpy as np
import pytest
import torch

from mistudio.instrument.sampling import Choosing, biased, choose

LOGITS = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.08, 0.02]))


def draws(choosing: Choosing, count: int = 4000) -> np.ndarray:
    """The share of each token over many draws of one row."""
    rows = 500
    choosings = [Choosing(**{**choosing.__dict__, "seed": f"{choosing.seed}/{row}"}) for row in range(rows)]
    generators = [one.draws() for one in choosings]
    logits = biased(LOGITS.expand(rows, -1), choosings)
    tokens = [token for _ in range(count // rows) for token in choose(logits, choosings, generators)]
    return np.bincount(tokens, minlength=5) / len(tokens)


@pytest.mark.parametrize(
    ("choosing", "expected"),
    [
        (Choosing(1.0, seed="a"), [0.4, 0.3, 0.2, 0.08, 0.02]),
        (Choosing(0.5, seed="b"), [0.16, 0.09, 0.04, 0.0064, 0.0004]),
        (Choosing(1.0, top_k=2, seed="c"), [0.4, 0.3, 0, 0, 0]),
        (Choosing(1.0, top_p=0.65, seed="d"), [0.4, 0.3, 0, 0, 0]),
        (Choosing(1.0, top_p=0.71, seed="e"), [0.4, 0.3, 0.2, 0, 0]),
        (Choosing(1.0, min_p=0.4, seed="f"), [0.4, 0.3, 0.2, 0, 0]),
        (Choosing(1.0, top_k=3, top_p=0.5, seed="g"), [0.4, 0.3, 0, 0, 0]),
        (Choosing(1.0, bias={0: -100.0}, seed="h"), [0, 0.3, 0.2, 0.08, 0.02]),
    ],
)
def test_tokens_are_drawn_with_their_chances(choosing: Choosing, expected: list[float]) -> None:
    chances = np.array(expected) / np.sum(expected)
    found = draws(choosing)
    assert np.abs(found - chances).max() < 4 * np.sqrt(0.25 / 4000)
    assert not found[chances == 0].any()


def test_no_temperature_takes_the_likeliest_and_bias_counts() -> None:
    choosings = [Choosing(), Choosing(bias={4: 10.0}), Choosing(0.001, seed="x")]
    logits = biased(LOGITS.expand(3, -1), choosings)
    assert choose(logits, choosings, [one.draws() for one in choosings]) == [0, 4, 0]


def test_what_a_row_draws_does_not_depend_on_the_rows_beside_it() -> None:
    own = Choosing(1.0, top_p=0.9, seed="own")
    others = [Choosing(2.0, seed="1"), Choosing(), Choosing(1.0, top_k=1, seed="2")]
    alone, beside = own.draws(), own.draws()
    generators = [one.draws() for one in others]
    for _ in range(50):
        (one,) = choose(LOGITS[None], [own], [alone])
        many = choose(LOGITS.expand(4, -1), [*others, own], [*generators, beside])
        assert many[-1] == one


def test_a_huge_vocabulary_and_a_tiny_temperature_still_draw_a_token() -> None:
    logits = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0))
    choosings = [Choosing(1e-6, seed="a"), Choosing(100.0, min_p=0.5, seed="b")]
    tokens = choose(logits, choosings, [one.draws() for one in choosings])
    assert tokens[0] == int(logits[0].argmax())
    assert 0 <= tokens[1] < 200_000
