"""What an export is called at Neuronpedia."""

import re

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistudio.errors import ConfigError
from mistudio.exchange.reading import Origin
from mistudio.plain_text import shortened
from mistudio.subject import HookPoint

HOOKS = {
    "resid_pre": ("res-pre", "hook_resid_pre"),
    "resid_mid": ("res-mid", "hook_resid_mid"),
    "resid_post": ("res", "hook_resid_post"),
    "attn_out": ("att", "hook_attn_out"),
    "mlp_in": ("mlp-in", "mlp.hook_in"),
    "mlp_out": ("mlp", "hook_mlp_out"),
    "mlp_act": ("neurons", "mlp.hook_post"),
}
_NAME = r"^[A-Za-z0-9_-]+$"
_NAME_OR_NOTHING = r"^[A-Za-z0-9_-]*$"


class Names(BaseModel):
    """What an export is called at Neuronpedia; empty: named after the model and the autoencoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str = Field(default="", pattern=_NAME_OR_NOTHING, description="of the model, as gpt2-small")
    source_set: str = Field(default="", pattern=_NAME_OR_NOTHING, description="of the set, as res-jb")
    creator: str = Field(default="miStudio", min_length=1, description="who made it, for people")
    creator_id: str = Field(
        default="clkht01d40000jv08hvalcvly",
        pattern=_NAME,
        description="user of the database that owns the rows; the default is that of a new Neuronpedia",
    )

    def filled(self, origin: Origin) -> "Names":
        """The same with what was empty filled in."""
        kind = HOOKS[HookPoint.parse(origin.hook).kind][0]
        ours = f"{kind}-mistudio-{origin.sae.uri.rpartition('/')[2][:8]}"
        return self.model_copy(
            update={"model_id": self.model_id or _slug(origin.model), "source_set": self.source_set or ours}
        )

    def source(self, origin: Origin) -> str:
        """The source: the layer and the set."""
        return f"{HookPoint.parse(origin.hook).layer}-{self.source_set}"


def names_of(**values: str) -> Names:
    """The names of an export.

    Raises:
        ConfigError: one has characters that Neuronpedia does not take.
    """
    try:
        return Names(**values)
    except ValidationError as error:
        wrong = ", ".join(f"{each['loc'][0]} {shortened(each['input'])}" for each in error.errors())
        message = f"Neuronpedia takes no such names: {wrong}. Use letters, digits, - and _."
        raise ConfigError(message) from error


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or "model"
