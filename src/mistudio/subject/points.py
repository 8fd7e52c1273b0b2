"""The names of hook points."""

import re
from typing import NamedTuple

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened

KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out", "mlp_act")
_INSIDE_MLP = ("mlp_in", "mlp_act")


class HookPoint(NamedTuple):
    """A place in a model: a kind and the number of a block, from 0."""

    kind: str
    layer: int

    @classmethod
    def parse(cls, text: str) -> "HookPoint":
        """Read ``KIND.LAYER``, for example ``resid_post.3``.

        Raises:
            ConfigError: the kind is unknown, or there is no layer number.
        """
        match = re.fullmatch(r"(\w+)\.(\d+)", text)
        if not match or match[1] not in KINDS:
            message = (
                f"{shortened(text)} is not a hook point. Write KIND.LAYER, for example resid_post.3; "
                f"the kinds are {', '.join(KINDS)}."
            )
            raise ConfigError(message)
        return cls(match[1], int(match[2]))

    @property
    def is_in_stream(self) -> bool:
        """Whether what is written there is added to the residual stream, or is the stream itself."""
        return self.kind not in _INSIDE_MLP

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"
