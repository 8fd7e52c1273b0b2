"""Forward passes of rows at their own places, through a cache where the model can be told where its tokens are.

Whether it can is tried out: two sequences of different lengths, side by side, have to have the logits that each has
alone. What cannot (positions from a mask of the family's own making, states in place of keys and values) is run whole.

Shape legend: R rows, T tokens of a row, S slots of the cache, V vocabulary.
"""

import inspect
import logging
from typing import Any

import torch
from torch import Tensor

from mistudio.instrument.kv_cache import RowCache
from mistudio.subject import Subject, unedited

logger = logging.getLogger(__name__)

_PROBE_LENGTHS = (9, 6)
_CLOSE = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.1}  # of the largest logit


class RowPasses:
    """Passes of a model, each over some rows that lie side by side in the cache.

    Args:
        subject: the model.
        num_rows: of the cache.
        num_slots: tokens of a row.
    """

    def __init__(self, subject: Subject, num_rows: int, num_slots: int) -> None:
        self._subject = subject
        self._cache: RowCache | None = RowCache(_num_layers(subject), num_rows, num_slots)
        self._windows = _windows(subject.text_config)
        self._takes_bool = getattr(subject.text_config, "_attn_implementation", "sdpa") == "sdpa"
        parameters = inspect.signature(subject.model.forward).parameters
        self._keep = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._takes_keep = bool(self._keep)
        if not self._works():
            logger.info(
                "%s runs without a key-value cache: all of a text again for each token.", type(subject.model).__name__
            )
            self._cache = None

    @property
    def has_cache(self) -> bool:
        """Whether the cache can be used with this model."""
        return self._cache is not None

    def cached(self, first: int, ids_RT: Tensor, place_RT: Tensor) -> Tensor:
        """Logits [R, V] behind the last token of rows ``first`` and on; a place below 0 is padding."""
        assert self._cache is not None  # noqa: S101 - asked for by who knows
        seen_R1TS = self._cache.begin(first, place_RT)
        logits_RTV: Tensor = self._subject.model(
            input_ids=ids_RT,
            attention_mask=self._masks(seen_R1TS, place_RT),
            position_ids=place_RT.clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            **self._keep,
        ).logits
        return logits_RTV[:, -1]

    def whole(self, ids_RT: Tensor, mask_RT: Tensor | None = None, keep: int = 1) -> Tensor:
        """Logits [R, keep, V] at the last tokens of whole sequences, which are padded on the left."""
        more: dict[str, Any] = {"logits_to_keep": keep} if self._takes_keep else {}
        if mask_RT is not None:
            more["position_ids"] = (mask_RT.cumsum(dim=1) - 1).clamp(min=0)
        if "position_ids" not in inspect.signature(self._subject.model.forward).parameters:
            more.pop("position_ids", None)
        logits_RTV: Tensor = self._subject.model(
            input_ids=ids_RT, attention_mask=mask_RT, use_cache=False, **more
        ).logits
        return logits_RTV[:, -keep:]

    def copy(self, source: int, target: int, num_slots: int) -> None:
        """Copy what the cache holds of a row."""
        if self._cache is not None:
            self._cache.copy(source, target, num_slots)

    def _masks(self, seen_R1TS: Tensor, place_RT: Tensor) -> Any:
        """Which slots each token looks at, in the form that the model takes."""
        if not self._windows:
            return self._mask(seen_R1TS)
        slot_S = torch.arange(seen_R1TS.shape[-1], device=place_RT.device)
        masks = {}
        for kind, window in self._windows.items():
            near_R1TS = seen_R1TS
            if window is not None:
                near_R1TS = seen_R1TS & (slot_S > place_RT.clamp(min=0)[:, None, :, None] - window)
            masks[kind] = self._mask(near_R1TS)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, seen_R1TS: Tensor) -> Tensor:
        if self._takes_bool:
            return seen_R1TS
        dtype = self._subject.model.dtype
        nothing = torch.zeros((), dtype=dtype, device=seen_R1TS.device)
        return torch.where(seen_R1TS, nothing, torch.finfo(dtype).min)

    @torch.inference_mode()
    def _works(self) -> bool:
        """Whether rows side by side, read in two goes, have the logits of their sequences alone."""
        try:
            return self._agrees()
        except Exception as error:  # noqa: BLE001 - a family may fail in any way on what it was not made for
            logger.debug("The cache does not work with this model: %s", error)
            return False

    def _agrees(self) -> bool:
        subject = self._subject
        assert self._cache is not None  # noqa: S101
        longest = max(_PROBE_LENGTHS)
        if self._cache.num_slots < longest or self._cache.num_rows < 1:
            return False
        draw = torch.Generator().manual_seed(0)
        ids = [torch.randint(subject.vocab_size, (length,), generator=draw) for length in _PROBE_LENGTHS]
        ids = ids[: self._cache.num_rows]
        with unedited():
            alone = [self.whole(one[None].to(subject.device))[0, -1] for one in ids]
            widths = [len(one) - 1 for one in ids]
            ids_RT = torch.zeros(len(ids), max(widths), dtype=torch.int64)
            place_RT = torch.full_like(ids_RT, -1)
            for row, (one, width) in enumerate(zip(ids, widths, strict=True)):
                ids_RT[row, -width:], place_RT[row, -width:] = one[:-1], torch.arange(width)
            self.cached(0, ids_RT.to(subject.device), place_RT.to(subject.device))
            last_R1 = torch.stack([one[-1:] for one in ids])
            place_R1 = torch.tensor([[len(one) - 1] for one in ids])
            beside_RV = self.cached(0, last_R1.to(subject.device), place_R1.to(subject.device))
        close = _CLOSE.get(subject.model.dtype, 0.1)
        return all(
            bool((one_V - two_V).abs().max() <= close * one_V.abs().max())
            for one_V, two_V in zip(alone, beside_RV, strict=True)
        )


def _num_layers(subject: Subject) -> int:
    return int(getattr(subject.text_config, "num_hidden_layers", subject.num_layers))


def _windows(config: Any) -> dict[str, int | None]:
    """How far back each kind of layer looks, by the name of the kind; empty where all look at everything."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"}:
        return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}
    uses = getattr(config, "use_sliding_window", True)
    return {"sliding_attention": window} if window and uses and not kinds else {}
