"""One feature at all strengths, and beside what else can push as hard.

Shape legend: N texts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.instrument.compiled import Nameable, compile_edits
from mistudio.instrument.divergence import Moved
from mistudio.instrument.edits import Ablate, Add, Edits
from mistudio.steer.evaluate.bench import Bench, Setting
from mistudio.steer.evaluate.concepts import Concept, TextJudge
from mistudio.steer.evaluate.config import SteerEvaluateConfig
from mistudio.steer.evaluate.controls import Control, prompting, pushed, vectors
from mistudio.steer.evaluate.figures import (
    Measured,
    ShipRange,
    dose_response,
    perplexity,
    perplexity_ratio,
    repetition,
    share,
    ship_range,
)
from mistudio.steer.evaluate.records import ABLATED, EQUAL, STEERED, Text, Tried
from mistudio.steer.evaluate.windows import Ids

Floats = NDArray[np.float32]
_NOTHING = Moved(0.0, 0.0)


class Judges(NamedTuple):
    """What else tells whether a text has the concept, beside the feature's own activation."""

    program: TextJudge | None = None
    labels: TextJudge | None = None


class Outcome(NamedTuple):
    """What came of one feature.

    Attributes:
        tried: all strengths, then the ablation, then controls.
        texts: some of what was written.
        ship_range: strengths for use, in parts of its largest activation.
        best: the strength in that range at which the concept is there most often; None where none is for use.
        dose_response: Spearman's correlation of strength and rate, over all strengths.
        response_in_range: the same, over those for use.
        target_kl: the push at which controls are compared; None where there is none.
        natural_rate: how often the concept is in held-out text.
        natural_perplexity: of held-out text that has it.
    """

    tried: list[Tried]
    texts: list[Text]
    ship_range: ShipRange
    best: float | None
    dose_response: float
    response_in_range: float
    target_kl: float | None
    natural_rate: float
    natural_perplexity: float


class _Written(NamedTuple):
    """A setting, what it does to predictions, and what was written in it."""

    method: str
    strength: float | None
    moved: Moved
    texts: list[Ids]


