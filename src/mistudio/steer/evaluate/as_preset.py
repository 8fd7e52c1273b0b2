"""What was measured of a feature as a preset: ``mistudio preset save`` takes its file as it is."""

from mistudio.instrument.compiled import Nameable
from mistudio.instrument.edits import Add, Edits
from mistudio.steer.evaluate.bench import Bench
from mistudio.steer.evaluate.concepts import Concept
from mistudio.steer.evaluate.trying import Outcome
from mistudio.steer.preset_use import make_preset, parts_of
from mistudio.steer.presets import Preset

_AUTHOR = "steer_evaluate"


def as_preset(bench: Bench, concept: Concept, outcome: Outcome) -> Preset | None:
    """The feature at its best strength, with the factors on it that leave the text coherent; None without a best."""
    if outcome.best is None:
        return None
    edit = Add(feature=concept.feature, autoencoder=bench.placed.uri, strength=outcome.best, unit="feature_max")
    best = next(one for one in outcome.tried if one.strength == outcome.best and one.in_range)
    notes = (
        f"{concept.label or 'No label'}. On {best.rate:.0%} of {best.texts} texts, {outcome.natural_rate:.0%} of "
        f"held-out ones; perplexity {best.perplexity_ratio:.2f} times that of unsteered texts."
    )
    name = f"feature-{concept.feature}"
    preset = make_preset(name, _AUTHOR, Edits(edits=(edit,)), parts_of(Nameable(bench.session)), notes)
    factors = (outcome.ship_range.low / outcome.best, outcome.ship_range.high / outcome.best)
    return preset.model_copy(update={"ship_range": factors})
