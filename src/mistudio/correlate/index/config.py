"""How an index of decoder directions is made."""

from typing import Literal

from pydantic import Field, field_validator

from mistudio.settings import COMMAND, DASHBOARD, Settings

Kind = Literal["auto", "flat", "codes", "ivfpq", "hnsw"]
_BITS = (1, 2, 4)


class IndexConfig(Settings):
    """Which index is made, and how good it has to be."""

    kind: Kind = Field(
        default="auto",
        description="brute force (flat), codes of a few bits (codes), the same in lists by direction (ivfpq), a graph "
        "(hnsw), or what size and measured recall ask for (auto)",
        json_schema_extra=DASHBOARD,
    )
    recall: float = Field(
        default=0.99,
        gt=0,
        le=1,
        description="share of the 10 nearest features that have to be found, of every kind of query",
        json_schema_extra=DASHBOARD,
    )
    queries: int = Field(
        default=256,
        ge=20,
        le=100_000,
        description="queries of each kind that recall is measured by: half to choose settings by, half to report",
        json_schema_extra=COMMAND,
    )
    bits: int = Field(
        default=2, description="bits a dimension of codes and ivfpq: 1, 2 or 4", json_schema_extra=COMMAND
    )
    lists: int | None = Field(
        default=None, ge=1, le=1 << 20, description="lists of ivfpq; None: four times the root of the features"
    )
    links: int = Field(default=32, ge=4, le=256, description="links of a feature in the graph of hnsw")
    construction: int = Field(default=128, ge=8, le=4096, description="candidates for the links of hnsw")
    max_candidates: int = Field(
        default=4096, ge=10, le=1 << 20, description="most candidates of a query that are compared exactly"
    )
    training_rows: int = Field(
        default=32_768, ge=256, description="decoder rows, drawn at random, that codes are fitted to"
    )
    flat_weights: int = Field(
        default=4_194_304, ge=0, description="weights of the decoder up to which auto takes flat: 16 MiB in float32"
    )

    @field_validator("bits")
    @classmethod
    def _known_bits(cls, bits: int) -> int:
        if bits not in _BITS:
            message = f"bits {bits} is unknown: use 1, 2 or 4"
            raise ValueError(message)
        return bits
