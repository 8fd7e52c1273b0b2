"""The explain step: descriptions of features, all or some, made from training documents alone.

What an earlier artifact says of features that are not asked for is kept, and that which it says of those that are is
not made again.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, hash_file, produce
from mistudio.errors import InputError
from mistudio.explain.config import EXPLAINERS, PERSON, ExplainConfig
from mistudio.explain.explaining import Explaining, said_by, shows_contexts
from mistudio.explain.judge import Judge
from mistudio.explain.keeping import (
    BASE,
    BEST_BY,
    ONLY,
    Base,
    Share,
    best_base,
    check_base,
    choosing_inputs,
    select,
    share,
)
from mistudio.explain.labels import read_labels
from mistudio.explain.material import Material, open_material
from mistudio.plain_text import without_surrogates
from mistudio.subject import SubjectConfig, SubjectSource

_FREE = {BASE, BEST_BY, "labels"}  # inputs in which a base may differ


class JudgeSource(NamedTuple):
    """A language model that can be asked: what of it belongs in a recipe, and how to open it.

    Answers are remembered in a folder of their own, so asking again costs nothing.
    """

    settings: dict[str, Any]
    open: Callable[[], AbstractContextManager[Judge]]


def explain(
    store: Store,
    features: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig | None = None,
    config: ExplainConfig | None = None,
    seed: int = 0,
    labels: Path | None = None,
    judge: JudgeSource | None = None,
    scores: Artifact | None = None,
    base: Artifact | None = None,
) -> Produced:
    """Publish explanations of every feature found, or of some.

    With a base, the explanations that it holds are kept, and only features that it has none of are explained; where
    there are none, it is what is asked for.

    Args:
        store: holds the artifacts.
        features: artifact of kind ``features``.
        source: the model that the activations come from; its tokenizer is needed.
        subject_config: how to load it.
        config: who explains, from how much, and which features.
        seed: of everything random.
        labels: people's own labels, as JSON Lines or CSV with the columns feature and label; without them, the base's.
        judge: the language model that explainers ask.
        scores: artifact of kind ``scores`` of these features, for a selection of the best.
        base: explanations of these features, made with the same settings but for ``only``, to be added to.

    Raises:
        InputError: the tokenizer is another one, the labels cannot be used, the selection selects nothing or what
            there is not, or the base was made otherwise.
        ConfigError: an explainer is unknown, or asks a language model and none is given.
    """
    config = config or ExplainConfig()
    material = open_material(store, features, source, subject_config)
    check_explainers(config, has_judge=judge is not None)
    asked = judge if EXPLAINERS.need_judge(config.explainers) else None
    recipe = _recipe(material, config, seed, asked, labels, scores, base)
    if base is not None:
        check_base(base, recipe, _FREE)
        if labels is None and not len(_share(material, config, scores, base).new_S):
            return Produced(base, found=True)

    def build(draft: Draft) -> Summary:
        shared = _share(material, config, scores, base)
        people = read_labels(labels, material.num_features) if labels is not None else said_by(base, PERSON)
        with asked.open() if asked else nullcontext() as opened:
            return Explaining(draft, material, config, seed, opened, shared, base).run(people)

    return produce(store, recipe, "explain", build)


def newest_explanations(
    store: Store,
    features: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig | None = None,
    config: ExplainConfig | None = None,
    seed: int = 0,
    judge: JudgeSource | None = None,
    scores: Artifact | None = None,
) -> Base | None:
    """The explanations that those of a selection can be added to: those that keep most, the newest of them.

    None where there are none that keep anything.

    Takes what :func:`explain` takes.
    """
    config = config or ExplainConfig()
    material = open_material(store, features, source, subject_config)
    asked = judge if EXPLAINERS.need_judge(config.explainers) else None
    recipe = _recipe(material, config, seed, asked, None, scores, None)
    return best_base(store, recipe, _FREE, lambda base: _share(material, config, scores, base).kept)


def _recipe(
    material: Material,
    config: ExplainConfig,
    seed: int,
    asked: JudgeSource | None,
    labels: Path | None,
    scores: Artifact | None,
    base: Artifact | None,
) -> Recipe:
    source = material.source
    inputs = {
        "features": material.features.ref,
        "tokenizer": InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest),
    }
    if labels is not None:
        inputs["labels"] = _file_ref(labels)
    inputs |= choosing_inputs(config.only, scores, base)
    settings = _settings(config)
    settings["judge"] = asked.settings if asked else None
    if EXPLAINERS.need_subject(config.explainers):
        inputs["subject"], numerics = material.subject_recipe()
        settings |= numerics
    return Recipe(kind="explanations", config=settings, inputs=inputs, seed=seed)


def _share(material: Material, config: ExplainConfig, scores: Artifact | None, base: Artifact | None) -> Share:
    return share(select(config.only, material.found, scores, base), base, material.num_features)


def check_explainers(config: ExplainConfig, *, has_judge: bool) -> None:
    """Refuse explainers that cannot explain, before anything is read.

    Raises:
        ConfigError: one is unknown, asks a language model and none is given, or refuses its settings.
    """
    EXPLAINERS.check(config.explainers, config, has_judge=has_judge)


def _settings(config: ExplainConfig) -> dict[str, Any]:
    """What of the configuration the explainers asked for depend on."""
    always = ["explainers", "block_features"]
    if shows_contexts(config):
        always.append("contexts")
    if config.only is not None:
        always.append(ONLY)
    return EXPLAINERS.recipe(config.explainers, config, always)


def _file_ref(path: Path) -> InputRef:
    if not path.is_file():
        message = f"There is no file of labels at {path}. Give JSON Lines or CSV with the columns feature and label."
        raise InputError(message)
    return InputRef(uri=f"file:{without_surrogates(path.name)}", digest=hash_file(path))
