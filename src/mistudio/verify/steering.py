"""Steering in the planted language: does a feature make the model write its concept, judged by what is known of words.

The concepts are the classes of nouns, verbs and adjectives, which a word tells wherever it stands. Of each the features
are ranked by how much likelier they make its words when all push equally hard on training text; of the first few, alone
and together, the one is taken that brings the concept most often into continuations of training documents while these
stay coherent, at the strength at which it does. All figures are of held-out documents.

Coherent is what has at most 1.25 times the perplexity of natural text of the same length that has the concept.

Shape legend: B sequences, T tokens, D width of the hook point, F features, C concepts, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.artifacts import Store
from mistudio.corpus.reader import Split, TokenCorpus
from mistudio.instrument import Session, open_session
from mistudio.instrument.compiled import CompiledEdits, Nameable, compile_edits
from mistudio.instrument.divergence import amount_for
from mistudio.instrument.edits import Add, Edits
from mistudio.instrument.engine import Engine
from mistudio.progress import progress
from mistudio.steer.evaluate.bench import Bench, Setting
from mistudio.steer.evaluate.config import TextsConfig
from mistudio.steer.evaluate.controls import adding, mean_difference
from mistudio.steer.evaluate.figures import dose_response, perplexity
from mistudio.steer.evaluate.gains import gains
from mistudio.steer.evaluate.windows import Ids, read_windows
from mistudio.subject import SubjectConfig
from mistudio.verify.concepts import ADJECTIVES, BIT, FAMILIES, VERBS, WORD_BITS
from mistudio.verify.rows import Row, seeds_row
from mistudio.verify.subjects import PlantedConfig, planted_line

STEERED_CONCEPTS = (*FAMILIES["noun"], *VERBS, *ADJECTIVES)
RATE, COHERENT, RESPONSE, OTHERS = 0.8, 1.25, 0.9, 0.05  # what is to be reached
_PUSHES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6)  # nats a token, at which strengths are tried
_GAIN_PUSH = 0.2
_SHORTLIST = 3
_TOGETHER = 5
_TEXTS = TextsConfig(num_prompts=64, num_windows=1000, num_rows=64)
_TRAIN_TEXTS = _TEXTS.model_copy(update={"num_prompts": 48})
_SPLITS: tuple[tuple[Split, TextsConfig], ...] = (("train", _TRAIN_TEXTS), ("heldout", _TEXTS))


class Push(NamedTuple):
    """Features that are added together, and how much of each at the smallest push that was tried."""

    features: tuple[int, ...]
    amounts: tuple[float, ...]


class At(NamedTuple):
    """What one strength does."""

    strength: float  # times the amounts
    kl: float  # on held-out text
    rate: float  # of texts with the concept
    ratio: float  # perplexity over that of natural text with the concept
    shares_C: NDArray[np.float64]  # of texts with each concept


class Steered(NamedTuple):
    """One concept, by what was chosen on training documents."""

    concept: str
    push: Push
    best: At
    swept: list[At]
    natural: float  # how often the concept is in natural text
    plain: float  # and in what the model writes unsteered
    rise: float  # of the other concepts' shares over those in natural text with this one, mean; a fall counts as 0
    fall: float  # likewise
    response: float  # Spearman's correlation of strength and rate
    control: dict[str, float]  # rate at the same push, of other vectors


def steering_rows(store: Store, num_seeds: int, config: PlantedConfig | None = None) -> list[Row]:
    """The figures over seeds; each seed has its own language, model and autoencoder."""
    config = config or PlantedConfig()
    found = [steered(store, config, seed) for seed in range(num_seeds)]
    alone, together = ([each[kind] for each in found] for kind in (0, 1))
    return [*_rows("one feature", alone), *_rows(f"up to {_TOGETHER} features", together)]


def steered(store: Store, config: PlantedConfig, seed: int) -> tuple[list[Steered], list[Steered]]:
    """Every concept of one seed's language, by one feature and by up to five together."""
    line = planted_line(store, config, seed)
    corpus = TokenCorpus(line.corpus)
    loading = SubjectConfig(device="cpu", dtype="float32")
    with open_session(line.sae, line.source, loading) as session, Engine(session, _TEXTS.num_rows, 64) as engine:
        train, heldout = (
            Bench(session, engine, read_windows(corpus, texts, seed, split), texts, seed) for split, texts in _SPLITS
        )
        return _Concepts(session, train, heldout).run()


