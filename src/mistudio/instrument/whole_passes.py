"""Passes over whole sequences, without a cache: the measure of all that is done faster.

Shape legend: R rows, T tokens of a row, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mistudio.subject import Subject, unedited

_PROBE_LENGTHS = (9, 6)
_CLOSE = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.1}  # of the largest logit


class Probe(NamedTuple):
    """A sequence, and what the model as it is makes of it."""

    ids: tuple[int, ...]
    logits_V: Tensor  # behind its last token


class WholePasses:
    """Passes of a model over sequences from their first token on.

    Args:
        subject: the model.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        parameters = inspect.signature(subject.model.forward).parameters
        self.takes_keep = "logits_to_keep" in parameters
        self._takes_places = "position_ids" in parameters

    def logits(self, ids_RT: Tensor, keep: int = 1, mask_RT: Tensor | None = None) -> Tensor:
        """Logits [R, keep, V] at the last tokens of sequences, which are padded on the left."""
        more: dict[str, Any] = {"logits_to_keep": keep} if self.takes_keep else {}
        if mask_RT is not None and self._takes_places:
            more["position_ids"] = (mask_RT.cumsum(dim=1) - 1).clamp(min=0)
        model = self._subject.model
        logits_RTV: Tensor = model(input_ids=ids_RT, attention_mask=mask_RT, use_cache=False, **more).logits
        return logits_RTV[:, -keep:]

    @torch.inference_mode()
    def probes(self) -> list[Probe]:
        """Sequences of different lengths, on which a faster way can be tried out."""
        subject = self._subject
        draw = torch.Generator().manual_seed(0)
        some = [torch.randint(subject.vocab_size, (length,), generator=draw).tolist() for length in _PROBE_LENGTHS]
        with unedited():
            found = [self.logits(torch.tensor([ids], device=subject.device))[0, -1] for ids in some]
        return [Probe(tuple(ids), logits_V) for ids, logits_V in zip(some, found, strict=True)]


def agree(probes: Sequence[Probe], logits_RV: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits are those of the probes, up to what rounding does in a number format."""
    close = _CLOSE.get(dtype, 0.1)
    return all(
        bool((probe.logits_V - one_V).abs().max() <= close * probe.logits_V.abs().max())
        for probe, one_V in zip(probes, logits_RV, strict=True)
    )
