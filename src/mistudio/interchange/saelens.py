"""SAELens (v6): ``cfg.json`` beside ``sae_weights.safetensors``.

Its W_enc is the transpose of ours, [D, F]; with ``apply_b_dec_to_input`` the decoder's bias is subtracted from
the input. In use it has no BatchTopK: those, and matryoshka, go out as jumprelu with their threshold. Its
transcoders are standard or jumprelu, with or without a linear skip.

Shape legend: D width of the input, E width of the output, F features (latents).
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mistudio.errors import ConfigError
from mistudio.interchange.weights import (
    Reading,
    Weights,
    build,
    file_in,
    flag,
    from_lens_name,
    lens_name,
    log_thresholds,
    read_json,
    read_safetensors,
    read_with_bias_subtracted,
    refuse,
    refuse_unknown,
    take,
    thresholds,
    weights_of,
)
from mistudio.plain_text import shortened
from mistudio.sae import SparseAutoencoder

NAME = "saelens"
CONFIG_NAME, WEIGHTS_NAME = "cfg.json", "sae_weights.safetensors"
FILES = (CONFIG_NAME, WEIGHTS_NAME)
# Before version 6 the configuration had another form.
_VERSION = "6.54.0"

_COMMON = {"W_enc": "W_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_RELU = {**_COMMON, "b_enc": "b_enc"}
_JUMP = {**_RELU, "threshold": "log_threshold"}
_SKIP = {"W_skip": "W_skip"}
# By its name: ours, and the names of its tensors.
_READ: dict[str, tuple[str, dict[str, str]]] = {
    "standard": ("standard", _RELU),
    "topk": ("topk", _RELU),
    "gated": ("gated", {**_COMMON, "b_gate": "b_enc", "r_mag": "r_mag", "b_mag": "b_mag"}),
    "jumprelu": ("jumprelu", _JUMP),
    "transcoder": ("standard", _RELU),
    "skip_transcoder": ("standard", {**_RELU, **_SKIP}),
    "jumprelu_transcoder": ("jumprelu", _JUMP),
    "jumprelu_skip_transcoder": ("jumprelu", {**_JUMP, **_SKIP}),
}
_HONOURED = (
    *("architecture", "d_in", "d_out", "d_sae", "k", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm"),
    *("normalize_activations", "reshape_activations", "metadata", "dtype", "device"),
)
_OF_TRAINING = (
    *("decoder_init_norm", "l0_coefficient", "l0_warm_up_steps", "l1_coefficient", "l1_warm_up_steps", "lp_norm"),
    *("jumprelu_bandwidth", "jumprelu_init_threshold", "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale"),
    *("aux_loss_coefficient", "pre_act_loss_coefficient", "noise_sigma", "use_sparse_activations"),
    *("topk_threshold_lr", "mse_loss_normalization"),
)
# How TransformerLens was told to load the model. Of these none changes what passes the hook points.
_CENTRED = "center_writing_weights"
_HARMLESS_LOADING = (
    *("center_unembed", "fold_value_biases", "refactor_factored_attn_matrices", "dtype", "torch_dtype", "device"),
    *("n_devices", "move_to_device", "default_padding_side", "trust_remote_code", "revision", "n_ctx", "hf_model"),
    *("checkpoint_index", "checkpoint_value", "default_prepend_bos", "local_files_only", "attn_implementation"),
)
# Folding the norm leaves its gain out of what the MLP is said to read.
_FOLDED_NORM = ("fold_ln", "fold_layer_norm")
_AFTER_NORM = ("mlp_in",)
_WRITTEN = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
# What an architecture without a name of its own here goes out as, by what it computes.
_WRITTEN_AS = {"topk": "topk", "thresholds": "jumprelu", "gated": "gated"}


def read(folder: Path) -> Reading:
    """The autoencoder in ``folder``.

    Raises:
        NotFound: a file is missing.
        InputError: a file is damaged.
        ConfigError: it is something that miStudio cannot hold.
    """
    config = read_json(file_in(folder, CONFIG_NAME, NAME))
    path = file_in(folder, WEIGHTS_NAME, NAME)
    theirs = _architecture(config, folder)
    ours, names = _READ[theirs]
    weights = take(read_safetensors(path), names, path, transposed="W_enc")
    if "W_skip" in weights:
        weights["W_skip"] = weights["W_skip"].T.contiguous()
    if ours == "jumprelu":
        weights["log_threshold"] = log_thresholds(weights["log_threshold"])
    settings: dict[str, Any] = {"skip": "linear"} if "W_skip" in weights else {}
    if ours == "topk":
        settings["k"] = config.get("k")
    sae = build(ours, settings, weights, path)
    where = folder / CONFIG_NAME
    if flag(config, "apply_b_dec_to_input", default=True, where=where) and "transcoder" not in theirs:
        read_with_bias_subtracted(sae)
    if flag(config, "rescale_acts_by_decoder_norm", default=False, where=where):
        _fold_decoder_norms(sae)
    metadata = config["metadata"]
    hook = from_lens_name(metadata.get("hook_name"))
    target = from_lens_name(metadata.get("hook_name_out")) if "transcoder" in theirs else None
    return Reading(sae, hook, target, _is_centred(metadata, hook, f"{folder}/{CONFIG_NAME}"))


def _is_centred(metadata: dict[str, Any], hook: str | None, where: str) -> bool:
    """Whether the model was loaded with the mean taken out of what its layers write, and that shows at the hook.

    Raises:
        ConfigError: it was changed in another way that shows there, or the input is one head's.
    """
    kind = (hook or _WRITTEN[0]).partition(".")[0]
    loading = metadata.get("model_from_pretrained_kwargs") or {}
    known = (*_HARMLESS_LOADING, _CENTRED, *(() if kind in _AFTER_NORM else _FOLDED_NORM))
    refuse_unknown(loading, known, f"{where}, metadata.model_from_pretrained_kwargs")
    refuse_unknown({"hook_head_index": _given(metadata.get("hook_head_index"))}, (), f"{where}, metadata")
    return bool(loading.get(_CENTRED)) and kind in _WRITTEN


def _given(number: object) -> str | None:
    return None if number is None else str(number)


def write(sae: SparseAutoencoder, folder: Path, hook: str, target_hook: str | None = None) -> None:
    """Write the files that ``SAE.load_from_disk`` of SAELens reads.

    Raises:
        ConfigError: SAELens has nothing of this kind.
    """
    is_transcoder = target_hook is not None or sae.d_in != sae.d_out
    theirs = _their_architecture(sae, is_transcoder)
    refuse(sae, NAME, target_hook, transcoder=True, linear_skip=is_transcoder)
    metadata = {"sae_lens_version": _VERSION, "hook_name": lens_name(hook)}
    if target_hook is not None:
        metadata["hook_name_out"] = lens_name(target_hook)
    config: dict[str, Any] = {
        "architecture": theirs,
        "d_in": sae.d_in,
        "d_sae": sae.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    if is_transcoder:
        config["d_out"] = sae.d_out
    if theirs == "topk":
        config |= {"k": sae.config.model_dump()["k"], "rescale_acts_by_decoder_norm": False}
    tensors = _their_tensors(sae, theirs)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_NAME)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _architecture(config: dict[str, Any], folder: Path) -> str:
    """Their name of the architecture.

    Raises:
        ConfigError: it is not one of ours, or its input is changed in a way that weights cannot express.
    """
    theirs = config.get("architecture")
    if not isinstance(config.get("metadata"), dict) or not isinstance(theirs, str):
        message = (
            f"{folder}/{CONFIG_NAME} has no architecture and metadata, so it is not of SAELens 6: load it with "
            "SAELens 6 and save it again."
        )
        raise ConfigError(message)
    if theirs not in _READ:
        message = (
            f"{folder} holds the architecture {shortened(theirs)} of SAELens; miStudio reads {', '.join(_READ)}. "
            "One that was saved while training becomes readable with save_inference_model."
        )
        raise ConfigError(message)
    for option in ("normalize_activations", "reshape_activations"):
        value = config.get(option) or "none"
        if value != "none":
            message = (
                f"{folder}/{CONFIG_NAME} has {option} {shortened(value)}: the weights alone do not say what the "
                "autoencoder computes. Fold the normalisation into them with SAELens, and save it again."
            )
            raise ConfigError(message)
    refuse_unknown(config, (*_HONOURED, *_OF_TRAINING), f"{folder}/{CONFIG_NAME}")
    return theirs


def _their_architecture(sae: SparseAutoencoder, is_transcoder: bool) -> str:
    ours, form = sae.config.architecture, sae.exported_as()
    name = form.names.get(NAME, _WRITTEN_AS[form.computes]) if form else ours
    if is_transcoder and name in ("standard", "jumprelu"):
        skip = "skip_" if sae.config.skip == "linear" else ""
        name = f"{skip}transcoder" if name == "standard" else f"jumprelu_{skip}transcoder"
    elif is_transcoder or form is None:
        what = f"{ours} transcoders" if is_transcoder else f"{ours} autoencoders"
        message = f"The format {NAME} has no {what}; it has {', '.join(_READ)}."
        raise ConfigError(message)
    return name


def _their_tensors(sae: SparseAutoencoder, theirs: str) -> Weights:
    weights = weights_of(sae)
    if "jumprelu" in theirs:
        weights["log_threshold"] = thresholds(sae, NAME)
    for name in ("W_enc", "W_skip"):
        if name in weights:
            weights[name] = weights[name].T.contiguous()
    return {their_name: weights[our_name] for their_name, our_name in _READ[theirs][1].items()}


def _fold_decoder_norms(sae: SparseAutoencoder) -> None:
    """Latents count in units of the output there, whatever the norms of the decoder rows."""
    norm_F = sae.W_dec.norm(dim=1).clamp(min=1e-8)
    sae.W_enc.mul_(norm_F[:, None])
    sae.b_enc.mul_(norm_F)
    sae.W_dec.div_(norm_F[:, None])
