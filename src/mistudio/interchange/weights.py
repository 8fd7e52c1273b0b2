"""What all formats share: reading their files safely, and weights between their conventions and ours.

Everything read here comes from elsewhere, so it is checked before use: names, shapes, finite numbers. No file
can run code.

Shape legend: D width of the input, E width of the output, F features (latents).
"""

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mistudio.errors import ConfigError, InputError, NotFound
from mistudio.guarded_json import RefusedJSON, parse_json_file
from mistudio.interchange.tensors import MAX_WEIGHT, plain
from mistudio.plain_text import shortened
from mistudio.sae import SparseAutoencoder, ThresholdedAutoencoder, architecture_config, new_autoencoder
from mistudio.sae.config import MAX_WIDTH

Weights = dict[str, Tensor]

_MATRICES = ("W_enc", "W_dec", "W_skip")
_SCALARS = ("threshold", "k")
_MAX_LOG_MAGNITUDE = math.log(MAX_WEIGHT)
_SHOWN_NAMES = 20
_NOTHING: tuple[object, ...] = (None, False, 0, "", "none", "None", [], {})
_SHOWN_FOLDERS = 12
# Names of hook points in TransformerLens, which SAELens uses.
_LENS_NAMES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_in": "mlp.hook_in",  # its hook_mlp_in is before the norm
    "mlp_out": "hook_mlp_out",
    "mlp_act": "mlp.hook_post",
}


class Reading(NamedTuple):
    """An autoencoder from elsewhere, and what its files say of where it belongs.

    ``centred`` where it was trained on a model whose residual stream TransformerLens had centred, if it does that to
    models of the kind.
    """

    sae: SparseAutoencoder
    hook: str | None = None
    target_hook: str | None = None
    centred: bool = False


def file_in(folder: Path, name: str, what: str) -> Path:
    """A file that the format ``what`` consists of.

    Raises:
        NotFound: there is none of that name.
    """
    path = folder / name
    if not path.is_file():
        message = f"{folder} has no file {name}, which an autoencoder in the format {what} consists of."
        found = (path for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{name}"))
        below = sorted(str(path.parent.relative_to(folder)) for path in found)
        if below:
            more = f" and {len(below) - _SHOWN_FOLDERS} more" if len(below) > _SHOWN_FOLDERS else ""
            message += f" These folders in it have one, name one of them: {', '.join(below[:_SHOWN_FOLDERS])}{more}."
        raise NotFound(message)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: it is no JSON, or no object.
    """
    try:
        content = parse_json_file(path)
    except RefusedJSON as error:
        message = f"{path} cannot be read as JSON: {error}"
        raise InputError(message) from error
    if not isinstance(content, dict):
        message = f"{path} holds a JSON {type(content).__name__}, but a configuration is an object."
        raise InputError(message)
    return content


def flag(config: Mapping[str, Any], name: str, *, default: bool, where: Path) -> bool:
    """A setting that is on or off; null is as if it were not there.

    Raises:
        ConfigError: it is something else, such as the text "false".
    """
    value = default if config.get(name) is None else config[name]
    if not isinstance(value, bool):
        message = f"{where} has {name} {shortened(value)}: it has to be true or false."
        raise ConfigError(message)
    return value


def read_safetensors(path: Path) -> Weights:
    """The tensors of a safetensors file.

    Raises:
        InputError: the file is damaged or something else.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, AttributeError, ValueError, RuntimeError) as error:
        message = f"{path} cannot be read as safetensors: {error}"
        raise InputError(message) from error


