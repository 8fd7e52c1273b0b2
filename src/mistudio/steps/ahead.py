"""How long a run will take, said before it starts: from the settings, the model's shape and a speed measured here.

What is products of matrices is counted (:mod:`mistudio.subject.cost`) and divided by the speed of this machine. What is
not, the search for programs above all, goes by figures that were measured on two cores. The whole is meant to be right
within a half: enough to tell minutes from hours.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.progress import say
from mistudio.settings import get
from mistudio.steps.choose import choose_layer, default_width
from mistudio.steps.spec import Asked

if TYPE_CHECKING:
    from mistudio.artifacts import Store
    from mistudio.evaluate.config import EvaluateConfig
    from mistudio.explain import ExplainConfig
    from mistudio.find import FindConfig
    from mistudio.subject import SubjectSource
    from mistudio.subject.footprint import ModelShape
    from mistudio.train import TrainConfig

_START_S = 6.0  # a process with its libraries, the model loaded
_INGEST_S = 8e-6  # a token
_PASS_S = 1.2e-6  # an active latent of find's pass
_COMPARE_S = 4e-3  # a feature compared with others, laid out on the map, and written
_EXPLAIN_S = 2.5e-7  # a feature and a token that programs are searched on
_SCORE_S = 2.5e-7  # a feature and a held-out token
_BYTES_A_TOKEN = 4
_DEFAULT_CONTEXT, _MOST_ACTIVE = 512, 64


class Ahead(NamedTuple):
    """One step of a run."""

    step: str
    seconds: float


class _Sizes(NamedTuple):
    """What the estimates are made of."""

    shape: "ModelShape"
    device: str
    dtype: str
    tokens: float  # of the corpus, both splits
    heldout: float  # of them
    context_length: int
    layer: int
    width: int
    explained: int  # features
    active: float  # latents a token


def say_time_ahead(takes: Mapping[str, Mapping[str, str]], values: Mapping[str, object], store: "Store") -> None:
    """Tell whoever follows a pipeline's run how long it will take; nothing where that cannot be told.

    Args:
        takes: by step, what it calls an option -> what the pipeline calls it.
        values: the pipeline's parameters.
        store: where it publishes.
    """
    from mistudio.demo import DEMO, demo_uri
    from mistudio.steps.context import named_source
    from mistudio.steps.running import check_together

    asked = check_together(takes, values)
    model = str(values.get("model") or DEMO)
    if not {"ingest", "capture", "train"} <= set(asked) or (model == DEMO and is_missing(store, demo_uri())):
        return
    ahead = time_ahead(asked, named_source(store, model, ""), corpus_tokens(asked["ingest"]))
    if ahead:
        say(said(ahead))


def is_missing(store: "Store", prefix: str) -> bool:
    """Whether nothing is published under a prefix."""
    from mistudio.artifacts.manifest import MANIFEST_NAME

    return store.find(f"{prefix}/{MANIFEST_NAME}") is None


def corpus_tokens(ingest: Asked) -> float | None:
    """The most tokens that a corpus can have: by its setting, or by the bytes of its files; None: nobody knows."""
    from pathlib import Path

    most: int | None = ingest.config.max_tokens
    path = Path(str(ingest.given.get("corpus", "")))
    if not ingest.given.get("corpus") or not path.exists():
        return most
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    of_files = sum(each.stat().st_size for each in files) / _BYTES_A_TOKEN
    return of_files if most is None else min(of_files, most)


def time_ahead(asked: Mapping[str, Asked], source: "SubjectSource", tokens: float | None) -> list[Ahead]:
    """What each step of the main job takes; nothing for a corpus of unknown size.

    Args:
        asked: by step, what it was asked for.
        source: the model.
        tokens: of the corpus, training and held-out ones.
    """
    if tokens is None:
        return []
    sizes = _sizes(asked, source, tokens)
    return [Ahead(step, _START_S + _SECONDS[step](asked[step].config, sizes)) for step in _SECONDS if step in asked]


def said(ahead: list[Ahead]) -> str:
    """For people: the sum, and the steps that take most of it."""
    from mistudio.subject.cost import duration

    total = sum(each.seconds for each in ahead)
    shown = [f"{each.step} {duration(each.seconds)}" for each in ahead if each.seconds > total / 20]
    return f"This will take about {duration(total)} on this machine: {', '.join(shown)}."


def _sizes(asked: Mapping[str, Asked], source: "SubjectSource", tokens: float) -> _Sizes:
    from mistudio.features.selection import parse_selection
    from mistudio.subject import device_name, resolve_dtype
    from mistudio.subject.config import SubjectConfig
    from mistudio.subject.footprint import measure_shape

    loading: dict[str, Any] = dict(asked["capture"].loading)
    subject = SubjectConfig(**loading)
    shape, device = measure_shape(source, subject.trust_remote_code), device_name(subject.device)
    ingest, capture, train = (asked[step] for step in ("ingest", "capture", "train"))
    width = get(train.content, "sae.width") or default_width(shape.d_model)
    only = asked["explain"].config.only if "explain" in asked else None
    most = min(shape.max_positions or _DEFAULT_CONTEXT, _DEFAULT_CONTEXT)
    return _Sizes(
        shape=shape,
        device=device,
        dtype=resolve_dtype(subject.dtype, device),
        tokens=tokens,
        heldout=ingest.config.held_out_fraction * tokens,
        context_length=get(ingest.content, "context_length") or most,
        layer=choose_layer(capture.given.get("layer"), shape.num_layers),
        width=width,
        explained=parse_selection(only).at_most(width) if only else width,
        active=min(get(train.content, "sae.k") or shape.d_model / 4, _MOST_ACTIVE),
    )


def _ingest(_config: Any, sizes: _Sizes) -> float:
    return _INGEST_S * sizes.tokens


def _capture(_config: Any, sizes: _Sizes) -> float:
    return _pass_seconds(sizes, sizes.tokens, blocks=sizes.layer + 1, head=False)


def _train(config: "TrainConfig", sizes: _Sizes) -> float:
    from mistudio.subject.cost import product_speed, training_flop

    d_in = sizes.shape.d_model
    flop = training_flop(config.tokens, d_in, sizes.width, few_active=hasattr(config.sae, "k"))
    return flop / product_speed(config.batch_size, d_in, sizes.width, sizes.device)


def _evaluate(config: "EvaluateConfig", sizes: _Sizes) -> float:
    """Every token once to the hook point, and twice from there: as it is, and rebuilt."""
    tokens, blocks = min(sizes.heldout, config.ce_tokens), sizes.layer + 1
    reaching = _pass_seconds(sizes, tokens, blocks=blocks, head=False)
    return reaching + _pass_seconds(sizes, 2 * tokens, blocks=sizes.shape.num_layers - blocks)


def _find(config: "FindConfig", sizes: _Sizes) -> float:
    from mistudio.find.cost import feature_flop
    from mistudio.subject.cost import measured_speed

    trying = sizes.width * feature_flop(sizes.shape, sizes.layer + 1, config)
    budget = config.causal_tflop
    trying = trying if budget is None else min(trying, budget * 1e12)
    reading = _PASS_S * sizes.active * (sizes.tokens - sizes.heldout)
    return reading + _COMPARE_S * sizes.width + trying / measured_speed(sizes.shape, sizes.device, sizes.dtype)


def _explain(config: "ExplainConfig", sizes: _Sizes) -> float:
    """Of programs; what a language model takes depends on whoever runs it."""
    return _EXPLAIN_S * sizes.explained * min(sizes.tokens - sizes.heldout, config.max_tokens)


def _score(_config: Any, sizes: _Sizes) -> float:
    return _SCORE_S * sizes.explained * sizes.heldout


def _report(_config: Any, _sizes: _Sizes) -> float:
    return 0.0


def _pass_seconds(sizes: _Sizes, tokens: float, *, blocks: int, head: bool = True) -> float:
    from mistudio.subject.cost import measured_speed, pass_flop

    flop = pass_flop(sizes.shape, tokens, sizes.context_length, blocks=blocks, head=head)
    return flop / measured_speed(sizes.shape, sizes.device, sizes.dtype)


_SECONDS: dict[str, Callable[[Any, _Sizes], float]] = {
    "ingest": _ingest,
    "capture": _capture,
    "train": _train,
    "evaluate": _evaluate,
    "find": _find,
    "explain": _explain,
    "score": _score,
    "report": _report,
}
