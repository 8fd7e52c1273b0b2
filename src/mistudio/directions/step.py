"""The direction step: from positive and negative examples to a direction, and how well it tells them apart."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

from mistudio.artifacts import Draft, InputRef, JsonScalar, Produced, Recipe, Store, Summary, produce
from mistudio.directions.artifact import KIND, RECORD_NAME, TENSOR_NAME, VECTOR_NAME, Record
from mistudio.directions.config import DirectionConfig
from mistudio.directions.example_files import Files
from mistudio.directions.examples import EMPTY, FEW, REASONS, Examples, check_enough, read_examples
from mistudio.evaluate.step import numerics
from mistudio.subject import HookPoint, SubjectConfig, SubjectSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from mistudio.directions.example_pooling import Pooled
    from mistudio.directions.fit import Fitted
    from mistudio.instrument import Session


def direction(
    store: Store,
    files: Files,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: DirectionConfig,
    seed: int = 0,
    session: "Session | None" = None,
) -> Produced:
    """Publish the direction from negative to positive examples, and how well it tells held-out ones apart.

    Args:
        store: where it is published.
        files: the examples.
        source: the model.
        subject_config: how it is loaded, or was.
        config: where and how.
        seed: of the halves, resamples and controls.
        session: that model where it is loaded already; None: it is loaded for this.

    Raises:
        ConfigError: the labels do not tell the classes apart, or there is no such hook point.
        InputError: a class has too few examples, or the classes do not differ.
        SubjectError: the model cannot be loaded, or has no template for chats.
    """
    HookPoint.parse(config.hook)
    inputs = {"subject": InputRef(uri=source.uri, digest=source.digest), **files.refs}
    settings = {**config.model_dump(mode="json"), **numerics(subject_config)}
    recipe = Recipe(kind=KIND, config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        labels = config.positive_label, config.negative_label
        return _make(
            draft,
            read_examples(files, *labels, config.max_examples, seed),
            source,
            config,
            seed,
            lambda: nullcontext(session) if session is not None else _opened(source, subject_config),
        )

    return produce(store, recipe, "direction", build)


def _make(
    draft: Draft,
    examples: Examples,
    source: SubjectSource,
    config: DirectionConfig,
    seed: int,
    opened: "Callable[[], AbstractContextManager[Session]]",
) -> Summary:
    import numpy as np

    from mistudio.directions.example_pooling import pool_examples
    from mistudio.directions.fit import fit_direction

    with opened() as session:
        pooled = pool_examples(draft, session, examples.found, config)
    kept_E = pooled.tokens_E > 0
    is_positive_E = np.array([each.is_positive for each in examples.found], dtype=np.bool_)[kept_E]
    examples.left_out[EMPTY] += int((~kept_E).sum())
    check_enough(is_positive_E.tolist(), examples.left_out)
    fitted = fit_direction(pooled.acts_ED[kept_E], is_positive_E, config, seed)
    record = _record(fitted, pooled, source, config)
    _write(draft, fitted, record)
    return _summary(record, config, is_positive_E.tolist(), examples.left_out, int(pooled.whole_E.sum()))


def _opened(source: SubjectSource, subject_config: SubjectConfig) -> "Session":
    from mistudio.instrument import open_session

    return open_session((), source, subject_config)


def _record(fitted: "Fitted", pooled: "Pooled", source: SubjectSource, config: DirectionConfig) -> Record:
    import numpy as np

    return Record(
        hook=config.hook,
        subject=source.uri,
        subject_digest=source.digest,
        width=len(fitted.vector_D),
        norm=float(np.linalg.norm(fitted.vector_D)),
        activation_norm=float(np.median(pooled.norm_N)),
        auroc=fitted.auroc,
        random_auroc=fitted.random_auroc,
        shuffled_auroc=fitted.shuffled_auroc,
    )


def _write(draft: Draft, fitted: "Fitted", record: Record) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    with draft.stage(VECTOR_NAME) as path:
        save_file({TENSOR_NAME: fitted.vector_D.astype(np.float32)}, path)
    draft.write(RECORD_NAME, json.dumps(record.model_dump(mode="json"), indent=1).encode())


def _summary(
    record: Record, config: DirectionConfig, is_positive: list[bool], left_out: Mapping[str, int], whole: int
) -> Summary:
    figures = {"auroc": record.auroc, "control.random_auroc": record.random_auroc}
    figures |= {"control.shuffled_auroc": record.shuffled_auroc}
    positive, negative = sum(is_positive), len(is_positive) - sum(is_positive)
    summary: dict[str, JsonScalar] = {"hook": record.hook, "method": config.method, "pool": config.pool}
    summary |= {"positive": positive, "negative": negative, **{name: left_out.get(name, 0) for name in REASONS}}
    summary |= {"chats_with_template": whole, "norm": record.norm, "activation_norm": record.activation_norm}
    for name, figure in figures.items():
        summary |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    if min(positive, negative) < FEW:
        summary["warning"] = f"fewer than {FEW} examples of a class: the figures are rough"
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in summary.items()}
