"""What the demo subject reads: documents, a tokenizer made from them, and batches without waste.

A sequence is a piece of one document behind ``<s>``, as ingestion makes it later: the subject is studied
on what it was trained on. After the last token of a document it predicts ``</s>``, which it never reads.

Legend: B sequences, T tokens.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mistudio.corpus.documents import Document
from mistudio.corpus.ingest import is_held_out
from mistudio.corpus.tokens import TextEncoder, chunk
from mistudio.demo.config import DemoConfig

BOS, EOS = "<s>", "</s>"
BOS_ID, EOS_ID = 0, 1
IGNORED = -100  # a target that does not count
_WIDTH_STEP = 16  # sequences are padded to a multiple of this

Ids = npt.NDArray[np.int32]


class Split(NamedTuple):
    """Texts to train on, and texts to evaluate on."""

    train: list[str]
    held_out: list[str]


class Batch(NamedTuple):
    """Inputs and, at each position, the token that follows (or ``IGNORED``)."""

    ids_BT: torch.Tensor
    targets_BT: torch.Tensor


def split(documents: Iterator[Document], config: DemoConfig, seed: int) -> Split:
    """Split documents as ingestion does; the held-out ones are a random choice of ``evaluated_bytes``."""
    train: list[str] = []
    held_out: list[str] = []
    for document in documents:
        is_out = is_held_out(document.text, config.held_out_fraction, config.split_seed)
        (held_out if is_out else train).append(document.text)
    chosen: list[str] = []
    missing_bytes = config.evaluated_bytes
    for place in np.random.default_rng(seed).permutation(len(held_out)):
        if missing_bytes <= 0:
            break
        chosen.append(held_out[place])
        missing_bytes -= len(held_out[place].encode())
    return Split(train, chosen)


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer whose template puts ``<s>`` before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def sequences(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], context_length: int) -> list[Ids]:
    """Each document as ``<s>`` + piece, piece after piece; the last also has ``</s>``, as a target only."""
    found = []
    for ids_T in TextEncoder(tokenizer).encode(texts):
        pieces = chunk(ids_T, context_length - 1)
        for piece in pieces[:-1]:
            found.append(np.concatenate(([BOS_ID], piece)).astype(np.int32))
        if pieces:
            found.append(np.concatenate(([BOS_ID], pieces[-1], [EOS_ID])).astype(np.int32))
    return found


def plan(lengths: Sequence[int], tokens: int, batch_tokens: int, seed: int) -> list[list[int]]:
    """The sequences of every batch, by number, until ``tokens`` targets; each epoch has all, in another order.

    Sequences of about the same length share a batch, so that padding is a few percent.
    """
    rng = np.random.default_rng(seed)
    batches: list[list[int]] = []
    planned = 0
    while True:
        epoch = one_epoch(lengths, batch_tokens, rng)
        for place in rng.permutation(len(epoch)):
            batches.append(epoch[place])
            planned += sum(lengths[number] - 1 for number in epoch[place])
            if planned >= tokens:
                return batches


def one_epoch(lengths: Sequence[int], batch_tokens: int, rng: np.random.Generator) -> list[list[int]]:
    """Every sequence once, in batches of sequences of about the same length."""
    batches: list[list[int]] = []
    by_width = sorted(rng.permutation(len(lengths)).tolist(), key=lambda number: _width(lengths[number]))
    for number in by_width:
        # The last in a batch is the widest, and sets the width of all.
        if batches and (len(batches[-1]) + 1) * _width(lengths[number]) <= batch_tokens:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def _width(length: int) -> int:
    return -(-(length - 1) // _WIDTH_STEP) * _WIDTH_STEP


def collate(members: Sequence[Ids]) -> Batch:
    """Sequences side by side; what is padded counts for nothing, and comes after all that counts."""
    width = max(_width(len(ids)) for ids in members)
    ids_BT = torch.full((len(members), width), EOS_ID)
    targets_BT = torch.full((len(members), width), IGNORED)
    for row, ids in enumerate(members):
        ids_T = torch.from_numpy(ids).long()
        ids_BT[row, : len(ids) - 1] = ids_T[:-1]
        targets_BT[row, : len(ids) - 1] = ids_T[1:]
    return Batch(ids_BT, targets_BT)
