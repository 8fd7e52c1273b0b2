"""dictionary_learning (Marks, Karvonen and Mueller): ``ae.pt`` beside ``config.json``.

The file of weights is a pickle, read as tensors alone: anything else in it is refused, so that it cannot run
code. Most of its classes subtract the decoder's bias from the input; AutoEncoderNew and JumpReluAutoEncoder do
not. ``from_pretrained`` of AutoEncoder also rescales decoder rows to unit norm, so ReLU goes out as AutoEncoderNew.

Shape legend: D width, F features (latents).
"""

import json
import re
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mistudio.errors import ConfigError, InputError, MistudioError
from mistudio.interchange.tensors import check_unpacked, whole_numbers
from mistudio.interchange.weights import (
    Reading,
    Weights,
    build,
    file_in,
    log_thresholds,
    read_json,
    read_with_bias_subtracted,
    refuse,
    refuse_unknown,
    take,
    thresholds,
    weights_of,
    written_with_bias_subtracted,
)
from mistudio.plain_text import shortened
from mistudio.sae import SparseAutoencoder
from mistudio.sae.config import MatryoshkaConfig
from mistudio.subject.points import KINDS

NAME = "dictionary_learning"
CONFIG_NAME, WEIGHTS_NAME = "config.json", "ae.pt"
_SHOWN_CHARACTERS = 200
FILES = (CONFIG_NAME, WEIGHTS_NAME)


class _Form(NamedTuple):
    """How one of its classes keeps its weights."""

    architecture: str
    names: dict[str, str]  # of its tensors: theirs to ours
    transposed: bool | str
    subtracts_bias: bool
    extra: tuple[str, ...] = ()  # tensors that are not weights


_LINEAR = {"encoder.weight": "W_enc", "decoder.weight": "W_dec"}
_PLAIN = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_TOP = {**_LINEAR, "encoder.bias": "b_enc", "b_dec": "b_dec"}
_GATED = {**_LINEAR, "gate_bias": "b_enc", "decoder_bias": "b_dec", "r_mag": "r_mag", "mag_bias": "b_mag"}
_FORMS = {
    "AutoEncoder": _Form("standard", {**_LINEAR, "encoder.bias": "b_enc", "bias": "b_dec"}, "W_dec", True),
    "AutoEncoderNew": _Form("standard", {**_LINEAR, "encoder.bias": "b_enc", "decoder.bias": "b_dec"}, "W_dec", False),
    "GatedAutoEncoder": _Form("gated", _GATED, "W_dec", True),
    "JumpReluAutoEncoder": _Form("jumprelu", {**_PLAIN, "threshold": "log_threshold"}, "W_enc", False),
    "AutoEncoderTopK": _Form("topk", _TOP, "W_dec", True, ("k", "threshold")),
    "BatchTopKSAE": _Form("batchtopk", {**_TOP, "threshold": "threshold"}, "W_dec", True, ("k",)),
    "MatryoshkaBatchTopKSAE": _Form(
        "matryoshka", {**_PLAIN, "threshold": "threshold"}, "W_enc", True, ("k", "group_sizes")
    ),
}
_CHANGES_INPUT = ("rescale_acts", "normalize_activations", "normalize", "scale", "head", "head_index", "mean_center")
_HONOURED = ("dict_class", "activation_dim", "dict_size", "k", "layer", "submodule_name")
_OF_TRAINING = (
    *("trainer_class", "lr", "steps", "warmup_steps", "decay_start", "seed", "device", "lm_name", "wandb_name"),
    *("l1_penalty", "resample_steps", "sparsity_warmup_steps", "sparsity_penalty", "sparsity_function", "l0_penalty"),
    *("initial_sparsity_penalty", "p_start", "p_end", "anneal_start", "anneal_end", "n_sparsity_updates"),
    *("sparsity_queue_length", "sparsity_loss_type", "target_l0", "bandwidth", "auxk_alpha", "top_k_aux"),
    *("dead_feature_threshold", "threshold_beta", "threshold_start_step", "k_anneal_steps", "group_fractions"),
    *("group_weights", "group_sizes", "submodule", "grad_clip", "adam_betas", "beta1", "beta2", "checkpoint_dir"),
    *("use_april_update_mode", "penalty", "num_tokens", "batch_size", "log_steps", "save_steps", "save_dir"),
)
# What an architecture without a name of its own here goes out as, by what it computes.
_WRITTEN_AS = {"topk": "AutoEncoderTopK", "thresholds": "JumpReluAutoEncoder", "gated": "GatedAutoEncoder"}