def refuse_unknown(config: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse settings that are not known, for any of them may change what the weights compute.

    Args:
        config: what their file says.
        known: names of settings that are honoured, or of training alone.
        where: their file, for the message.

    Raises:
        ConfigError: there is one that is switched on.
    """
    unknown = sorted(name for name, value in config.items() if name not in known and value not in _NOTHING)
    if unknown:
        name, value = unknown[0], str(config[unknown[0]])
        shown = f"{name[:40]} {shortened(value)}"
        message = (
            f"{where} has the setting {shown}, which miStudio does not know: it may change what the autoencoder "
            "computes. If it is of training alone, take it out of the file."
        )
        raise ConfigError(message)


def take(found: Mapping[str, Tensor], names: Mapping[str, str], where: Path, transposed: bool | str = False) -> Weights:
    """Tensors under our names and as float32.

    Args:
        found: tensors as they were read.
        names: theirs to ours; all of them, and no others, must be there.
        where: their file, for messages.
        transposed: whether their matrices are the transpose of ours; or the name of the one that is.

    Raises:
        InputError: a tensor is missing, unknown, not of plain finite numbers, or of another number of dimensions.
    """
    if set(found) != set(names):
        message = f"{where} holds the tensors {_listed(found)}, but {_listed(names)} are expected."
        raise InputError(message)
    taken = {}
    for theirs, ours in names.items():
        value = plain(found[theirs], theirs, where)
        num_dims = 2 if ours in _MATRICES else 0 if ours in _SCALARS else 1
        if value.ndim != num_dims:
            message = f"{where}: tensor {theirs} has shape {list(value.shape)}; {num_dims} dimension(s) are expected."
            raise InputError(message)
        if ours == "r_mag" and float(value.max()) > _MAX_LOG_MAGNITUDE:
            message = f"{where}: tensor {theirs} has magnitudes above {MAX_WEIGHT:.0e}, too large to compute with."
            raise InputError(message)
        flips = ours in _MATRICES and transposed in (True, ours)
        taken[ours] = value.T.contiguous() if flips else value.contiguous()
    return taken


def build(architecture: str, settings: Mapping[str, Any], weights: Weights, where: Path) -> SparseAutoencoder:
    """An autoencoder of these weights.

    Args:
        architecture: one of ours.
        settings: of its configuration, beside the width.
        weights: by our names, oriented as ours.
        where: their file, for messages.

    Raises:
        ConfigError: the settings do not fit the architecture.
        InputError: the weights do not fit each other.
    """
    (width, d_in), d_out = weights["W_enc"].shape, weights["W_dec"].shape[1]
    content = {"width": width, "allow_wide": width > MAX_WIDTH, **settings}
    try:
        config = architecture_config(architecture).model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))} {item['msg']}".strip() for item in error.errors())
        message = f"{where.parent} holds an autoencoder that miStudio cannot hold: {problems}."
        raise ConfigError(message) from error
    with torch.device("meta"):  # of weights that do not fit each other it may take any memory
        shapes = new_autoencoder(config, d_in, d_out)
    for name in shapes.weight_names():
        expected, shape = list(getattr(shapes, name).shape), list(weights[name].shape)
        if shape != expected:
            message = f"{where}: {name} has shape {shape}, but with the other weights it must be {expected}."
            raise InputError(message)
    sae = new_autoencoder(config, d_in, d_out)
    sae.load_state_dict(weights, strict=False)  # all but what only training needs
    return sae.requires_grad_(requires_grad=False)


def log_thresholds(threshold_F: Tensor) -> Tensor:
    """Thresholds as a jumprelu stores them; all are followed by a ReLU, so that one below 0 is one of 0."""
    return threshold_F.clamp(min=torch.finfo(torch.float32).tiny).log()


def thresholds(sae: SparseAutoencoder, what: str) -> Tensor:
    """One threshold a latent, above which it is active in full [F].

    Raises:
        ConfigError: the architecture has no thresholds.
    """
    form = sae.exported_as()
    if form is None or form.computes != "thresholds" or not isinstance(sae, ThresholdedAutoencoder):
        message = (
            f"The format {what} holds one threshold a latent, and a {sae.config.architecture} autoencoder has none: "
            "choose another format."
        )
        raise ConfigError(message)
    return sae.threshold_F.detach().expand(sae.width).clone()


def centred_input(sae: SparseAutoencoder, *, keeps_mean: bool) -> SparseAutoencoder:
    """Fold in that the mean over dimensions is taken out of each input: W (x - 1 1'x / D).

    With ``keeps_mean`` it passes beside the latents, as it does of an autoencoder that replaces its own input.
    """
    weights = weights_of(sae)
    weights["W_enc"] -= weights["W_enc"].mean(dim=1, keepdim=True)
    config = sae.config
    if "W_skip" in weights:
        weights["W_skip"] -= weights["W_skip"].mean(dim=0, keepdim=True)
    elif keeps_mean:
        config = config.model_copy(update={"skip": "linear"})
        weights["W_skip"] = torch.full((sae.d_in, sae.d_out), 1 / sae.d_in)
    centred = new_autoencoder(config, sae.d_in, sae.d_out)
    centred.load_state_dict(weights, strict=False)
    return centred.requires_grad_(requires_grad=False)


def read_with_bias_subtracted(sae: SparseAutoencoder) -> SparseAutoencoder:
    """Fold a decoder bias that is subtracted from the input: W (x - b) = W x - W b.

    Raises:
        ConfigError: the input is not as wide as the output, whose bias it is.
    """
    if sae.d_in != sae.d_out:
        message = (
            "The files say that the decoder's bias is subtracted from the input, but that is "
            f"{sae.d_in} wide and the bias {sae.d_out}."
        )
        raise ConfigError(message)
    _shift_encoder(sae, sae.state_dict(), -1)
    return sae


def written_with_bias_subtracted(sae: SparseAutoencoder) -> Weights:
    """The weights, with encoder biases for a reader that subtracts the decoder bias from the input."""
    weights = weights_of(sae)
    _shift_encoder(sae, weights, 1)
    return weights


def weights_of(sae: SparseAutoencoder) -> Weights:
    """A copy of the weights in float32, by our names."""
    return {name: getattr(sae, name).detach().float().cpu().clone() for name in sae.weight_names()}


def refuse(sae: SparseAutoencoder, what: str, target_hook: str | None, *, transcoder: bool, linear_skip: bool) -> None:
    """Refuse what a format cannot hold beside the latents themselves.

    Args:
        sae: what is to be written.
        what: the format.
        target_hook: what the autoencoder predicts, if not its input.
        transcoder: whether the format holds transcoders.
        linear_skip: whether it holds a linear skip.

    Raises:
        ConfigError: it cannot hold this one.
    """
    skip = sae.config.skip
    if skip != "none" and not (skip == "linear" and linear_skip):
        message = f"The format {what} cannot hold a skip of kind {skip}."
        raise ConfigError(message)
    if not transcoder and (target_hook is not None or sae.d_in != sae.d_out):
        message = f"The format {what} cannot hold a transcoder (from {sae.d_in} to {sae.d_out} wide)."
        raise ConfigError(message)


def lens_name(hook: str) -> str:
    """The name of a hook point in TransformerLens: blocks.3.hook_resid_post for resid_post.3."""
    kind, layer = hook.rsplit(".", 1)
    return f"blocks.{layer}.{_LENS_NAMES[kind]}" if kind in _LENS_NAMES else hook


def from_lens_name(name: object) -> str | None:
    """Our name of a hook point of TransformerLens; None if there is none."""
    match = re.fullmatch(r"blocks\.([0-9]{1,4})\.([\w.]+)", name) if isinstance(name, str) else None
    kinds = {lens: kind for kind, lens in _LENS_NAMES.items()}
    return f"{kinds[match[2]]}.{match[1]}" if match and match[2] in kinds else None


def _shift_encoder(sae: SparseAutoencoder, weights: Mapping[str, Tensor], sign: int) -> None:
    """Add W_enc b_dec to the encoder's biases, in place, or take it away."""
    shift_F = sign * (sae.W_enc.detach().double() @ sae.b_dec.detach().double())
    weights["b_enc"].copy_(weights["b_enc"].double() + shift_F)
    if "b_mag" in weights:
        weights["b_mag"].copy_(weights["b_mag"].double() + weights["r_mag"].double().exp() * shift_F)


def _listed(names: Mapping[str, object]) -> str:
    shown = ", ".join(shortened(name).strip("'") for name in sorted(names)[:_SHOWN_NAMES])
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"{shown}{more}" if names else "none"
