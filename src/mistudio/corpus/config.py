"""How a corpus becomes sequences of tokens."""

from pydantic import Field

from mistudio.settings import DASHBOARD, Settings


class IngestConfig(Settings):
    """How a corpus becomes sequences of tokens."""

    context_length: int = Field(
        default=128,
        ge=8,
        le=32_768,
        description="most tokens in a sequence, special tokens included",
        json_schema_extra=DASHBOARD,
    )
    max_documents: int | None = Field(default=None, ge=1, description="documents to read at most; None: all")
    max_tokens: int | None = Field(
        default=1_500_000,
        ge=1,
        description="stop after the document that reaches this many tokens, special tokens not counted; None: never",
        json_schema_extra=DASHBOARD,
    )
    held_out_fraction: float = Field(
        default=0.1,
        gt=0,
        le=0.5,
        description="fraction of the documents that only evaluation reads",
        json_schema_extra=DASHBOARD,
    )
    add_special_tokens: bool = Field(
        default=True, description="begin (and end) every sequence with the tokenizer's special tokens"
    )
    text_column: str | None = Field(
        default=None, description="column with the text; None: found by its name", json_schema_extra=DASHBOARD
    )
    label_column: str | None = Field(
        default=None, description="column with the label; None: found by its name", json_schema_extra=DASHBOARD
    )
    task_column: str | None = Field(
        default=None, description="column with the task; None: found by its name", json_schema_extra=DASHBOARD
    )
    split_seed: int = Field(default=0, description="another seed holds out other documents")
