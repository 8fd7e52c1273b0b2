"""The rows of an ``activations`` artifact: from its shards, or live from the model where it does not hold them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import cast

from torch import Tensor

from mistudio.activations.config import CaptureConfig
from mistudio.activations.index import read_index
from mistudio.activations.live import LiveReader
from mistudio.activations.origin import captured_config, captured_source
from mistudio.activations.pairs import PairedReader
from mistudio.activations.passes import CorpusPasses, corpus_plan
from mistudio.activations.reader import ActivationReader
from mistudio.activations.stream import OrderedRows, Pair, RowSource
from mistudio.artifacts import Artifact, Store, open_input
from mistudio.corpus.reader import Split, TokenCorpus
from mistudio.errors import InputError
from mistudio.subject import SubjectConfig, SubjectSource, load_subject


@contextmanager
def open_rows(
    store: Store,
    activations: Artifact,
    hook: str,
    target_hook: str | None = None,
    split: Split = "train",
    *,
    source: SubjectSource | None = None,
    subject_config: SubjectConfig | None = None,
) -> Iterator[RowSource[Tensor | Pair]]:
    """Open one hook point, or with ``target_hook`` two whose rows correspond.

    Rows that are not stored are computed while the context is open: the same rows in the same order, up to rounding.

    Args:
        store: holds the artifact and its corpus.
        activations: artifact of kind ``activations``.
        hook: hook point.
        target_hook: hook point of what is to be predicted.
        split: train or heldout.
        source: the model that was captured; by default found where the artifact says that it was.
        subject_config: how to load it; number format and quantisation are those of the capture in any case.

    Raises:
        InputError: the artifact has no such hook point, or the model is not to be found or another one by now.
        DamagedArtifact: a file differs from what was published.
    """
    if split == "heldout" or activations.manifest.config.get("stored", "all") == "all":
        yield _stored(activations, hook, target_hook, split)
        return
    hooks = [hook] if target_hook is None else [hook, target_hook]
    source = captured_source(store, activations, source)
    with closing(_live(store, activations, hooks, split, source, subject_config or SubjectConfig())) as reader:
        yield reader


def open_hook(
    store: Store,
    activations: Artifact,
    hook: str,
    source: SubjectSource | None = None,
    subject_config: SubjectConfig | None = None,
) -> AbstractContextManager[OrderedRows]:
    """Open the training rows of one hook point as :func:`open_rows` does, to be read in order."""
    opened = open_rows(store, activations, hook, source=source, subject_config=subject_config)
    return cast(AbstractContextManager[OrderedRows], opened)


def _stored(
    activations: Artifact, hook: str, target_hook: str | None, split: Split
) -> RowSource[Tensor] | RowSource[Pair]:
    if target_hook is None:
        return ActivationReader(activations, hook, split)
    return PairedReader(activations, hook, target_hook, split)


def _live(
    store: Store,
    activations: Artifact,
    hooks: list[str],
    split: Split,
    source: SubjectSource,
    subject_config: SubjectConfig,
) -> LiveReader:
    manifest = activations.manifest
    config = CaptureConfig(**{name: manifest.config[name] for name in CaptureConfig.model_fields})
    for hook in hooks:
        if hook not in config.hooks:
            message = f"{activations.uri} has no activations of {hook} ({split}); it has {', '.join(config.hooks)}."
            raise InputError(message)
    # The format that was stored, which is another where values did not fit the one asked for.
    config = config.model_copy(update={"storage_dtype": read_index(activations, hooks[0], "heldout").dtype})
    corpus = TokenCorpus(open_input(store, manifest.inputs["corpus"], "corpus"))
    widest = max(int(str(manifest.summary[f"width.{hook}"])) for hook in config.hooks)
    subject = load_subject(source, captured_config(activations, subject_config))
    return LiveReader(CorpusPasses(subject, corpus, hooks, config), corpus_plan(corpus, config, split, widest), split)
