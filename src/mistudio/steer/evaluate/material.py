"""What is known of features before any is tried, all of it from training documents."""

from collections.abc import Mapping, Sequence

from mistudio.artifacts import Artifact
from mistudio.errors import InputError
from mistudio.explain import TOKEN_SETS_NAME, read_explanations
from mistudio.explain.config import PROGRAM
from mistudio.explain.programs import Program
from mistudio.explain.tables import holds_token_sets
from mistudio.features import FeatureSet
from mistudio.features.schema import FIRING_KINDS
from mistudio.features.selection import parse_selection
from mistudio.steer.evaluate.concepts import Concept
from mistudio.steer.evaluate.config import SteerEvaluateConfig
from mistudio.steer.evaluate.windows import Ids


def selected(found: FeatureSet, config: SteerEvaluateConfig) -> list[int]:
    """The features to look at: those that are asked for, else the best by scores, or by coherence without any.

    Raises:
        InputError: none is selected, or what the selection needs is not given.
    """
    default = f"{'best' if found.scored is not None else 'coherent'}:{config.num_candidates}"
    selection = parse_selection(config.only or default)
    numbers = selection.features(found, found.scored, found.explained).tolist()
    maxima = found.column("max").to_pylist()
    firing = [number for number in numbers if (maxima[number] or 0) > 0]
    if not firing:
        message = f"only {selection} selects no feature that ever fires: ask for others."
        raise InputError(message)
    return firing


def concepts(found: FeatureSet, features: Sequence[int], special_ids: frozenset[int]) -> dict[int, Concept]:
    """What is known of each of some features."""
    programs = _programs(found.explained, set(features))
    known = {}
    for feature in features:
        row = found.row(feature)
        passages: dict[bool, list[Ids]] = {True: [], False: []}
        for context in found.contexts(feature):
            ids = tuple(token for token in context["token_ids"] if token not in special_ids)
            if ids and (context["kind"] in FIRING_KINDS or context["kind"] == "random"):
                passages[context["kind"] in FIRING_KINDS].append(ids)
        known[feature] = Concept(
            feature,
            float(row["max"]),
            row.get("label"),
            programs.get(feature),
            tuple(passages[True]),
            tuple(passages[False]),
        )
    return known


def _programs(explained: Artifact | None, features: set[int]) -> Mapping[int, Program]:
    """The program of each feature; where there is none, its set of tokens."""
    if explained is None:
        return {}
    found: dict[int, Program] = {}
    if holds_token_sets(explained):
        for each in read_explanations(explained, TOKEN_SETS_NAME):
            if each.feature in features and each.program is not None:
                found[each.feature] = Program.from_json(each.program)
    for each in read_explanations(explained):
        if each.feature in features and each.explainer == PROGRAM and each.program is not None:
            found[each.feature] = Program.from_json(each.program)
    return found
