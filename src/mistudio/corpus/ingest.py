"""Tokenise a corpus: from documents to shards of sequences, split by document, resumable at the shard.

A sequence never mixes documents (docs/adr/0003). Whether a document is held out follows from its text
alone, so a text that occurs twice is never on both sides of the split.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import TYPE_CHECKING

from mistudio.artifacts import Draft, InputRef, Produced, Recipe, Store, Summary, produce
from mistudio.corpus.changes import ChangingSource
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.documents import CorpusSource, Document
from mistudio.corpus.index import write_index
from mistudio.corpus.shards import STATISTICS_NAME, Tokenised, shard_writers
from mistudio.corpus.statistics import SPLITS, CorpusStatistics, Counts, ShardCounts, Split
from mistudio.corpus.tokens import Specials, TextEncoder, chunk, find_specials
from mistudio.errors import ConfigError, CorpusError, DamagedArtifact
from mistudio.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARD_DOCUMENTS = 2048  # fixed: a resumed run has to cut the source where the killed one did
MAX_TASKS = 1000
_BATCH_DOCUMENTS = 512
_BATCH_CHARS = 1 << 20
_NO_TOKENS = "no tokens"
_SHOWN_TASKS = 8


def ingest(
    store: Store,
    source: CorpusSource,
    tokenizer: "PreTrainedTokenizerBase",
    tokenizer_ref: InputRef,
    config: IngestConfig,
    seed: int = 0,
) -> Produced:
    """Tokenise ``source`` and publish it as an artifact of kind ``corpus``.

    Args:
        store: where the artifact is published, and found if it was made before.
        source: the documents.
        tokenizer: the subject's own tokenizer; it is not changed.
        tokenizer_ref: what names the tokenizer in the recipe.
        config: how to cut and split.
        seed: a part of the recipe only; ``config.split_seed`` chooses what is held out.

    Raises:
        CorpusError: the source cannot be read, or leaves one of the splits without a document.
        ConfigError: the special tokens alone fill the context.
        SubjectError: the tokenizer's template of special tokens cannot be understood.
    """
    return ingest_with(store, source, lambda: tokenizer, tokenizer_ref, config, seed)


def ingest_with(
    store: Store,
    source: CorpusSource,
    load: Callable[[], "PreTrainedTokenizerBase"],
    tokenizer_ref: InputRef,
    config: IngestConfig,
    seed: int = 0,
) -> Produced:
    """As :func:`ingest`, with a tokenizer that is loaded only if the corpus is not published yet."""
    recipe = Recipe(
        kind="corpus",
        config=config.model_dump(),
        inputs={"source": InputRef(uri=source.uri, digest=source.digest), "tokenizer": tokenizer_ref},
        seed=seed,
    )
    return produce(store, recipe, "ingest", lambda draft: _build(draft, source, load(), config))


def is_held_out(text: str, fraction: float, split_seed: int) -> bool:
    """Whether a document of this text is held out: by its hash, so equal texts fall on the same side.

    White space at the end makes no other text: copies of one document often differ in that.
    """
    hashed = hashlib.blake2b(f"{split_seed}\n{text.rstrip()}".encode(), digest_size=8).digest()
    return int.from_bytes(hashed) < fraction * 2**64


def _build(draft: Draft, source: CorpusSource, tokenizer: "PreTrainedTokenizerBase", config: IngestConfig) -> Summary:
    specials = find_specials(tokenizer) if config.add_special_tokens else Specials()
    if specials.num >= config.context_length:
        message = f"context_length {config.context_length} leaves no room beside {specials.num} special tokens."
        raise ConfigError(message)
    totals = _Ingestion(draft, source, TextEncoder(tokenizer), specials, config).run()
    special_ids = {*tokenizer.all_special_ids, *specials.prefix, *specials.suffix}
    _check_unchanged(draft, source, to_the_end=True)
    statistics = CorpusStatistics.of(totals, config.context_length, specials.prefix, specials.suffix, special_ids)
    _check_splits(statistics, totals.read, source, config)
    for split in SPLITS:
        write_index(draft, split, sorted(totals.tasks))
    draft.write(STATISTICS_NAME, statistics.model_dump_json(indent=1).encode() + b"\n")
    return _summary(statistics, totals.columns)


@dataclass(frozen=True)
class _Ingestion:
    """One pass over the source, shard after shard."""

    draft: Draft
    source: CorpusSource
    encoder: TextEncoder
    specials: Specials
    config: IngestConfig

    def run(self) -> ShardCounts:
        """Write the shards that are not there yet; return the sum of all."""
        totals = ShardCounts()
        dropped: Counter[str] = Counter()
        documents = islice(self.source.documents(dropped), self.config.max_documents)
        with progress("Tokenise", total=None, unit="documents") as bar:
            for number in count():
                if self.draft.has_work(_counts_name(number)):
                    shard = self._step_over(number, documents)
                    dropped.clear()
                else:
                    shard = self._write(number, documents, dropped, totals)
                totals.add(shard)
                _check_tasks(totals, self.source)
                bar.advance(shard.read, f"{totals.tokens:,} tokens")
                if shard.read < SHARD_DOCUMENTS or self._is_enough(totals.tokens):
                    break
        return totals

    def _step_over(self, number: int, documents: Iterator[Document]) -> ShardCounts:
        """The counts of a shard that a killed run has finished; they are written after its files."""
        counts = ShardCounts.model_validate_json(self.draft.work_file(_counts_name(number)).read_bytes())
        deque(islice(documents, counts.read), maxlen=0)
        return counts

    def _write(
        self, number: int, documents: Iterator[Document], dropped: "Counter[str]", before: ShardCounts
    ) -> ShardCounts:
        """Write the next shard, which begins after what ``before`` counts."""
        counts = ShardCounts()
        batches = _batches(islice(documents, SHARD_DOCUMENTS))
        first = next(batches, None)
        if first is not None:
            with shard_writers(self.draft, number, self.specials) as writers:
                for batch in chain([first], batches):
                    for split, tokenised in self._tokenise(batch, counts, before).items():
                        writers[split].write(tokenised)
                    if self._is_enough(before.tokens + counts.tokens):
                        break
        counts.drop(dropped)
        dropped.clear()
        if counts.read:
            _check_unchanged(self.draft, self.source)
            with self.draft.stage_work(_counts_name(number)) as path:
                path.write_text(counts.model_dump_json(), encoding="utf-8")
        return counts

    def _tokenise(
        self, batch: list[Document], counts: ShardCounts, before: ShardCounts
    ) -> dict[Split, list[Tokenised]]:
        """Tokenise, split and count documents, up to the one that reaches ``max_tokens``."""
        tokens = before.tokens + counts.tokens
        kept: dict[Split, list[Tokenised]] = {split: [] for split in SPLITS}
        for document, ids_T in zip(batch, self.encoder.encode([document.text for document in batch]), strict=True):
            number = before.read + counts.read
            counts.read += 1
            if not len(ids_T):
                counts.drop({_NO_TOKENS: 1})
                continue
            chunks = chunk(ids_T, self.config.context_length - self.specials.num)
            split = self._split(document.text)
            size = len(document.text.encode())
            counts.splits[split].count(
                document.task, Counts(documents=1, sequences=len(chunks), tokens=len(ids_T), text_bytes=size)
            )
            if document.column is not None and document.column not in counts.columns:
                counts.columns = sorted([*counts.columns, document.column])
            kept[split].append(Tokenised(number, document, chunks))
            tokens += len(ids_T)
            if self._is_enough(tokens):
                break
        return kept

    def _split(self, text: str) -> Split:
        return "heldout" if is_held_out(text, self.config.held_out_fraction, self.config.split_seed) else "train"

    def _is_enough(self, tokens: int) -> bool:
        return self.config.max_tokens is not None and tokens >= self.config.max_tokens


def _check_unchanged(draft: Draft, source: CorpusSource, *, to_the_end: bool = False) -> None:
    """Refuse a source that changed while it was read; nothing of what was made of it is gone on with.

    Raises:
        CorpusError: it did.
        DamagedArtifact: it lies in the store, and did.
    """
    if not isinstance(source, ChangingSource):
        return
    try:
        source.check_unchanged(to_the_end=to_the_end)
    except (CorpusError, DamagedArtifact):
        draft.clear()
        raise


def _counts_name(number: int) -> str:
    return f"counts-{number:05d}.json"


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Group documents so that a batch has a bounded number of characters (or one long document)."""
    batch: list[Document] = []
    num_chars = 0
    for document in documents:
        batch.append(document)
        num_chars += len(document.text)
        if len(batch) >= _BATCH_DOCUMENTS or num_chars >= _BATCH_CHARS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def _check_tasks(counts: ShardCounts, source: CorpusSource) -> None:
    if len(counts.tasks) > MAX_TASKS:
        message = (
            f"{source.uri} has more than {MAX_TASKS:,} tasks, for example {sorted(counts.tasks)[0]!r}. A task is a "
            "kind of document, such as code or dialogue: name another task column, or rename the column."
        )
        raise CorpusError(message)


