"""The score step: how well explanations predict their features on held-out documents.

No explainer sees a held-out document, and no scorer any other. What an earlier artifact holds of explanations that
have not changed since is kept.
"""

from contextlib import nullcontext
from typing import Any

from mistudio.artifacts import (
    Artifact,
    Draft,
    InputRef,
    Produced,
    Recipe,
    Store,
    Summary,
    open_input,
    produce,
)
from mistudio.artifacts.index import Entry
from mistudio.errors import InputError
from mistudio.explain import JudgeSource
from mistudio.explain.keeping import BASE, BEST_BY, ONLY, Base, Kept, best_base, check_base, choosing_inputs, select
from mistudio.explain.material import Material, open_material
from mistudio.score.config import PROGRAM, SCORERS, ScoreConfig
from mistudio.score.keeping import Share, share
from mistudio.score.scoring import Scoring
from mistudio.subject import SubjectConfig, SubjectSource

_FREE = {BASE, BEST_BY, "explanations"}  # inputs in which a base may differ


def score(
    store: Store,
    explanations: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig | None = None,
    config: ScoreConfig | None = None,
    seed: int = 0,
    judge: JudgeSource | None = None,
    best_by: Artifact | None = None,
    base: Artifact | None = None,
) -> Produced:
    """Publish scores of every explanation that there is, or of those of some features, on held-out documents.

    With a base, its scores of explanations that are the same in ``explanations`` are kept, and only others are scored;
    where there are none, it is what is asked for.

    Args:
        store: holds the artifacts.
        explanations: artifact of kind ``explanations``.
        source: the model that the activations come from; its tokenizer is needed.
        subject_config: how to load it.
        config: who scores, on how much, and which features.
        seed: of everything random.
        judge: the language model that scorers ask.
        best_by: artifact of kind ``scores`` of these features, for a selection of the best.
        base: scores of these features, made with the same settings but for ``only``, to be added to.

    Raises:
        InputError: the tokenizer is another one, the selection selects nothing or what there is not, or the base was
            made otherwise.
        ConfigError: a scorer is unknown, asks a language model and none is given, or runs programs and there are none.
        CorpusError: no held-out document has activations.
    """
    config = config or ScoreConfig()
    material = _material(store, explanations, source, subject_config)
    check_scorers(config, has_judge=judge is not None)
    asked = judge if SCORERS.need_judge(config.scorers) else None
    recipe = _recipe(material, explanations, config, seed, asked, best_by, base)
    if base is not None:
        check_base(base, recipe, _FREE)
        _check_features(base, material)
        is_same = base.manifest.inputs["explanations"].digest == explanations.digest
        shared = _share(material, explanations, config, best_by, base)
        if is_same and not shared.new_F.any():
            shared.say_not_explained(config.only)
            return Produced(base, found=True)

    def build(draft: Draft) -> Summary:
        shared = _share(material, explanations, config, best_by, base)
        shared.say_not_explained(config.only)
        with asked.open() if asked else nullcontext() as opened:
            return Scoring(draft, material, explanations, config, seed, opened, shared, base).run()

    return produce(store, recipe, "score", build)


def newest_scores(
    store: Store,
    explanations: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig | None = None,
    config: ScoreConfig | None = None,
    seed: int = 0,
    judge: JudgeSource | None = None,
    best_by: Artifact | None = None,
) -> Base | None:
    """The scores that those of a selection can be added to: those that keep most.

    Among those that keep as much, scores of these very explanations come first, then the newest. None where there are
    none that keep anything.

    Takes what :func:`score` takes.
    """
    config = config or ScoreConfig()
    material = _material(store, explanations, source, subject_config)
    asked = judge if SCORERS.need_judge(config.scorers) else None
    recipe = _recipe(material, explanations, config, seed, asked, best_by, None)

    def is_same(entry: Entry) -> bool:
        return entry.inputs["explanations"].digest == explanations.digest

    def keeps(base: Artifact) -> Kept:
        scored = open_input(store, base.manifest.inputs["explanations"], "explanations")
        if scored.manifest.inputs["features"].digest != material.features.digest:
            return Kept(0, 0)
        return _share(material, explanations, config, best_by, base).kept

    return best_base(store, recipe, _FREE, keeps, is_same)


def _material(
    store: Store, explanations: Artifact, source: SubjectSource, subject_config: SubjectConfig | None
) -> Material:
    features = open_input(store, explanations.manifest.inputs["features"], "features")
    return open_material(store, features, source, subject_config)


def _recipe(
    material: Material,
    explanations: Artifact,
    config: ScoreConfig,
    seed: int,
    asked: JudgeSource | None,
    best_by: Artifact | None,
    base: Artifact | None,
) -> Recipe:
    source = material.source
    inputs = {
        "explanations": explanations.ref,
        "tokenizer": InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest),
        **choosing_inputs(config.only, best_by, base),
    }
    settings = _settings(config)
    settings["judge"] = asked.settings if asked else None
    if SCORERS.need_subject(config.scorers):
        inputs["subject"], numerics = material.subject_recipe()
        settings |= numerics
    return Recipe(kind="scores", config=settings, inputs=inputs, seed=seed)


def _check_features(base: Artifact, material: Material) -> None:
    scored = open_input(material.store, base.manifest.inputs["explanations"], "explanations")
    of = scored.manifest.inputs["features"]
    if of.digest != material.features.digest:
        message = f"base {base.uri} is of {of.uri}, not of {material.features.uri}: give scores of these features."
        raise InputError(message)


def _share(
    material: Material, explanations: Artifact, config: ScoreConfig, best_by: Artifact | None, base: Artifact | None
) -> Share:
    selected = select(config.only, material.found, best_by, explanations, BEST_BY)
    return share(config.only, selected, explanations, base, material.num_features)


def check_scorers(config: ScoreConfig, *, has_judge: bool) -> None:
    """Refuse scorers that cannot score, before anything is read.

    Raises:
        ConfigError: one is unknown, asks a language model and none is given, or refuses its settings.
    """
    SCORERS.check(config.scorers, config, has_judge=has_judge)


def _settings(config: ScoreConfig) -> dict[str, Any]:
    """What of the configuration the scorers asked for depend on."""
    always = ["scorers", "max_tokens", "block_features"]
    if set(config.scorers) != {PROGRAM}:
        always.append("examples")
    if config.only is not None:
        always.append(ONLY)
    return SCORERS.recipe(config.scorers, config, always)
