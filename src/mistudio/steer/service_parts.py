"""What the service that generates is made with, and what it tells of itself."""

from dataclasses import dataclass

from mistudio.instrument.engine import Engine
from mistudio.instrument.session import Session
from mistudio.instrument.text_engine import TextEngine
from mistudio.steer.config import ServiceConfig


@dataclass(frozen=True)
class ServiceStats:
    """What is going on in the service."""

    rows: int
    rows_in_use: int
    waiting: int
    requests: int  # that were taken since it began
    cancelled: int
    failed: int
    collapsed: int  # answers that the guard ended
    prompt_tokens: int
    generated_tokens: int
    steered_tokens: int  # of the generated ones
    steps: int


def new_engine(session: Session, config: ServiceConfig) -> TextEngine:
    """The engine that the settings name."""
    if config.engine == "paged":
        from mistudio.instrument.paged import PagedEngine

        return PagedEngine(session, config.rows, config.max_tokens)
    return Engine(session, config.rows, config.max_tokens)