class Trial:
    """Tries one feature.

    Args:
        bench: what it is tried with.
        concept: the feature.
        judges: of texts.
        config: strengths, and what is coherent.
    """

    def __init__(self, bench: Bench, concept: Concept, judges: Judges, config: SteerEvaluateConfig) -> None:
        self._bench, self._concept, self._judges, self._config = bench, concept, judges, config
        self._nameable = Nameable(bench.session, maxima=[lambda _latent: concept.maximum])
        self._threshold = config.concept_share * concept.maximum
        has_N = self._has_in_nature()
        self.natural_rate = float(has_N.mean()) if len(has_N) else float("nan")
        losses = [loss for loss, has in zip(bench.natural_losses, has_N, strict=True) if has]
        self.natural_perplexity = perplexity(losses)

    @property
    def feature(self) -> int:
        """Which it is."""
        return self._concept.feature

    def run(self, other: int | None) -> Outcome:
        """All strengths, then controls at the push of the best.

        Args:
            other: another feature, whose direction is a control; None: there is none.
        """
        swept = [self._figures(each) for each in self._sweep()]
        steered = [one for one, _ in swept if one.method == STEERED]
        ships = self._ship_range(steered)
        swept = [(one._replace(in_range=_is_in(ships, one)), texts) for one, texts in swept]
        steered = [one for one, _ in swept if one.method == STEERED]
        best = _best(steered)
        target = self._config.target_kl if self._config.target_kl is not None else best.kl if best else None
        compared = [self._figures(each) for each in self._controls(target, other)]
        return Outcome(
            tried=[one for one, _ in (*swept, *compared)],
            texts=[text for _, texts in (*swept, *compared) for text in texts],
            ship_range=ships,
            best=best.strength if best else None,
            dose_response=_response(steered),
            response_in_range=_response([one for one in steered if one.in_range]),
            target_kl=target,
            natural_rate=self.natural_rate,
            natural_perplexity=self.natural_perplexity,
        )

    def _sweep(self) -> list[_Written]:
        """Texts at each strength, 0 among them, and with the feature taken out."""
        feature, factors = self._concept.feature, self._config.factors
        edits = [Add(feature=feature, strength=factor, unit="feature_max") for factor in factors]
        compiled = [compile_edits(Edits(edits=(each,)), self._nameable) for each in (*edits, Ablate(feature=feature))]
        texts = self._bench.write([Setting(each) for each in compiled])
        direction_D = self._bench.placed.sae.W_dec.detach()[feature].float() * self._concept.maximum
        found = [
            _Written(STEERED, factor, self._bench.divergence.of(direction_D * factor), written)
            for factor, written in zip(factors, texts[:-1], strict=True)
        ]
        found.append(_Written(STEERED, 0.0, _NOTHING, self._bench.unsteered))
        found.sort(key=lambda each: each.strength or 0.0)
        return [*found, _Written(ABLATED, None, self._bench.moved(Setting(compiled[-1])), texts[-1])]

    def _controls(self, target: float | None, other: int | None) -> list[_Written]:
        """Texts under other vectors at an equal push, and behind prompts that ask for the concept."""
        bench, concept = self._bench, self._concept
        controls: list[Control] = []
        if target:
            named = list(vectors(bench, concept, other, bench.seed + concept.feature))
            if self._config.target_kl is not None:  # at which the feature itself was not tried
                direction_D = bench.placed.sae.W_dec.detach()[concept.feature].float()
                named.insert(0, (EQUAL, direction_D * concept.maximum))
            controls += [one for name, vector_D in named if (one := pushed(bench, name, vector_D, target))]
        controls += prompting(bench, concept, self._config.num_examples)
        texts = bench.write([one.setting for one in controls])
        return [_Written(one.method, one.strength, one.moved, each) for one, each in zip(controls, texts, strict=True)]

    def _has_in_nature(self) -> NDArray[np.bool_]:
        """Which held-out texts have the concept, by what is trusted most."""
        bench = self._bench
        if self._judges.labels is not None:
            return self._judges.labels(bench.natural)
        return bench.reader.strongest_of(bench.natural_acts, self._concept.feature) > self._threshold

    def _figures(self, written: _Written) -> tuple[Tried, list[Text]]:
        """All figures of what was written in one setting, and some of it."""
        bench, concept, texts = self._bench, self._concept, written.texts
        losses = bench.unsteered_losses if texts is bench.unsteered else bench.reader.losses(bench.prompts, texts)
        strongest_N = bench.reader.strongest(texts, concept.feature)
        value = perplexity(losses)
        described, labelled = (
            share(judge(texts)) if judge is not None else None for judge in (self._judges.program, self._judges.labels)
        )
        tried = Tried(
            feature=concept.feature,
            method=written.method,
            strength=written.strength,
            texts=len(texts),
            kl=written.moved.kl,
            dose=written.moved.dose if written.strength is not None or written.method == ABLATED else None,
            **_named("active", share(strongest_N > self._threshold)),
            activation=float(strongest_N.mean()) / concept.maximum,
            **_named("described", described),
            **_named("labelled", labelled),
            perplexity=value,
            **_named("perplexity_ratio", perplexity_ratio(losses, bench.unsteered_losses)),
            natural_ratio=value / self.natural_perplexity,
            repetition=repetition(texts),
            in_range=None,
        )
        return tried, self._shown(written, strongest_N)

    def _shown(self, written: _Written, strongest_N: Floats) -> list[Text]:
        decode = self._bench.session.subject.tokenizer.decode
        windows = self._bench.windows.prompts[: self._config.shown]
        return [
            Text(
                self._concept.feature,
                written.method,
                written.strength,
                window.document,
                str(decode(window.prompt)),
                str(decode(text)),
                float(value),
            )
            for window, text, value in zip(windows, written.texts, strongest_N, strict=False)
        ]

    def _ship_range(self, steered: Sequence[Tried]) -> ShipRange:
        """Strengths whose texts are as coherent as is asked for, held against those without steering."""
        (plain,) = (one for one in steered if one.strength == 0)
        strengths, coherent = [], []
        for one in steered:
            if one.strength is not None and one.strength != 0:
                strengths.append(one.strength)
                repeats = one.repetition > plain.repetition + self._config.repetition_rise
                coherent.append(one.perplexity_ratio <= self._config.perplexity_ratio and not repeats)
        return ship_range(strengths, coherent)


def _named(name: str, found: Measured | None) -> dict[str, Any]:
    """A share and its interval as columns."""
    values = (None, None, None) if found is None else found
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _is_in(ships: ShipRange, one: Tried) -> bool | None:
    if one.method != STEERED or one.strength is None:
        return None
    return ships.low <= one.strength <= ships.high


def _best(steered: Sequence[Tried]) -> Tried | None:
    """Of the strengths for use the one at which the concept is there most often; of equal ones the smallest."""
    usable = [one for one in steered if one.in_range and one.strength is not None and one.strength > 0]
    return max(usable, key=lambda one: (one.rate, -(one.strength or 0.0)), default=None)


def _response(steered: Sequence[Tried]) -> float:
    return dose_response([one.strength or 0.0 for one in steered], [one.rate for one in steered])
