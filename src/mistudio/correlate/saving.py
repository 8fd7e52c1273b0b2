"""The direction between examples, made as the step ``direction`` makes it, and kept under a name if one is given."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mistudio.artifacts import add_reference, record_action
from mistudio.artifacts.refs import check_reference
from mistudio.correlate.config import CorrelateConfig
from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.queries import ExamplesQuery
from mistudio.correlate.replies import SavedDirection
from mistudio.directions.artifact import KIND, open_direction
from mistudio.directions.config import DirectionConfig, Figure
from mistudio.directions.example_files import Files
from mistudio.directions.example_pooling import pool_in_memory
from mistudio.directions.examples import Example
from mistudio.directions.fit import fit_direction
from mistudio.directions.step import direction
from mistudio.errors import InputError
from mistudio.subject import Subject, SubjectConfig, unedited

if TYPE_CHECKING:
    from mistudio.instrument.served import Served


class Between(NamedTuple):
    """A direction's figures on held-out examples, and where it was kept."""

    auroc: Figure
    random_auroc: Figure
    shuffled_auroc: Figure
    saved: SavedDirection | None


def check_can_save(query: ExamplesQuery, served: "Served") -> None:
    """Refuse to keep a direction where that cannot be, before anything is computed.

    Raises:
        InputError: the store is only read, nobody says so, the name cannot be one, or the model's origin is unknown.
    """
    if query.save_as is None:
        return
    if served.store.read_only:
        message = (
            f"save_as: the store {served.store.url} is only read here, so that no direction can be kept. Leave save_as "
            "out, or make the direction with mistudio direction or mistudio correlate examples --save-as."
        )
        raise InputError(message)
    if query.author is None:
        message = "author: who says so belongs to a name; give it with save_as."
        raise InputError(message)
    check_reference(KIND, query.save_as)
    if served.session.source is None:
        message = "save_as: where the model comes from is not known, and a direction means nothing without its model."
        raise InputError(message)


def direction_between(
    query: ExamplesQuery,
    files: Files,
    examples: Sequence[Example],
    dictionary: Dictionary,
    served: "Served",
    config: CorrelateConfig,
) -> Between:
    """The direction from negative to positive examples at the hook point that the autoencoder reads.

    Raises:
        InputError: the classes do not differ, or an activation is not finite.
        SubjectError: messages of some roles cannot be found.
        StorageError: it is to be kept, and the store cannot be written.
    """
    settings = DirectionConfig(
        hook=str(dictionary.placed.ends.read.point),
        method=query.method,
        pool=query.direction_pool,
        roles=query.roles,
        max_examples=config.max_examples,
        controls=config.controls,
        resamples=config.resamples,
    )
    with unedited():  # steering may go on beside this
        if query.save_as is not None:
            return _saved(query, files, settings, served)
        pooled = pool_in_memory(served.session, examples, settings)
    kept_E = pooled.tokens_E > 0
    is_positive_E = np.array([each.is_positive for each in examples], dtype=np.bool_)[kept_E]
    fitted = fit_direction(pooled.acts_ED[kept_E], is_positive_E, settings, query.seed)
    return Between(fitted.auroc, fitted.random_auroc, fitted.shuffled_auroc, None)


def _saved(query: ExamplesQuery, files: Files, settings: DirectionConfig, served: "Served") -> Between:
    store, source = served.store, served.session.source
    assert source is not None  # noqa: S101 - what was checked before
    assert query.save_as is not None  # noqa: S101
    loaded = _as_loaded(served.session.subject)
    made = direction(store, files, source, loaded, settings, query.seed, served.session)
    artifact, author = made.artifact, query.author or ""
    if not made.found:
        record_action(store, "publish", artifact.uri, artifact.digest)
    add_reference(store, KIND, query.save_as, artifact, author)
    record_action(store, "name", artifact.uri, artifact.digest, name=query.save_as, author=author)
    record = open_direction(artifact).record
    saved = SavedDirection(
        name=query.save_as, uri=artifact.uri, digest=artifact.digest, hook=record.hook, norm=record.norm
    )
    return Between(record.auroc, record.random_auroc, record.shuffled_auroc, saved)


def _as_loaded(subject: Subject) -> SubjectConfig:
    """How the model was loaded, as far as it changes what it computes."""
    is_4bit = getattr(subject.model, "is_loaded_in_4bit", False)
    is_8bit = getattr(subject.model, "is_loaded_in_8bit", False)
    return SubjectConfig.model_validate(
        {
            "dtype": subject.dtype_name,
            "quantization": "nf4" if is_4bit else "int8" if is_8bit else "none",
            "device": str(subject.device),
        }
    )
