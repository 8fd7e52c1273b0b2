"""The steer_evaluate step: whether steering along features does what it says, at which strengths, and beside what."""

from mistudio.artifacts import Artifact, Draft, InputRef, Line, Produced, Recipe, Store, Summary, produce
from mistudio.directions.example_files import Files
from mistudio.directions.examples import read_examples
from mistudio.errors import InputError
from mistudio.evaluate.step import check_subject, numerics
from mistudio.features import FeatureSet
from mistudio.features.selection import check_same
from mistudio.steer.evaluate.config import SteerEvaluateConfig
from mistudio.subject import SubjectConfig, SubjectSource

KIND = "steering"
_MOST_EXAMPLES = 1000  # of a class


def steer_evaluate(
    store: Store,
    features: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: SteerEvaluateConfig | None = None,
    seed: int = 0,
    explanations: Artifact | None = None,
    scores: Artifact | None = None,
    files: Files | None = None,
) -> Produced:
    """Publish what steering along some features does to texts.

    Args:
        store: holds the artifacts.
        features: artifact of kind ``features``.
        source: the model that the activations come from.
        subject_config: how to load it.
        config: which features, how strongly, and what counts as coherent.
        seed: of everything random.
        explanations: of these features, which give labels and programs; None: those that were scored.
        scores: of explanations of these features, by which the best are looked at.
        files: labelled examples, by which features are chosen and texts are judged.

    Raises:
        InputError: an artifact is of other features or another model, or nothing is selected.
        CorpusError: no held-out documents are long enough.
        SubjectError: the model cannot be loaded, or does not go on with texts.
    """
    config = config or SteerEvaluateConfig()
    line = Line(store, features)
    check_subject(line.activations, source)
    if scores is not None:
        explanations = _explained(store, scores, explanations)
    if explanations is not None:
        check_same(explanations.uri, explanations, features)
    inputs = {"features": features.ref, "subject": InputRef(uri=source.uri, digest=source.digest)}
    given = {"explanations": explanations, "scores": scores}
    inputs |= {role: artifact.ref for role, artifact in given.items() if artifact is not None}
    inputs |= files.refs if files is not None else {}
    settings = {**config.model_dump(mode="json"), **numerics(subject_config)}
    recipe = Recipe(kind=KIND, config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        from mistudio.steer.evaluate.evaluating import Given, evaluate

        examples = read_examples(files, None, None, _MOST_EXAMPLES, seed).found if files is not None else None
        found = FeatureSet(features, explanations, scores)
        return evaluate(draft, Given(found, line.sae, line.corpus, source, subject_config, examples), config, seed)

    return produce(store, recipe, "steer_evaluate", build)


def _explained(store: Store, scores: Artifact, explanations: Artifact | None) -> Artifact:
    """What was scored.

    Raises:
        InputError: other explanations were given.
    """
    scored = Line(store, scores).required("explanations")
    if explanations is not None and explanations.digest != scored.digest:
        message = f"{scores.uri} scores {scored.uri}, not {explanations.uri}: give one of them, or both of one."
        raise InputError(message)
    return scored