def read(folder: Path) -> Reading:
    """The autoencoder in ``folder``.

    Raises:
        NotFound: a file is missing.
        InputError: a file is damaged, or holds more than tensors.
        ConfigError: it is something that miStudio cannot hold.
    """
    config = read_json(file_in(folder, CONFIG_NAME, NAME))
    trainer, buffer = (value if isinstance(value, dict) else {} for value in map(config.get, ("trainer", "buffer")))
    path = file_in(folder, WEIGHTS_NAME, NAME)
    form = _FORMS.get(str(trainer.get("dict_class")))
    if form is None:
        message = (
            f"{folder}/{CONFIG_NAME} names the dict_class {shortened(trainer.get('dict_class'))}; "
            f"miStudio reads {', '.join(_FORMS)}."
        )
        raise ConfigError(message)
    where = f"{folder}/{CONFIG_NAME}"
    refuse_unknown(trainer, (*_HONOURED, *_OF_TRAINING), f"{where}, trainer")
    # What its buffer of activations does to them, or takes them from, shows in the weights.
    changed = {name: buffer[name] for name in _CHANGES_INPUT if name in buffer}
    side = buffer.get("io", "out")
    refuse_unknown({**changed, "io": side if side not in ("in", "out") else None}, (), f"{where}, buffer")
    tensors = _tensors(path)
    extra = {name: tensors.pop(name) for name in form.extra if name in tensors}
    weights = take(tensors, form.names, path, form.transposed)
    if form.architecture == "jumprelu":
        weights["log_threshold"] = log_thresholds(weights["log_threshold"])
    sae = build(form.architecture, _settings(form, trainer, extra, path), weights, path)
    read_at = None if side == "in" else _hook(trainer)
    return Reading(read_with_bias_subtracted(sae) if form.subtracts_bias else sae, read_at)


def write(sae: SparseAutoencoder, folder: Path, hook: str, target_hook: str | None = None) -> None:
    """Write the files that ``load_dictionary`` reads.

    Raises:
        ConfigError: dictionary_learning has nothing of this kind.
    """
    refuse(sae, NAME, target_hook, transcoder=False, linear_skip=False)
    exported = sae.exported_as()
    if exported is None:
        message = f"The format {NAME} has no {sae.config.architecture} autoencoders; it has {', '.join(_FORMS)}."
        raise ConfigError(message)
    name = exported.names.get(NAME, _WRITTEN_AS[exported.computes])
    kind, layer = hook.rsplit(".", 1)
    trainer: dict[str, Any] = {
        "dict_class": name,
        "activation_dim": sae.d_in,
        "dict_size": sae.width,
        "layer": int(layer),
        "submodule_name": f"{kind}_layer_{layer}",
    }
    if "k" in _FORMS[name].extra:
        trainer["k"] = sae.config.model_dump()["k"]
    tensors = _their_tensors(sae, _FORMS[name])
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / WEIGHTS_NAME)
    (folder / CONFIG_NAME).write_text(json.dumps({"trainer": trainer}, indent=1) + "\n", encoding="utf-8")


def _tensors(path: Path) -> Weights:
    """The tensors of a file of PyTorch.

    Raises:
        InputError: the file is damaged, or holds more than tensors by name.
    """
    try:
        check_unpacked(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MistudioError:
        raise
    except Exception as error:  # what a damaged or hostile pickle makes the reader raise can be anything
        reason = (str(error) or type(error).__name__).split("\n", 1)[0][:_SHOWN_CHARACTERS]
        message = f"{path} cannot be read as tensors alone: {reason}"
        raise InputError(message) from error
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not all(isinstance(value, Tensor) for value in content.values()):
        message = f"{path} holds something else than tensors by name."
        raise InputError(message)
    return dict(content)


def _settings(form: _Form, trainer: dict[str, Any], extra: Weights, path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if "k" in form.extra:
        settings["k"] = whole_numbers(extra["k"], "k", path)[0] if "k" in extra else trainer.get("k")
    if "group_sizes" in extra:
        settings["prefixes"] = list(accumulate(whole_numbers(extra["group_sizes"], "group_sizes", path)))
    return settings


def _their_tensors(sae: SparseAutoencoder, form: _Form) -> Weights:
    weights = written_with_bias_subtracted(sae) if form.subtracts_bias else weights_of(sae)
    if form.architecture == "jumprelu":
        weights["log_threshold"] = thresholds(sae, NAME)
    if isinstance(form.transposed, str):
        weights[form.transposed] = weights[form.transposed].T.contiguous()
    tensors = {theirs: weights[ours] for theirs, ours in form.names.items()}
    if "k" in form.extra:
        tensors["k"] = torch.tensor(sae.config.model_dump()["k"], dtype=torch.int32)
    if "threshold" in form.extra:
        tensors["threshold"] = torch.tensor(-1.0)  # none: the k largest of each token
    if isinstance(sae.config, MatryoshkaConfig):
        widths = torch.tensor((0, *sae.config.nested_widths))
        tensors["group_sizes"] = widths.diff()
    return tensors


def _hook(trainer: dict[str, Any]) -> str | None:
    match = re.fullmatch(rf"({'|'.join(KINDS)})_layer_([0-9]{{1,4}})", str(trainer.get("submodule_name")))
    return match and f"{match[1]}.{match[2]}"
