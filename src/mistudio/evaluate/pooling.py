"""One vector a document: the latents of its tokens pooled, and its activations pooled likewise.

Whole documents go through the model a block at a time, and each block is kept with the draft, so that a
killed run goes on at the next. What is held is one block, and of the blocks before it the pooled vectors:
latents as sparse matrices, activations densely.

Shape legend: B sequences, N kept tokens, D width of the hook point, F features (latents), P documents
of a block, A active (document, latent) pairs, S sequences of a split.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import Tensor

from mistudio.artifacts import Draft
from mistudio.corpus.reader import Split, TokenCorpus
from mistudio.evaluate.config import Pool
from mistudio.instrument import CorpusSequences, token_batches
from mistudio.progress import progress
from mistudio.sae import SparseAutoencoder
from mistudio.subject import ResolvedHook, Subject, text_rows

_BLOCK_DOCUMENTS = 256


class Passage(NamedTuple):
    """The sequences of a document that are read, and what the document is an example of."""

    first: int
    stop: int
    task: str
    label: str


class Pooled(NamedTuple):
    """Vectors of documents, a row each."""

    latents: list[sparse.csr_array]  # one matrix [documents, F] an autoencoder
    acts: NDArray[np.float32]  # [documents, D]


class Pooler:
    """Runs documents through a model and pools what passes its hook point, and latents made of it."""

    def __init__(
        self,
        subject: Subject,
        hook: ResolvedHook,
        corpus: TokenCorpus,
        pool: Pool,
        batch_tokens: int,
    ) -> None:
        self.subject, self.hook, self.corpus = subject, hook, corpus
        self.pool, self.batch_tokens = pool, batch_tokens

    def run(self, draft: Draft, split: Split, passages: Sequence[Passage], saes: Sequence[SparseAutoencoder]) -> Pooled:
        """Pool each passage; blocks that are there already are read instead."""
        blocks = []
        with progress(f"Encode documents ({split})", len(passages), "documents") as bar:
            for start in range(0, len(passages), _BLOCK_DOCUMENTS):
                block = passages[start : start + _BLOCK_DOCUMENTS]
                name = f"{split}-{start // _BLOCK_DOCUMENTS:05d}.safetensors"
                done = draft.work_once(name, partial(self._save_block, split, block, saes))
                blocks.append(load_file(done))
                bar.advance(len(block))
        latents = [
            sparse.vstack([_matrix(block, number, sae.width) for block in blocks], format="csr")
            for number, sae in enumerate(saes)
        ]
        return Pooled(latents, np.concatenate([block["acts"].numpy() for block in blocks]))

    def _save_block(
        self, split: Split, passages: Sequence[Passage], saes: Sequence[SparseAutoencoder], path: Path
    ) -> None:
        save_file(self._pool(split, passages, saes), path)

    @torch.no_grad()
    def tokens_of(self, split: Split, passages: Sequence[Passage]) -> Iterator[tuple[Tensor, Tensor]]:
        """Activations of the text's tokens [N, D] and the passage each belongs to [N], batch after batch."""
        sequence_S = np.concatenate([np.arange(passage.first, passage.stop) for passage in passages])
        owner_S = np.repeat(np.arange(len(passages)), [passage.stop - passage.first for passage in passages])
        sequences = CorpusSequences(self.corpus, split, sequence_S)
        for number_B, batch in token_batches(self.subject, sequences, self.batch_tokens):
            rows = text_rows(self.subject, [self.hook], batch)
            acts_ND, owner_B = rows.acts[self.hook.point].float(), torch.from_numpy(owner_S[number_B])
            yield acts_ND, owner_B[rows.sequence_N].to(acts_ND.device)

    def _pool(self, split: Split, passages: Sequence[Passage], saes: Sequence[SparseAutoencoder]) -> dict[str, Tensor]:
        """The tensors of one block: dense activations, and key and value of each active pair."""
        device, highest = self.subject.device, self.pool == "max"
        acts_PD = torch.full((len(passages), self.hook.width), -torch.inf if highest else 0.0, device=device)
        tokens_P = torch.zeros(len(passages), device=device)
        pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in saes]
        for acts_ND, owner_N in self.tokens_of(split, passages):
            acts_PD.scatter_reduce_(0, owner_N[:, None].expand_as(acts_ND), acts_ND, "amax" if highest else "sum")
            tokens_P += torch.bincount(owner_N, minlength=len(passages))
            for own, sae in zip(pairs, saes, strict=True):
                active = sae.encode_active(acts_ND)
                own.append(self._reduced(owner_N[active.token_A] * sae.width + active.feature_A, active.value_A))
        divisor_P = torch.ones_like(tokens_P) if highest else tokens_P
        tensors = {"acts": (acts_PD / divisor_P[:, None]).cpu()}
        for number, (own, sae) in enumerate(zip(pairs, saes, strict=True)):
            key_A, value_A = self._reduced(*(torch.cat(parts) for parts in zip(*own, strict=True)))
            tensors[f"key.{number}"] = key_A.cpu()
            tensors[f"value.{number}"] = (value_A / divisor_P[key_A // sae.width]).cpu()
        return tensors

    def _reduced(self, key_A: Tensor, value_A: Tensor) -> tuple[Tensor, Tensor]:
        """One value a key, in the order of keys: the sum or the largest."""
        unique_A, place_A = torch.unique(key_A, return_inverse=True)
        reduced_A = value_A.new_zeros(len(unique_A))  # activations are positive, so zero changes neither
        return unique_A, reduced_A.scatter_reduce_(0, place_A, value_A, "amax" if self.pool == "max" else "sum")


def _matrix(block: dict[str, Tensor], number: int, width: int) -> sparse.csr_array:
    key_A = block[f"key.{number}"].numpy()
    rows = len(block["acts"])
    ends = np.searchsorted(key_A, np.arange(rows + 1) * width)
    columns = (key_A % width).astype(np.int32)
    return sparse.csr_array((block[f"value.{number}"].numpy(), columns, ends.astype(np.int32)), shape=(rows, width))
