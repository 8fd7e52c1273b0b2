"""Reading traffic: exchanges through the model, in one pass for all layers, to the values of what is watched.

::

    samples --tokens--> pieces that the model takes --like lengths together--> batches
    batch --one pass, as far as the deepest hook point--> largest values of each column --pieces put together--> sample

Nothing is kept of a token but what is among the largest values of a column.

Shape legend: S samples, P pieces, T tokens, M largest values that are kept, W watched columns.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.activations.plan import like_lengths
from mistudio.errors import InputError
from mistudio.instrument.compiled import Nameable
from mistudio.instrument.served import Served
from mistudio.monitor.records import Exchange, Fired, Observation, Pooled, Sample
from mistudio.monitor.watch.batches import BatchReader, Seen, fired_together, piece_batch
from mistudio.monitor.watch.columns import Column, Columns, Vector
from mistudio.monitor.watch.config import WatchConfig
from mistudio.monitor.watch.pieces import Piece, pieces_of
from mistudio.monitor.watch.pooling import NOTHING, Tops, merged, top_means
from mistudio.monitor.watch.sample_tokens import SampleReader, SampleTokens
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.subject import token_strings

MOST_PIECE = 4096  # tokens, where the model takes more and nothing else is said
_BATCHES_AT_ONCE = 16  # so that texts of like length meet
_VALUES_AT_ONCE = 1 << 25
UNREADABLE, CUT, EMPTY = "unreadable", "cut", "empty"


@dataclass(frozen=True, eq=False)
class TokenValues:
    """The watched columns on each token of one sample, for a live view.

    Attributes:
        ids: of all tokens, special ones and a template's included [T].
        strings: how each reads.
        is_read_T: which count: neither special ones nor a template's.
        value_TW: of each column; zero on tokens that do not count.
        reply_from: first token of the answer; None: there is none, or it cannot be told.
        role_T: whose message a token belongs to, of chats; None where it is no message's.
    """

    ids: tuple[int, ...]
    strings: tuple[str, ...]
    is_read_T: NDArray[np.bool_]
    value_TW: NDArray[np.float32]
    reply_from: int | None
    role_T: Sequence[str | None] | None = None


class _Asked(NamedTuple):
    """A sample of an exchange, as tokens."""

    exchange: Exchange
    number: int
    tokens: SampleTokens


class Watcher:
    """Reads what a watch list names, on one thread at a time.

    Places of tokens, in what it tells, count all tokens of a sample, special ones and a template's included.

    Args:
        served: the model and its autoencoders; it is not closed.
        watch_list: what to read.
        config: how; None: with its defaults.
        directions: by name, beside those of the store.
        chat_template: to be used in place of the tokenizer's own.

    Attributes:
        columns: what each watched column is.
        counts: of samples, by what was the matter with them.

    Raises:
        NotFound: an autoencoder, a feature or a direction is not there.
        InputError: a direction is of another model.
        SubjectError: the tokenizer's special tokens cannot be told.
    """

    def __init__(
        self,
        served: Served,
        watch_list: WatchList,
        config: WatchConfig | None = None,
        directions: Mapping[str, Vector] | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.config, self.watch_list = config or WatchConfig(), watch_list
        self._subject = served.session.subject
        columns = Columns(served, watch_list, directions)
        self.columns: tuple[Column, ...] = columns.columns
        self._place_W = columns.place_W
        self._top_W = torch.tensor([one.top if one.pool == "top" else 1 for one in watch_list.watched])
        names = Nameable(served.session, [one.name for one in served.features])
        in_full = [served.session.placed(names.number(name)) for name in watch_list.encode_in_full]
        most = [int(self._top_W[list(block.columns)].max()) for block in columns.blocks]
        self._reader = BatchReader(self._subject, columns.blocks, in_full, most, columns.readings)
        self._samples = SampleReader(self._subject, self.config.max_tokens, chat_template)
        limit = self._subject.max_positions or MOST_PIECE
        self._most = min(limit, self.config.piece_tokens or MOST_PIECE)
        self._overlap = min(self.config.overlap, self._most // 2)
        self.counts: Counter[str] = Counter()

    def observe(self, exchanges: Sequence[Exchange]) -> list[Observation]:
        """What is seen in each sample, exchange by exchange; what cannot be read is left out and counted.

        Texts of like length go through the model together. No more than a batch's activations are held.
        """
        asked = [(exchange, number) for exchange in exchanges for number in range(len(exchange.samples))]
        found = self._samples.read([exchange.samples[number] for exchange, number in asked])
        readable = []
        for (exchange, number), tokens in zip(asked, found, strict=True):
            if isinstance(tokens, InputError):
                self.counts[UNREADABLE] += 1
                continue
            self.counts[CUT] += tokens.is_cut
            self.counts[EMPTY] += not tokens.counts_T.any()
            readable.append(_Asked(exchange, number, tokens))
        return [each for group in self._groups(readable) for each in self._observed(group)]

    def num_tokens(self, samples: Sequence[Sample]) -> list[int]:
        """Tokens of each sample that count; 0 where it cannot be read."""
        found = self._samples.read(samples)
        return [0 if isinstance(each, InputError) else int(each.counts_T.sum()) for each in found]

    @torch.inference_mode()
    def run_bare(self, exchanges: Sequence[Exchange]) -> None:
        """The same passes without reading anything: what the cost of watching is measured against."""
        found = self._samples.read([sample for exchange in exchanges for sample in exchange.samples])
        tokens = [each for each in found if not isinstance(each, InputError)]
        pieces = list(pieces_of(tokens, self._most, self._overlap))
        for number_B in self._batches(pieces):
            self._reader.bare(piece_batch(self._subject, [pieces[number] for number in number_B.tolist()]))

    @torch.inference_mode()
    def observe_tokens(self, samples: Sequence[Sample]) -> list[TokenValues]:
        """The columns on each token of each sample.

        Raises:
            InputError: a sample cannot be read.
        """
        found = self._samples.read(samples)
        tokens = [each for each in found if not isinstance(each, InputError)]
        for each in found:
            if isinstance(each, InputError):
                raise each
        values = [np.zeros((len(one.ids_T), len(self.columns)), dtype=np.float32) for one in tokens]
        pieces = list(pieces_of(tokens, self._most, self._overlap))
        for number_B in self._batches(pieces):
            own = [pieces[number] for number in number_B.tolist()]
            value_BTW = self._reader.values(piece_batch(self._subject, own))[..., self._place_W].numpy()
            for piece, value_TW in zip(own, value_BTW, strict=True):
                values[piece.sample][piece.place_T[piece.counts_T]] = value_TW[: len(piece.ids_T)][piece.counts_T]
        return [self._token_values(one, value_TW) for one, value_TW in zip(tokens, values, strict=True)]

    def _token_values(self, one: SampleTokens, value_TW: NDArray[np.float32]) -> TokenValues:
        ids = tuple(one.ids_T.tolist())
        return TokenValues(ids, self._strings(one), one.counts_T, value_TW, one.reply_from, one.role_T)

    def _strings(self, one: SampleTokens) -> tuple[str, ...]:
        cache = self._subject.cache
        if "strings" not in cache:
            cache["strings"] = token_strings(self._subject.tokenizer)
        return tuple(cache["strings"][token] for token in one.ids_T.tolist())

    def _groups(self, asked: Sequence[_Asked]) -> Iterator[list[_Asked]]:
        """Samples that are read together: some batches of tokens, and a bounded number of values."""
        most = _BATCHES_AT_ONCE * self.config.batch_tokens
        a_piece = len(self.columns) * int(self._top_W.max())
        group: list[_Asked] = []
        tokens = values = 0
        for each in asked:
            length = len(each.tokens.ids_T)
            group.append(each)
            tokens += length
            values += a_piece * (length // max(self._most - self._overlap, 1) + 1)
            if tokens >= most or values >= _VALUES_AT_ONCE:
                yield group
                group, tokens, values = [], 0, 0
        if group:
            yield group

    def _batches(self, pieces: Sequence[Piece]) -> Iterator[NDArray[np.int64]]:
        lengths_P = np.array([len(piece.ids_T) for piece in pieces], dtype=np.int32)
        return like_lengths(lengths_P, self.config.batch_tokens)

    @torch.inference_mode()
    def _observed(self, group: Sequence[_Asked]) -> Iterator[Observation]:
        pieces = list(pieces_of([each.tokens for each in group], self._most, self._overlap))
        numbers: list[NDArray[np.int64]] = []
        seen: list[Seen] = []
        for number_B in self._batches(pieces):
            batch = piece_batch(self._subject, [pieces[number] for number in number_B.tolist()])
            seen.append(self._reader.pooled(batch, by_part=self.config.by_part))
            numbers.append(number_B)
        sums = _Sums(len(group), pieces, numbers, seen) if seen else None
        return self._told(group, sums)

    def _told(self, group: Sequence[_Asked], sums: "_Sums | None") -> Iterator[Observation]:
        parts = {} if sums is None else self._pooled(sums.by_part)
        nothing = np.zeros(len(self.columns), dtype=np.float32)
        nowhere = np.full(len(self.columns), -1, dtype=np.int64)
        for row, each in enumerate(group):
            one = each.tokens
            start = one.reply_from if self.config.by_part else None
            in_reply = 0 if start is None else int(one.counts_T[start:].sum())
            total = int(one.counts_T.sum())

            def pooled(name: str, number: int, row: int = row) -> Pooled:
                if name not in parts or not number:
                    return Pooled(0, nothing, nowhere, nothing)
                return Pooled(number, *(values[row] for values in parts[name]))

            whole = pooled("all", total)
            yield Observation(
                exchange=each.exchange.id,
                sample=each.number,
                time=each.exchange.time,
                origin=each.exchange.origin,
                num_tokens=total,
                reply_from=one.reply_from,
                max_W=whole.max_W,
                place_W=whole.place_W,
                top_W=whole.top_W,
                fired={} if sums is None else sums.fired(row),
                strings=self._strings(one) if self.config.keep_strings else None,
                prompt=None if start is None else pooled("head", total - in_reply),
                reply=None if start is None else pooled("tail", in_reply),
            )

    def _pooled(
        self, tops: Mapping[str, Tops]
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]]:
        """Of each part largest values, their places, and means of the largest [S, W], in the order of the list."""
        value_PMW = torch.cat([top.value_BMU for top in tops.values()])[..., self._place_W]
        place_PW = torch.cat([top.place_BU for top in tops.values()])[:, self._place_W]
        max_PW = value_PMW[:, 0]
        there_PW = max_PW > NOTHING
        place_PW = place_PW.masked_fill_(~(there_PW & (max_PW != 0)), -1)
        max_PW = max_PW.masked_fill(~there_PW, 0.0)
        top_PW = max_PW if value_PMW.shape[1] == 1 else top_means(value_PMW, self._top_W)
        split = [np.split(each.numpy(), len(tops)) for each in (max_PW, place_PW, top_PW)]
        return {name: (split[0][n], split[1][n], split[2][n]) for n, name in enumerate(tops)}


class _Sums:
    """What was seen in pieces, put together sample by sample.

    Args:
        num_samples: of the group.
        pieces: of all samples.
        numbers: of each batch, which pieces are in it.
        seen: in each batch.
    """

    def __init__(
        self, num_samples: int, pieces: Sequence[Piece], numbers: Sequence[NDArray[np.int64]], seen: Sequence[Seen]
    ) -> None:
        self._of_sample: list[list[int]] = [[] for _ in range(num_samples)]
        self._at = [(0, 0)] * len(pieces)  # of each piece, which batch, and where in it
        for batch, number_B in enumerate(numbers):
            for row, number in enumerate(number_B.tolist()):
                self._at[number] = (batch, row)
        for number, piece in enumerate(pieces):
            self._of_sample[piece.sample].append(number)
        self._seen = seen
        order = torch.from_numpy(np.concatenate(numbers)).argsort()
        heads = self._of_samples(_stacked([each.head for each in seen], order))
        self.by_part = {"all": heads}
        if any(each.tail is not None for each in seen):
            tails = self._of_samples(_stacked([each.tail or Tops.none(each.head) for each in seen], order))
            self.by_part = {"all": merged([heads, tails]), "head": heads, "tail": tails}

    def fired(self, sample: int) -> dict[str, Fired]:
        """What fired in a sample, by the autoencoder's URI."""
        own = [self._at[number] for number in self._of_sample[sample]]
        uris = self._seen[own[0][0]].fired if own else {}
        return {uri: fired_together([self._seen[batch].fired[uri][row] for batch, row in own]) for uri in uris}

    def _of_samples(self, pieces: Tops) -> Tops:
        """The largest values of each sample, from those of its pieces."""
        first_S = torch.tensor([own[0] if own else 0 for own in self._of_sample])
        found = Tops(pieces.value_BMU[first_S], pieces.place_BU[first_S])
        for sample, own in enumerate(self._of_sample):
            if len(own) > 1:
                each = [Tops(pieces.value_BMU[number][None], pieces.place_BU[number][None]) for number in own]
                together = merged(each)
                found.value_BMU[sample], found.place_BU[sample] = together.value_BMU[0], together.place_BU[0]
        return found


def _stacked(some: Sequence[Tops], order_P: Tensor) -> Tops:
    """Those of all batches, in the order of the pieces."""
    return Tops(
        torch.cat([each.value_BMU for each in some])[order_P], torch.cat([each.place_BU for each in some])[order_P]
    )
