"""What a client may want read at once: a text, a chat or token ids."""

import time
import uuid
from typing import Annotated

from pydantic import Field, model_validator

from mistudio.instrument.messages import Message
from mistudio.monitor.records import Exchange, Origin, Sample
from mistudio.settings import Settings

MOST_CHARACTERS, MOST_IDS = 1 << 22, 1 << 20
Name = Annotated[str, Field(max_length=200)]


class Asked(Settings):
    """One text to be read: give text, ids or messages."""

    text: str | None = Field(None, max_length=MOST_CHARACTERS, description="plain text")
    ids: tuple[Annotated[int, Field(ge=0, le=1 << 40)], ...] | None = Field(
        None, min_length=1, max_length=MOST_IDS, description="token ids, as they are"
    )
    messages: tuple[Message, ...] | None = Field(None, min_length=1, max_length=1024, description="a chat")
    reply_from: int | None = Field(
        None,
        ge=0,
        le=1 << 40,
        description="where the answer begins: character of a text, token of ids, message of a chat",
    )
    tokens: bool = Field(False, description="tell the values of each token too")
    record: bool = Field(
        False, description="let it count as traffic too: for rules, drift, history and those who follow"
    )
    model: Name = Field("", description="of what model it is traffic")
    endpoint: Name = Field("", description="of what endpoint")
    tenant: Name = Field("", description="of what tenant")

    @model_validator(mode="after")
    def _is_one(self) -> "Asked":
        if sum(each is not None for each in (self.text, self.ids, self.messages)) != 1:
            message = "give text, ids or messages, one of the three"
            raise ValueError(message)
        length = len(self.text or self.ids or self.messages or ())
        if self.reply_from is not None and self.reply_from > length:
            message = f"reply_from ({self.reply_from}) is beyond the end, which is at {length}"
            raise ValueError(message)
        return self

    def exchange(self, request: str = "") -> Exchange:
        """It as traffic."""
        content = self.text if self.text is not None else self.ids if self.ids is not None else self.messages
        assert content is not None  # noqa: S101 - what pydantic checked
        origin = Origin(self.model, self.endpoint, tenant=self.tenant)
        return Exchange(
            request or uuid.uuid4().hex,
            time.time(),
            origin,
            (Sample(content, self.reply_from),),
            self.reply_from is not None,
        )
