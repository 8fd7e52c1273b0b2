"""Forward passes of rows at their own places, through a cache where the model can be told where its tokens are.

Whether it can is tried out: two sequences of different lengths, side by side, have to have the logits that each has
alone. What cannot (positions from a mask of the family's own making, states in place of keys and values) is run whole.

Shape legend: R rows, T tokens of a row, S slots of the cache, V vocabulary.
"""

import logging
from typing import Any

import torch
from torch import Tensor

from mistudio.instrument.kv_cache import RowCache
from mistudio.instrument.whole_passes import WholePasses, agree
from mistudio.subject import Subject, unedited

logger = logging.getLogger(__name__)

_SLIDING, _CHUNKED = "sliding_attention", "chunked_attention"  # kinds of layers, as transformers calls them


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
        self.whole = WholePasses(subject)
        self._keep = {"logits_to_keep": 1} if self.whole.takes_keep else {}
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

    def copy(self, source: int, target: int, num_slots: int) -> None:
        """Copy what the cache holds of a row."""
        if self._cache is not None:
            self._cache.copy(source, target, num_slots)

    def wipe(self, number: int) -> None:
        """Leave nothing of what the cache holds of a row."""
        if self._cache is not None:
            self._cache.wipe(number)

    def _masks(self, seen_R1TS: Tensor, place_RT: Tensor) -> Any:
        """Which slots each token looks at, in the form that the model takes."""
        if not self._windows:
            return self._mask(seen_R1TS)
        slot_S = torch.arange(seen_R1TS.shape[-1], device=place_RT.device)
        place_R1T1 = place_RT.clamp(min=0)[:, None, :, None]
        masks = {}
        for kind, size in self._windows.items():
            near_R1TS = seen_R1TS
            if size is not None and kind == _CHUNKED:
                near_R1TS = seen_R1TS & (slot_S >= place_R1T1 - place_R1T1 % size)
            elif size is not None:
                near_R1TS = seen_R1TS & (slot_S > place_R1T1 - size)
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
        assert self._cache is not None  # noqa: S101
        probes = self.whole.probes()[: self._cache.num_rows]
        longest = max(len(probe.ids) for probe in probes)
        if self._cache.num_slots < longest:
            return False
        ids_RT = torch.zeros(len(probes), longest - 1, dtype=torch.int64)
        place_RT = torch.full_like(ids_RT, -1)
        for row, probe in enumerate(probes):
            width = len(probe.ids) - 1
            ids_RT[row, -width:], place_RT[row, -width:] = torch.tensor(probe.ids[:-1]), torch.arange(width)
        last_R1 = torch.tensor([probe.ids[-1:] for probe in probes])
        place_R1 = torch.tensor([[len(probe.ids) - 1] for probe in probes])
        device = self._subject.device
        with unedited():
            self.cached(0, ids_RT.to(device), place_RT.to(device))
            logits_RV = self.cached(0, last_R1.to(device), place_R1.to(device))
        return agree(probes, logits_RV, self._subject.model.dtype)


def _num_layers(subject: Subject) -> int:
    return int(getattr(subject.text_config, "num_hidden_layers", subject.num_layers))


def _windows(config: Any) -> dict[str, int | None]:
    """How far back each kind of layer looks, by the name of the kind; empty where all look at everything.

    Some look as far back as a window, others as far as the beginning of the chunk that a token is in.
    """
    window = getattr(config, "sliding_window", None)
    sizes = {_SLIDING: window, _CHUNKED: getattr(config, "attention_chunk_size", None)}
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {"full_attention"}:
        return {kind: sizes.get(kind) for kind in sorted(kinds)}
    uses = getattr(config, "use_sliding_window", True)
    return {_SLIDING: window} if window and uses and not kinds else {}
