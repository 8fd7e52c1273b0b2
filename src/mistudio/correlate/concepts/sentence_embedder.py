"""Texts as a sentence-transformers model has them, read from its folder with transformers alone.

The folder says in ``modules.json`` what follows what: a transformer, a pooling over its tokens (the mean, the largest,
or the first token), and perhaps a division by the length. That is what such models are made of with few exceptions, and
a folder with other modules is refused (Reimers and Gurevych 2019, "Sentence-BERT"). Weights are read from safetensors;
no code of the folder is run.

Shape legend: N texts, T tokens of a text, D width of the model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistudio.errors import InputError
from mistudio.guarded_json import parse_json
from mistudio.plain_text import shortened

MODULES_NAME = "modules.json"
_LONGEST = 512  # tokens of a text, where the folder does not say
_MOST_BYTES = 1 << 20  # of a file of settings
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first", "pooling_mode_max_tokens": "max"}
_WEIGHTS_NAME = "model.safetensors"


class SentenceEmbedder:
    """Embeds texts with the model in a folder.

    Args:
        folder: in the format of sentence-transformers.
        device: where it runs.

    Raises:
        InputError: the folder holds no such model, or one with modules that are not known here.
    """

    centred = False
    at_once = 64

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from mistudio.artifacts import hash_file

        self._pooling, self._is_unit = _modules(folder)
        self._longest = _longest(folder)
        weights = folder / _WEIGHTS_NAME
        if not weights.is_file():
            message = f"{folder} has no {_WEIGHTS_NAME}: give the folder of a model whose weights are safetensors."
            raise InputError(message)
        self.name = folder.name if folder.name != "model" else folder.parent.name
        self.identity = f"sentence {hash_file(weights)} {self._pooling} {self._is_unit} {self._longest}"
        self._device = device
        self._tokenizer, self._model = _loaded(folder, device)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of some texts [N, D]."""
        import torch

        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            hidden_NTD = self._model(**tokens).last_hidden_state.float()
            vectors_ND = _pooled(hidden_NTD, tokens["attention_mask"], self._pooling)
            if self._is_unit:
                vectors_ND = torch.nn.functional.normalize(vectors_ND, dim=1)
        vectors: NDArray[np.float32] = vectors_ND.cpu().numpy()
        return vectors


def _modules(folder: Path) -> tuple[str, bool]:
    """The pooling of a model, and whether its vectors are made of length 1."""
    modules = _settings(folder / MODULES_NAME)
    kinds = [str(each.get("type", "")).rsplit(".", 1)[-1] for each in modules] if isinstance(modules, list) else []
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        message = (
            f"{folder / MODULES_NAME} lists {shortened(', '.join(kinds) or 'no modules')}: models of a transformer, a "
            "pooling and perhaps a normalisation can be read. Serve others behind an endpoint."
        )
        raise InputError(message)
    return _pooling(folder / Path(str(modules[1].get("path", ""))).name), kinds[-1] == "Normalize"


def _pooling(folder: Path) -> str:
    settings = _settings(folder / "config.json")
    chosen = [name for name, on in settings.items() if name.startswith("pooling_mode_") and on is True]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        how = shortened(", ".join(chosen) or "nothing")
        message = f"{folder} pools by {how}: one of {', '.join(_POOLINGS)} is read."
        raise InputError(message)
    return _POOLINGS[chosen[0]]


def _longest(folder: Path) -> int:
    path = folder / "sentence_bert_config.json"
    named = _settings(path).get("max_seq_length") if path.is_file() else None
    return min(named, _LONGEST) if isinstance(named, int) and named > 0 else _LONGEST


def _settings(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return parse_json(file.read(_MOST_BYTES))
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read: {error}. Give the folder of a sentence-transformers model."
        raise InputError(message) from error


def _loaded(folder: Path, device: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **safe)  # nosec B615 - a folder of this machine
        model = AutoModel.from_pretrained(folder, use_safetensors=True, **safe)  # nosec B615
    except (OSError, ValueError) as error:
        message = f"The model in {folder} cannot be loaded: {shortened(error)}"
        raise InputError(message) from error
    return tokenizer, model.float().eval().to(device)


def _pooled(hidden_NTD: Any, mask_NT: Any, pooling: str) -> Any:
    """One vector of the tokens of each text."""
    if pooling == "first":
        return hidden_NTD[:, 0]
    is_there_NT1 = mask_NT[:, :, None].to(hidden_NTD.dtype)
    if pooling == "max":
        return hidden_NTD.masked_fill(is_there_NT1 == 0, -1e9).amax(dim=1)
    return (hidden_NTD * is_there_NT1).sum(dim=1) / is_there_NT1.sum(dim=1).clamp(min=1e-9)
