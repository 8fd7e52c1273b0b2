"""Batches of transformers' continuous batching, driven step by step in the caller's own thread.

What is taken from transformers is the cache in pages, the scheduler, and the laying out of a batch: tokens of several
sequences end to end in one line. Its loop, its thread and its choice of tokens are left alone, and so is what hooks do
not survive: recorded CUDA graphs, which run no hooks, and preparing a batch before the last one is through. Blocks are
never shared between sequences, because transformers knows a block by its tokens, not by what was done to them.

A sequence that is put out for want of room comes back by itself, read from its beginning with all that was generated;
so pieces say where in their sequence they begin.

Shape legend: P pieces that end their sequences, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching import RequestState
from transformers.generation.continuous_batching.model_runner import infer_max_single_request_tokens
from transformers.utils import is_flash_attn_2_available

from mistudio.errors import ConfigError, SubjectError
from mistudio.instrument.whole_passes import WholePasses, agree
from mistudio.subject import Subject, unedited

_PAGE_TOKENS, _FLASH_PAGE_TOKENS = 16, 256  # flash attention takes no smaller pages
_PASS_TOKENS, _FLASH_PASS_TOKENS = 512, 2048  # a mask is as wide as all that is cached, and as high as this
_LEAST_PAGES = 4


class Piece(NamedTuple):
    """Some tokens of a sequence in a batch."""

    key: str  # of the sequence
    start: int  # place of the first one
    num_tokens: int
    is_last: bool  # whether it ends with the last token that is known


class PagedBatches:
    """Sequences in a cache of pages, and batches of what the cache lacks of them.

    Args:
        subject: the model; while this is open its attention may be another one, which reads pages.
        num_rows: sequences at once.
        num_slots: tokens of a sequence.
        num_cached: tokens of all sequences that there is room for.

    Raises:
        SubjectError: the model's attention cannot read pages.
        ConfigError: so large a cache does not fit.
    """

    def __init__(self, subject: Subject, num_rows: int, num_slots: int, num_cached: int) -> None:
        self._subject, self._whole = subject, WholePasses(subject)
        self._attention = subject.model.config._attn_implementation
        self._processor: Any = None
        self._batch: dict[str, Any] = {}  # transformers' states by key, of the batch that is next
        self._num_ending = 0  # of its pieces
        probes = self._whole.probes()[:num_rows]
        try:
            self._processor = self._opened(num_rows, num_cached)
            agrees = agree(probes, self._probed([probe.ids for probe in probes]), subject.model.dtype)
        except (MemoryError, torch.OutOfMemoryError) as error:
            self.close()
            message = f"A cache of {num_cached:,} tokens does not fit ({error}): give fewer rows, or shorter ones."
            raise ConfigError(message) from error
        except Exception as error:
            self.close()
            raise SubjectError(self._unfit(f": {error}")) from error
        if not agrees:
            self.close()
            raise SubjectError(self._unfit(""))
        self._reading = subject.model.config._attn_implementation
        self.num_slots = min(num_slots, infer_max_single_request_tokens(self._processor.cache))

    def close(self) -> None:
        """Free the cache, and give the model its own attention back."""
        self._processor = None
        self._attend(self._attention)

    @contextmanager
    def own_attention(self) -> Iterator[WholePasses]:
        """Passes over whole sequences, with the attention that the model came with."""
        self._attend(self._attention)
        try:
            yield self._whole
        finally:
            self._attend(self._reading)

    def add(self, key: str, ids: Sequence[int]) -> None:
        """Bring a sequence into the cache, in one of the next batches or in several."""
        self._processor.scheduler.add_waiting_request(RequestState(key, list(ids), max_new_tokens=None))

    def remove(self, key: str) -> None:
        """Free what a sequence takes; nothing happens where it is not known."""
        scheduler = self._processor.scheduler
        scheduler.set_request_cancellation(key)
        scheduler.clear_cancelled_requests()
        scheduler.block_new_requests = False  # there may be room again for what was put out

    def next(self) -> list[Piece]:
        """Lay out the next batch.

        Raises:
            SubjectError: there is no room for any sequence, which a check of their lengths rules out.
        """
        if not self._processor.prepare_next_batch():
            message = "Nothing can be scheduled: the cache has no room for any of the sequences."
            raise SubjectError(message)
        futures = self._processor.inputs_and_outputs.requests_in_batch
        self._batch = {future.state.request_id: future.state for future in futures}
        self._num_ending = sum(future.has_new_token for future in futures)
        return [
            Piece(
                future.state.request_id,
                future.state.position_offset - future.query_length,
                future.query_length,
                future.has_new_token,
            )
            for future in futures
        ]

    def forward(self) -> Tensor:
        """Run the batch; logits [P, V] behind the pieces that end their sequences, in their order."""
        kwargs: dict[str, Any] = dict(self._processor.inputs_and_outputs.get_model_kwargs())
        ends_P = kwargs["logits_indices"]
        if self._whole.takes_keep:
            kwargs["logits_to_keep"] = ends_P
        logits_PV: Tensor = self._subject.model(**kwargs).logits[0]
        logits_PV = logits_PV if self._whole.takes_keep else logits_PV[ends_P]
        return logits_PV[: self._num_ending]  # there are as many rows as pieces

    def go_on(self, key: str, token: int) -> None:
        """Add a token to a sequence that ended in the batch."""
        self._batch[key].update_and_check_completion(token, None)

    def _opened(self, num_rows: int, num_cached: int) -> Any:
        """The processor of batches; its making seeds the generator of the whole process, which is put back."""
        model, device = self._subject.model, self._subject.device
        if device.type == "cuda" and model.dtype != torch.float32 and is_flash_attn_2_available():
            self._attend("flash_attention_2")
        is_flash = "flash" in model.config._attn_implementation
        page = _FLASH_PAGE_TOKENS if is_flash else _PAGE_TOKENS
        config = ContinuousBatchingConfig(
            page_size=page,
            num_blocks=max(math.ceil(num_cached / page), _LEAST_PAGES),
            max_batch_tokens=max(num_rows, _FLASH_PASS_TOKENS if is_flash else _PASS_TOKENS),
            max_requests_per_batch=num_rows,
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,
            auto_switch_to_flash=False,
            seed=0,
        )
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            manager = model.init_continuous_batching(GenerationConfig(do_sample=False, eos_token_id=-1), config)
            return manager._create_batch_processor()

    @torch.inference_mode()
    def _probed(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Logits behind sequences that are read together, their last tokens in a pass of their own."""
        ids_of = {str(number): ids for number, ids in enumerate(sequences)}
        ended, found = set[str](), dict[str, Tensor]()
        for key, ids in ids_of.items():
            self.add(key, ids[:-1])
        while len(found) < len(ids_of):
            pieces = self.next()
            with unedited():
                logits_PV = self.forward()
            for key, logits_V in zip([piece.key for piece in pieces if piece.is_last], logits_PV, strict=True):
                if key in ended:
                    found[key] = logits_V
                    self.remove(key)
                else:
                    ended.add(key)
                    self.go_on(key, ids_of[key][-1])
        return torch.stack([found[key] for key in ids_of])

    def _unfit(self, why: str) -> str:
        name = type(self._subject.model).__name__
        return f"The attention of {name} cannot read a cache in pages{why}. Use the static engine for this model."

    def _attend(self, attention: str) -> None:
        if self._subject.model.config._attn_implementation != attention:
            self._subject.model.set_attn_implementation(attention)
