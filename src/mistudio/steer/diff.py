"""Where two answers differ, token by token."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from mistudio.steer.requests import Changed


def token_diff(tokenizer: Any, plain: Sequence[int], steered: Sequence[int]) -> tuple[Changed, ...]:
    """Stretches of tokens that both share, or in which they differ, in order."""

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    matcher = SequenceMatcher(None, plain, steered, autojunk=False)
    return tuple(
        Changed("same" if kind == "equal" else "changed", text(plain[a:b]), text(steered[c:d]))
        for kind, a, b, c, d in matcher.get_opcodes()
    )
