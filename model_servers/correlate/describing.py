"""What can be looked up, in words for programs: GET /describe."""

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from mistudio.correlate.queries import QUERIES
from model_servers.correlate.config import ServingConfig

if TYPE_CHECKING:
    from mistudio.instrument.served import Served


class Searched(BaseModel):
    """An autoencoder whose features are looked up."""

    name: str
    uri: str
    width: int = Field(description="features, numbered from 0")
    hook: str = Field(description="hook point that it reads")
    has_features: bool = Field(description="whether find looked at its features")
    is_explained: bool
    is_scored: bool


class Description(BaseModel):
    """What is looked up, and in what."""

    subject: str
    look_ups: list[str]
    autoencoders: list[Searched]
    allows_saving: bool = Field(description="whether directions may be kept")
    limits: ServingConfig


def describe(served: "Served", config: ServingConfig) -> Description:
    """What a predictor answers."""
    autoencoders = [
        Searched(
            name=known.name,
            uri=known.line.sae.uri,
            width=placed.sae.width,
            hook=placed.ends.hooks[0],
            has_features=known.features is not None,
            is_explained=known.line.explanations is not None,
            is_scored=known.line.scores is not None,
        )
        for known, placed in zip(served.features, served.session.autoencoders, strict=True)
    ]
    return Description(
        subject=served.name,
        look_ups=list(QUERIES),
        autoencoders=autoencoders,
        allows_saving=config.allow_saving,
        limits=config,
    )
