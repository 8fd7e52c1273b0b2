"""The find step: what activates each feature, which features are alike, and what they do in the model.

One streaming pass over the training activations, whole or in parts that are put together, keeps statistics and
contexts of each feature. Memory is bounded by features x contexts and by the sample of tokens, whatever the corpus.
Then features are compared with each other, and tried in the model. A killed run goes on from what it has kept.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, open_input, produce
from mistudio.errors import ConfigError, InputError
from mistudio.evaluate import check_subject, numerics
from mistudio.find.config import FindConfig, PassConfig
from mistudio.progress import say
from mistudio.subject import SubjectConfig, SubjectSource

if TYPE_CHECKING:
    from mistudio.find.publish import Searched


class _Inputs(NamedTuple):
    """What a search reads, besides the store."""

    sae: Artifact
    activations: Artifact
    source: SubjectSource
    subject_config: SubjectConfig
    seed: int

    def recipe(self, kind: str, config: PassConfig, **part: int) -> Recipe:
        inputs = {"sae": self.sae.ref, "subject": InputRef(uri=self.source.uri, digest=self.source.digest)}
        settings = {**config.model_dump(mode="json"), **numerics(self.subject_config), **part}
        return Recipe(kind=kind, config=settings, inputs=inputs, seed=self.seed)

    def part_recipe(self, config: PassConfig, part: int, num_parts: int) -> Recipe:
        """Of one part of the pass, which depends on what the pass keeps and on nothing else."""
        settings = PassConfig(**{name: getattr(config, name) for name in PassConfig.model_fields})
        return self.recipe("features-part", settings, part=part, num_parts=num_parts)


def find_features(
    store: Store,
    sae: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: FindConfig | None = None,
    seed: int = 0,
    parts: Sequence[Artifact] = (),
) -> Produced:
    """Publish statistics, contexts and neighbours of every feature of the autoencoder ``sae``, and effects of many.

    Args:
        store: holds everything.
        sae: artifact of kind ``sae``.
        source: the model that it was trained on.
        subject_config: how to load it.
        config: what to keep.
        seed: of what is drawn by lot.
        parts: all parts of the same search, by :func:`find_part`; none: the pass is made here. The artifact is the
            same, byte for byte.

    Raises:
        InputError: the model is not the one that the activations come from, or the parts are not all of this search.
    """
    config = config or FindConfig()
    given = _given(store, sae, source, subject_config, seed)
    _check_parts(given, config, parts)

    def build(draft: Draft) -> Summary:
        from safetensors.torch import load_file

        from mistudio.find.publish import publish
        from mistudio.find.search import STATE_NAME
        from mistudio.subject import load_subject

        with _opened(store, given, config) as opened:
            say(_cost(given, config, opened, 0 if parts else len(opened.reader)))
            if parts:
                for part in parts:
                    opened.search.merge(load_file(part.file(STATE_NAME)))
            else:
                _pass(opened, draft, 0, 1)
            subject = load_subject(source, subject_config)
            opened.sae.to(subject.device)
            return publish(draft, opened, subject, config, given.seed)

    return produce(store, given.recipe("features", config), "find", build)


def find_part(
    store: Store,
    sae: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: PassConfig | None = None,
    seed: int = 0,
    *,
    part: int,
    num_parts: int,
) -> Produced:
    """Make the pass over one of ``num_parts`` parts of the activations, ``part`` counting from 0.

    Raises:
        ConfigError: there is no such part.
        InputError: the model is not the one that the activations come from.
    """
    if not 0 <= part < num_parts:
        message = f"part is {part} and num_parts {num_parts}: parts count from 0 to num_parts - 1."
        raise ConfigError(message)
    config = config or FindConfig()
    given = _given(store, sae, source, subject_config, seed)

    def build(draft: Draft) -> Summary:
        from mistudio.find.publish import counted
        from mistudio.find.search import save_state

        with _opened(store, given, config) as opened:
            _pass(opened, draft, part, num_parts)
            save_state(opened.search, draft)
            return {"part": part, "num_parts": num_parts, **counted(opened)}

    return produce(store, given.part_recipe(config, part, num_parts), "find_part", build)


def _given(store: Store, sae: Artifact, source: SubjectSource, subject_config: SubjectConfig, seed: int) -> _Inputs:
    activations = open_input(store, sae.manifest.inputs["activations"], "activations")
    check_subject(activations, source)
    return _Inputs(sae, activations, source, subject_config, seed)


def _cost(given: _Inputs, config: FindConfig, opened: "Searched", pass_rows: int) -> str:
    """What the search takes, said before it begins."""
    from mistudio.find.cost import state_cost
    from mistudio.subject import HookPoint, resolve_dtype
    from mistudio.subject.footprint import measure_shape

    shape = measure_shape(given.source, given.subject_config.trust_remote_code)
    device = opened.sae.W_dec.device
    on = str(device), resolve_dtype(given.subject_config.dtype, device)
    blocks = HookPoint.parse(opened.reads).layer + 1
    return state_cost(shape, blocks, config, pass_rows, opened.sae.d_in, opened.sae.width, on)


def _check_parts(given: _Inputs, config: PassConfig, parts: Sequence[Artifact]) -> None:
    """Refuse parts that are not, together, all of this search."""
    found = [part.uri for part in parts]
    for part in range(len(parts)):
        uri = given.part_recipe(config, part, len(parts)).prefix
        if uri not in found:
            message = (
                f"{', '.join(found)} are not the {len(parts)} parts of this search: {uri} is missing. Give all that "
                "find_part made, once each, with the same autoencoder, model, settings and seed."
            )
            raise InputError(message)


@contextmanager
def _opened(store: Store, given: _Inputs, config: PassConfig) -> "Iterator[Searched]":
    from mistudio.activations import open_hook
    from mistudio.corpus.reader import TokenCorpus
    from mistudio.find.publish import Searched
    from mistudio.find.search import Search
    from mistudio.sae import activation_std_of, hook_of, load_autoencoder, target_hook_of
    from mistudio.subject import pick_device

    sae = load_autoencoder(given.sae, pick_device(given.subject_config.device))
    corpus = TokenCorpus(open_input(store, given.activations.manifest.inputs["corpus"], "corpus"))
    hook = hook_of(given.sae)
    with open_hook(store, given.activations, hook, given.source, given.subject_config) as reader:
        search = Search(sae.width, activation_std_of(given.sae), len(reader), corpus, config, given.seed)
        yield Searched(search, sae, reader, corpus, hook, target_hook_of(given.sae) or hook)


def _pass(opened: "Searched", draft: Draft, part: int, num_parts: int) -> None:
    from mistudio.find.search import chunks_of_part, run_search

    chunks = chunks_of_part(opened.reader, opened.search.config.chunk_rows, part, num_parts)
    run_search(opened.search, opened.sae, opened.reader, chunks, draft, opened.sae.W_dec.device)
