"""What tells one run from another, read off what was made: the model, the hook point, the autoencoder."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mistudio.artifacts import Artifact, InputRef, Line, Store, open_artifact, open_input
from mistudio.errors import MistudioError

_NOT_GIVEN = (None, "", -1)
# What tells runs of pipelines apart as they begin, and the word before its value.
_ASKED = {
    **dict.fromkeys(("model", "hook", "architecture", "architectures"), ""),
    **dict.fromkeys(("width", "widths"), "width "),
    "k": "k",
    "sparsities": "sparsity ",
    **dict.fromkeys(("seed", "seeds"), "seed "),
}
_SHOWN_CHARACTERS = 60


def facts(artifact: Artifact) -> dict[str, str]:
    """Model, hook, architecture, width, sparsity and seed behind an artifact, as far as they are known.

    They have the same names however the autoencoder was made, so that all can be compared. Of an artifact that was made
    from several autoencoders, only what is behind the first and common to all.
    """
    several = _first_of_several(artifact)
    if several is not None:
        of_first = facts(several)
        return {name: of_first[name] for name in ("model", "hook") if name in of_first}
    with suppress(MistudioError):  # what is gone from the store tells nothing
        line = Line(artifact.store, artifact)
        sae, activations = line.find("sae"), line.find("activations")
        return {**_of_activations(activations), **(_of_sae(sae) if sae is not None else {})}
    return {}


def step_title(step: str, artifact: Artifact) -> str:
    """The name of a step's run, such as ``train topk width 512 k16 seed 0``."""
    several = _first_of_several(artifact)
    known = facts(artifact)
    if several is not None:
        return " ".join([step, f"{len(artifact.manifest.inputs)} autoencoders", *_where(known)])
    if artifact.manifest.short_kind == "corpus":
        return f"{step} {corpus_name(artifact)}"
    return " ".join([step, *(autoencoder_words(known) or _where(known))])


def pipeline_title(pipeline: str, values: Mapping[str, Any]) -> str:
    """The name of a pipeline's run as long as nothing but what was asked for is known.

    Args:
        pipeline: its name.
        values: its parameters.
    """
    words = [f"{before}{values[name]}" for name, before in _ASKED.items() if values.get(name) not in _NOT_GIVEN]
    return " ".join([pipeline, *(word.rpartition("/")[2][:_SHOWN_CHARACTERS] for word in words)])


def finished_title(pipeline: str, known: Mapping[str, str], num_autoencoders: int) -> str:
    """The name of a pipeline's run, once what it made is known: ``stories260K resid_post.2 topk width 512 k16 seed 0``.

    Args:
        pipeline: its name, which stands first where it made several autoencoders.
        known: the facts of what it made.
        num_autoencoders: how many it made.
    """
    where = _where(known)
    if num_autoencoders > 1:
        return " ".join([pipeline, *where, f"{num_autoencoders} autoencoders"])
    return " ".join([*where, *autoencoder_words(known)])


def autoencoder_words(known: Mapping[str, str]) -> list[str]:
    """Architecture, width, sparsity and seed, in words; none where no autoencoder is known."""
    if "architecture" not in known:
        return []
    sparsity = [known["sparsity"]] if "sparsity" in known else []
    return [known["architecture"], f"width {known['width']}", *sparsity, f"seed {known['seed']}"]


def model_name(store: Store, subject: InputRef) -> str:
    """What a language model is called: a folder's or file's name, an id without its organisation."""
    if ":" not in subject.uri:
        with suppress(MistudioError):
            return str(open_artifact(store, subject.uri).manifest.config.get("name") or subject.uri)
    return _short(subject.uri)


def corpus_name(corpus: Artifact) -> str:
    """What a corpus is called: the name of what was read."""
    texts = [ref.uri for role, ref in corpus.manifest.inputs.items() if role != "tokenizer"]
    return _short(texts[0]) if texts else corpus.uri


def _short(uri: str) -> str:
    return uri.partition(":")[2].partition("@")[0].rpartition("/")[2][:_SHOWN_CHARACTERS] or uri


def _where(known: Mapping[str, str]) -> list[str]:
    return [known[name] for name in ("model", "hook") if name in known]


def _first_of_several(artifact: Artifact) -> Artifact | None:
    """The first of what a comparison or a stability was made from."""
    if artifact.manifest.short_kind not in ("comparison", "stability"):
        return None
    for ref in artifact.manifest.inputs.values():
        with suppress(MistudioError):
            return open_input(artifact.store, ref, ref.uri.partition("/")[0])
    return None


def _of_activations(activations: Artifact | None) -> dict[str, str]:
    if activations is None:
        return {}
    subject = activations.manifest.inputs.get("subject")
    hooks = activations.manifest.config.get("hooks")
    model = {"model": model_name(activations.store, subject)} if subject is not None else {}
    return {**model, **({"hook": ", ".join(map(str, hooks))} if isinstance(hooks, list | tuple) else {})}


def _of_sae(sae: Artifact) -> dict[str, str]:
    from mistudio.sae import architecture_configs

    config = sae.manifest.config
    settings = config.get("sae")
    if not isinstance(settings, Mapping) or "architecture" not in settings:
        return {}
    kind = architecture_configs().get(str(settings["architecture"]))  # another package's may not be here
    asked = ((label, settings.get(key)) for key, label in (kind.sparsity if kind else {}).items())
    sparsity = next((_sparsity(label, value) for label, value in asked if value is not None), None)
    hook, target = config.get("hook"), config.get("target_hook")
    known = {
        "hook": f"{hook} to {target}" if target else hook,
        "architecture": settings["architecture"],
        "width": settings.get("width"),
        "sparsity": sparsity,
        "seed": sae.manifest.seed,
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def _sparsity(label: str, value: Any) -> str:
    shown = f"{value:g}" if isinstance(value, int | float) else str(value)
    return f"{label}{shown}" if label == "k" else f"{label} {shown}"
