"""On which tokens of a sequence an edit acts, and how strongly: the host's side of it, in NumPy.

Tokens are known by their absolute place. The prompt's are told by whoever laid it out (:class:`PromptTokens`); each
that was generated is special or not.

Shape legend: P tokens of a prompt, T tokens of a pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mistudio.instrument.edits import Schedule, Where


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """What is known of a prompt's tokens beside their ids.

    Attributes:
        ids: of the tokens, special ones included [P].
        exempt_P: special tokens, and those of a chat's template.
        role_P: whose message a token belongs to; None where there are no roles, or none at this token.
    """

    ids: tuple[int, ...]
    exempt_P: NDArray[np.bool_]
    role_P: Sequence[str | None] | None = None

    @property
    def length(self) -> int:
        """P."""
        return len(self.ids)

    @cached_property
    def roles_P(self) -> NDArray[np.str_]:
        """Roles as an array, empty where there is none."""
        return np.array([role or "" for role in self.role_P or [""] * self.length], dtype=np.str_)


def plain_prompt(ids: Sequence[int], special_ids: frozenset[int]) -> PromptTokens:
    """A prompt without roles, whose special tokens are known by their ids."""
    return PromptTokens(tuple(ids), np.array([token in special_ids for token in ids], dtype=np.bool_))


def acts_on(
    where: Where, prompt: PromptTokens, place_T: NDArray[np.int64], exempt_T: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which tokens an edit acts on [T].

    Args:
        where: as it was asked for.
        prompt: what came first.
        place_T: absolute places of the tokens.
        exempt_T: special tokens and those of a template.
    """
    length = prompt.length
    generated_T = place_T >= length
    on_T = np.ones(len(place_T), dtype=np.bool_)
    if where.tokens != "all":
        on_T &= generated_T == (where.tokens == "generated")
    if where.positions is not None:
        on_T &= np.isin(place_T, [place + length if place < 0 else place for place in where.positions])
    if where.window is not None:
        first, behind = where.window
        on_T &= (place_T >= length + first) & (place_T < length + behind)
    if where.roles is not None:
        on_T &= _has_role(where.roles, prompt, place_T)
    if not where.specials:
        on_T &= ~exempt_T
    if where.exclude is not None:
        # What is excluded is excluded whether it is special or not.
        excluded = where.exclude.model_copy(update={"specials": True})
        on_T &= ~acts_on(excluded, prompt, place_T, exempt_T)
    return on_T


def factor_at(schedule: Schedule | None, length: int, place_T: NDArray[np.int64]) -> NDArray[np.float32]:
    """What an edit's effect is multiplied by at each token [T], behind a prompt of ``length`` tokens."""
    if schedule is None:
        return np.ones(len(place_T), dtype=np.float32)
    share_T = np.clip((place_T - length) / schedule.steps, 0, 1)
    factor_T: NDArray[np.float32] = (schedule.start + (schedule.end - schedule.start) * share_T).astype(np.float32)
    return factor_T


def constant_from(where: Where, schedule: Schedule | None, length: int) -> int:
    """The place from which on an edit is the same on all generated tokens that are not special."""
    place = length
    if schedule is not None:
        place = max(place, length + schedule.steps)
    each: Where | None = where
    while each is not None:
        if each.positions is not None:
            place = max([place, *(position + 1 for position in each.positions)])
        if each.window is not None:
            place = max(place, length + each.window[1])
        each = each.exclude
    return place


def _has_role(roles: Sequence[str], prompt: PromptTokens, place_T: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tokens of messages of these roles; what is generated is the assistant's."""
    found_T = np.full(len(place_T), "assistant" in roles)
    in_prompt_T = place_T < prompt.length
    if prompt.role_P is None:
        found_T[in_prompt_T] = False
    else:
        found_T[in_prompt_T] = np.isin(prompt.roles_P[place_T[in_prompt_T]], list(roles))
    return found_T