class _Concepts:
    def __init__(self, session: Session, train: Bench, heldout: Bench) -> None:
        self._session, self._train, self._heldout = session, train, heldout
        self._bits_V = _bits(session)
        self._plain_C = self._shares(heldout.unsteered)

    def run(self) -> tuple[list[Steered], list[Steered]]:
        ranked = self._ranked()
        found: tuple[list[Steered], list[Steered]] = ([], [])
        with progress("Steer concepts", len(STEERED_CONCEPTS), "concepts") as bar:
            for number, concept in enumerate(STEERED_CONCEPTS):
                chosen = self._chosen(number, ranked[number])
                steered = {push: self._steered(number, push, strength) for push, strength in dict.fromkeys(chosen)}
                for kind, (push, _) in enumerate(chosen):
                    found[kind].append(steered[push])
                bar.advance(1, concept)
        return found

    def _ranked(self) -> list[list[Push]]:
        """Of each concept the features that make its words likeliest at an equal push on training text."""
        placed = self._train.placed
        decoder_FD = placed.sae.W_dec.detach().float()
        divergence = self._train.divergence_on(self._train.windows.prompts[:32], behind=1)
        tokens_CV = torch.from_numpy(np.stack([self._has_token(concept) for concept in STEERED_CONCEPTS])).float()
        features = range(len(decoder_FD))
        found = gains(divergence, decoder_FD, lambda _feature: tokens_CV, _GAIN_PUSH, features)
        known = [(feature, gain) for feature, gain in zip(features, found, strict=True) if gain is not None]
        gain_FC = torch.stack([gain.after_C - gain.before_C for _, gain in known])
        amounts = {feature: gain.amount for feature, gain in known}
        ranked = []
        for number in range(len(STEERED_CONCEPTS)):
            order = [known[place][0] for place in gain_FC[:, number].argsort(descending=True)[:_TOGETHER].tolist()]
            pushes = [Push((feature,), (amounts[feature],)) for feature in order[:_SHORTLIST]]
            for count in (_SHORTLIST, _TOGETHER):
                pushes.append(Push(tuple(order[:count]), tuple(amounts[feature] for feature in order[:count])))
            ranked.append(pushes)
        return ranked

    def _chosen(self, number: int, pushes: Sequence[Push]) -> list[tuple[Push, float]]:
        """What does best on training documents, with its strength: of single features, then of all."""
        best: list[tuple[float, float, Push]] = []
        for push in pushes:
            swept = self._swept(self._train, number, push)
            usable = [one for one in swept if one.ratio <= COHERENT] or swept[:1]
            top = max(usable, key=lambda one: one.rate)
            best.append((top.rate, top.strength, push))
        found = []
        for some in (best[:_SHORTLIST], best):
            _, strength, push = max(some, key=lambda one: one[0])
            found.append((push, strength))
        return found

    def _steered(self, number: int, push: Push, strength: float) -> Steered:
        """All figures on held-out documents, at the strength that was chosen on training documents."""
        heldout = self._heldout
        (best,) = self._at(heldout, number, push, [strength])
        swept = self._swept(heldout, number, push)
        has_N = self._has(heldout.natural, number)
        like = [text for text, has in zip(heldout.natural, has_N, strict=True) if has]
        change_C = np.delete(best.shares_C - self._shares(like), number)
        strengths, rates = (
            [0.0, *(one.strength for one in swept)],
            [self._plain_C[number], *(one.rate for one in swept)],
        )
        return Steered(
            STEERED_CONCEPTS[number],
            push,
            best,
            swept,
            float(has_N.mean()),
            float(self._plain_C[number]),
            float(change_C.clip(min=0).mean()),
            float(-change_C.clip(max=0).mean()),
            dose_response(strengths, rates),
            self._controls(number, best.kl),
        )

    def _controls(self, number: int, target_kl: float) -> dict[str, float]:
        """How often the concept comes at the same push along other vectors."""
        train, heldout = self._train, self._heldout
        has_N = self._has(train.natural, number)
        texts = [[text for text, has in zip(train.natural, has_N, strict=True) if has == of] for of in (True, False)]
        draw = torch.Generator().manual_seed(number)
        vectors = {
            "difference of means": mean_difference(train, *texts),
            "random direction": torch.randn(heldout.placed.ends.write.width, generator=draw),
        }
        found = {}
        for name, vector_D in vectors.items():
            amount = amount_for(heldout.divergence, vector_D, target_kl) if vector_D is not None else None
            if vector_D is not None and amount is not None:
                (texts_of,) = heldout.write([Setting(adding(heldout, vector_D, amount[0]))])
                found[name] = float(self._has(texts_of, number).mean())
        return found

    def _swept(self, bench: Bench, number: int, push: Push) -> list[At]:
        """Strengths from a small push to one that breaks the text."""
        vector_D = self._vector(push)
        strengths = [found[0] for kl in _PUSHES if (found := amount_for(bench.divergence, vector_D, kl))]
        return self._at(bench, number, push, strengths)

    def _at(self, bench: Bench, number: int, push: Push, strengths: Sequence[float]) -> list[At]:
        vector_D = self._vector(push)
        written = bench.write([Setting(self._edits(push, strength)) for strength in strengths])
        natural = self._natural_perplexity(bench, number)
        found = []
        for strength, texts in zip(strengths, written, strict=True):
            shares_C = self._shares(texts)
            ratio = perplexity(bench.reader.losses(bench.prompts, texts)) / natural
            kl = bench.divergence.of(vector_D * strength).kl
            found.append(At(strength, kl, float(shares_C[number]), ratio, shares_C))
        return found

    def _vector(self, push: Push) -> Tensor:
        decoder_FD = self._train.placed.sae.W_dec.detach().float()
        return torch.tensor(push.amounts) @ decoder_FD[list(push.features)]

    def _edits(self, push: Push, strength: float) -> CompiledEdits:
        pairs = zip(push.features, push.amounts, strict=True)
        edits = tuple(Add(feature=feature, strength=amount * strength) for feature, amount in pairs)
        return compile_edits(Edits(edits=edits), Nameable(self._session))

    def _natural_perplexity(self, bench: Bench, number: int) -> float:
        has_N = self._has(bench.natural, number)
        return perplexity([loss for loss, has in zip(bench.natural_losses, has_N, strict=True) if has])

    def _has_token(self, concept: str) -> NDArray[np.bool_]:
        is_V: NDArray[np.bool_] = (self._bits_V & np.uint64(BIT[concept])) != 0
        return is_V

    def _has(self, texts: Sequence[Ids], number: int) -> NDArray[np.bool_]:
        """Which texts have a word of a concept."""
        is_V = self._has_token(STEERED_CONCEPTS[number])
        return np.array([bool(is_V[list(text)].any()) for text in texts], dtype=np.bool_)

    def _shares(self, texts: Sequence[Ids]) -> NDArray[np.float64]:
        """The share of texts that have each concept [C]."""
        return np.array([self._has(texts, number).mean() for number in range(len(STEERED_CONCEPTS))])


