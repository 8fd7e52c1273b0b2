"""What a tokenised corpus holds, in figures: counted shard by shard, then summed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Counts(BaseModel):
    """Sizes of a set of documents. Tokens are those of the text, without special tokens."""

    model_config = ConfigDict(extra="forbid")

    documents: int = 0
    sequences: int = 0
    tokens: int = 0
    text_bytes: int = Field(default=0, description="size of the text as UTF-8, in bytes")

    def add(self, other: "Counts") -> None:
        """Add the counts of other documents to these."""
        self.documents += other.documents
        self.sequences += other.sequences
        self.tokens += other.tokens
        self.text_bytes += other.text_bytes


class SplitCounts(BaseModel):
    """Sizes of one split, by task, and the lengths of its documents."""

    tasks: dict[str, Counts] = Field(default_factory=dict)
    lengths: dict[int, int] = Field(default_factory=dict, description="tokens of a document -> documents")

    @property
    def total(self) -> Counts:
        """The sum over tasks."""
        total = Counts()
        for counts in self.tasks.values():
            total.add(counts)
        return total

    def count(self, task: str, counts: Counts) -> None:
        """Count one document."""
        self.tasks.setdefault(task, Counts()).add(counts)
        self.lengths[counts.tokens] = self.lengths.get(counts.tokens, 0) + 1

    def add(self, other: "SplitCounts") -> None:
        """Add another shard of the same split."""
        for task, counts in other.tasks.items():
            self.tasks.setdefault(task, Counts()).add(counts)
        self.lengths = dict(Counter(self.lengths) + Counter(other.lengths))


class ShardCounts(BaseModel):
    """What one shard was made from: enough to go on after it without reading it."""

    read: int = Field(default=0, description="documents taken from the source, kept or not")
    splits: dict[Split, SplitCounts] = Field(default_factory=lambda: {split: SplitCounts() for split in SPLITS})
    dropped: dict[str, int] = Field(default_factory=dict, description="reason -> documents left out")
    columns: list[str] = Field(default_factory=list, description="the columns that text was taken from")

    @property
    def tokens(self) -> int:
        """Tokens of both splits, without special tokens."""
        return sum(split.total.tokens for split in self.splits.values())

    @property
    def tasks(self) -> set[str]:
        """The tasks of both splits."""
        return {task for split in self.splits.values() for task in split.tasks}

    def drop(self, reasons: Mapping[str, int]) -> None:
        """Count documents that are left out."""
        self.dropped = dict(Counter(self.dropped) + Counter(reasons))

    def add(self, other: "ShardCounts") -> None:
        """Add another shard."""
        self.read += other.read
        self.drop(other.dropped)
        self.columns = sorted({*self.columns, *other.columns})
        for split, counts in other.splits.items():
            self.splits[split].add(counts)


class Distribution(BaseModel):
    """How long documents are, in tokens without special tokens."""

    p5: int
    p50: int
    p95: int
    max: int
    histogram_from: list[int] = Field(description="lower edge of each bin; a bin ends where the next begins")
    histogram: list[int] = Field(description="documents in each bin")

    @classmethod
    def of(cls, lengths: Mapping[int, int]) -> "Distribution":
        """Exact percentiles, and a histogram with a bin for each power of two."""
        top = max(lengths, default=0)
        edges = [1 << power for power in range(top.bit_length())]
        bins = Counter({length.bit_length() - 1: 0 for length in edges})
        for length, documents in lengths.items():
            bins[length.bit_length() - 1] += documents
        return cls(
            p5=_percentile(lengths, 0.05),
            p50=_percentile(lengths, 0.5),
            p95=_percentile(lengths, 0.95),
            max=top,
            histogram_from=edges,
            histogram=[bins[power] for power in range(len(edges))],
        )


class SplitStatistics(Counts):
    """One split."""

    tokens_with_specials: int
    tasks: dict[str, Counts]
    document_tokens: Distribution


class CorpusStatistics(Counts):
    """The content of ``statistics.json``."""

    context_length: int = Field(description="most tokens in a sequence, special tokens included")
    prefix_ids: list[int] = Field(description="special tokens at the start of every sequence")
    suffix_ids: list[int] = Field(description="special tokens at the end of every sequence")
    special_ids: list[int] = Field(description="all special tokens of the tokenizer")
    tokens_with_specials: int
    dropped: dict[str, int] = Field(description="reason -> documents left out")
    splits: dict[Split, SplitStatistics]

    @classmethod
    def of(
        cls, counts: ShardCounts, context_length: int, prefix: Iterable[int], suffix: Iterable[int], special: set[int]
    ) -> "CorpusStatistics":
        """The statistics of a corpus from the sum of its shards."""
        prefix_ids, suffix_ids = list(prefix), list(suffix)
        splits = {split: _split(counts.splits[split], len(prefix_ids) + len(suffix_ids)) for split in SPLITS}
        total = Counts()
        for split in SPLITS:
            total.add(counts.splits[split].total)
        return cls(
            **total.model_dump(),
            context_length=context_length,
            prefix_ids=prefix_ids,
            suffix_ids=suffix_ids,
            special_ids=sorted(special),
            tokens_with_specials=sum(split.tokens_with_specials for split in splits.values()),
            dropped=dict(sorted(counts.dropped.items())),
            splits=splits,
        )


def _split(counts: SplitCounts, num_specials: int) -> SplitStatistics:
    total = counts.total
    return SplitStatistics(
        **total.model_dump(),
        tokens_with_specials=total.tokens + num_specials * total.sequences,
        tasks=dict(sorted(counts.tasks.items())),
        document_tokens=Distribution.of(counts.lengths),
    )


def _percentile(lengths: Mapping[int, int], fraction: float) -> int:
    """The smallest length that at least this fraction of the documents does not exceed."""
    seen, needed = 0, fraction * sum(lengths.values())
    for length in sorted(lengths):
        seen += lengths[length]
        if seen >= needed:
            return length
    return 0