def _check_splits(statistics: CorpusStatistics, num_read: int, source: CorpusSource, config: IngestConfig) -> None:
    """Refuse a corpus that leaves nothing to train on, or nothing to evaluate on."""
    dropped = ", ".join(f"{documents:,} with {reason}" for reason, documents in statistics.dropped.items())
    if not statistics.documents:
        message = f"{source.uri} holds no document to use" + (f" (left out: {dropped})." if dropped else ".")
        raise CorpusError(message)
    for split, counts in statistics.splits.items():
        if not counts.documents:
            message = (
                f"The {split} split of {source.uri} is empty: all documents that were read ({statistics.documents:,}) "
                f"fell on the other side (held_out_fraction {config.held_out_fraction:g}, split_seed "
                f"{config.split_seed}). {_why_so_few(statistics, num_read, config)}"
            )
            raise CorpusError(message)


def _why_so_few(statistics: CorpusStatistics, num_read: int, config: IngestConfig) -> str:
    """What ended the reading so early that a split is empty, and what to do."""
    if config.max_tokens is not None and statistics.tokens >= config.max_tokens:
        return f"max_tokens {config.max_tokens:,} ended the reading there: raise it."
    if config.max_documents is not None and num_read >= config.max_documents:
        return f"max_documents {config.max_documents:,} ended the reading there: raise it."
    if statistics.documents == 1:
        return (
            "A document is never divided, and a text file of up to 64 KiB is one: give more files in a folder, or a "
            ".jsonl file with one document a line."
        )
    return (
        "Give it more documents: a document itself is never divided. With few, try a larger held_out_fraction or "
        "another split_seed."
    )


def _summary(statistics: CorpusStatistics, columns: list[str]) -> Summary:
    tasks = sorted({task for split in statistics.splits.values() for task in split.tasks})
    more = f" and {len(tasks) - _SHOWN_TASKS} more" if len(tasks) > _SHOWN_TASKS else ""
    return {
        "documents": statistics.documents,
        "sequences": statistics.sequences,
        "tokens": statistics.tokens,
        "tasks": ", ".join(tasks[:_SHOWN_TASKS]) + more,
        "heldout_documents": statistics.splits["heldout"].documents,
        "dropped": sum(statistics.dropped.values()),
        **({"text_column": ", ".join(columns)} if columns else {}),
    }