def _bits(session: Session) -> NDArray[np.uint64]:
    """The concepts of each token's word [V]."""
    subject = session.subject
    bits_V = np.zeros(subject.vocab_size, dtype=np.uint64)
    for word, bits in WORD_BITS.items():
        (token,) = subject.tokenizer(word, add_special_tokens=False)["input_ids"]
        bits_V[token] = bits
    return bits_V


def _rows(what: str, found: Sequence[Sequence[Steered]]) -> list[Row]:
    """Means over concepts, by seed."""
    name = f"steering, planted language, {what}"
    natural, plain = (fmean(getattr(each, of) for own in found for each in own) for of in ("natural", "plain"))
    controls = ", ".join(
        f"{control} {fmean(each.control[control] for own in found for each in own if control in each.control):.2f}"
        for control in found[0][0].control
    )
    against = f"natural text {natural:.2f}, unsteered {plain:.2f}; at the same push {controls}"
    kl = fmean(each.best.kl for own in found for each in own)
    fall = fmean(each.fall for own in found for each in own)

    def means(value: Callable[[Steered], float]) -> list[float]:
        return [fmean(v for each in own if not math.isnan(v := value(each))) for own in found]

    both = [fmean(each.best.rate >= RATE and each.best.ratio <= COHERENT for each in own) for own in found]
    return [
        seeds_row(f"{name}: texts with the concept", means(lambda s: s.best.rate), "of texts", against, at_least=RATE),
        seeds_row(
            f"{name}: perplexity over natural text with the concept",
            means(lambda s: s.best.ratio),
            "times",
            f"push {kl:.2f} nats a token",
            at_most=COHERENT,
        ),
        seeds_row(f"{name}: dose and response", means(lambda s: s.response), "Spearman", at_least=RESPONSE),
        seeds_row(
            f"{name}: other concepts, rise over natural text with the concept",
            means(lambda s: s.rise),
            "of texts",
            f"those that fall {fall:.3f}",
            at_most=OTHERS,
        ),
        seeds_row(f"{name}: rate at least {RATE} and perplexity at most {COHERENT} times", both, "of concepts"),
    ]
