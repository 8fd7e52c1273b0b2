"""What a chat is made of, as requests and examples have it."""

from pydantic import Field

from mistudio.settings import Settings


class Message(Settings):
    """A part of a chat."""

    role: str = Field(min_length=1, max_length=64, description="who says it, as the chat template knows it")
    content: str = Field(description="what is said")
