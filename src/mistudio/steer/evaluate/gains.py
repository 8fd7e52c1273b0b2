"""How much likelier a push along a feature makes its own tokens, when all features push equally hard.

Features differ in how much the same amplification changes a model. Here each is as long as it takes to move the
predictions of some training text by a given amount, so that what is compared is where they move them.

Shape legend: B sequences, T tokens, D width of the hook point, V vocabulary, F features, C concepts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from mistudio.instrument.divergence import Divergence, amount_for


class Gain(NamedTuple):
    """What one feature does at the push that is asked for."""

    amount: float  # of the vector
    before_C: Tensor  # mean probability of each concept's tokens without it
    after_C: Tensor  # and with it


def gains(
    divergence: Divergence,
    vectors_FD: Tensor,
    tokens_of: Callable[[int], Tensor],
    target_kl: float,
    numbers: Sequence[int],
) -> list[Gain | None]:
    """The gain of each vector; None where it cannot push so hard.

    Args:
        divergence: on training text.
        vectors_FD: to be pushed along.
        tokens_of: by number, which tokens belong to each concept [C, V], as zeros and ones.
        target_kl: the push, in nats a token.
        numbers: of the vectors.
    """
    found: list[Gain | None] = []
    for number, vector_D in zip(numbers, vectors_FD, strict=True):
        norm = float(vector_D.norm())
        amount = amount_for(divergence, vector_D, target_kl, start=1 / norm) if norm > 0 else None
        if amount is None:
            found.append(None)
            continue
        tokens_CV = tokens_of(number)
        before_C = divergence.probability(tokens_CV)
        found.append(Gain(amount[0], before_C, divergence.probability(tokens_CV, vector_D * amount[0])))
    return found
