"""The planted language: how well a few latents tell the concepts that are known to be there.

For each concept the best single latent and the best group of at most four are chosen on training documents, and
measured on held-out ones, beside a linear probe on the activations themselves. Controls: an untrained autoencoder,
groups of random directions, and labels that were shuffled over tokens. Where classes lie far apart in few
dimensions, four random directions tell them too: a group says that the concept is there to be read, and only a single
latent that it was found. So both are reported, and the F1 of firing of the latent that is best at that.

Shape legend: T tokens, D width of the hook point, F latents, C concepts.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mistudio.activations import ActivationReader
from mistudio.artifacts import Store
from mistudio.corpus.reader import Split
from mistudio.evaluate.control import control_generator, random_autoencoder
from mistudio.evaluate.probes import fit_probe
from mistudio.progress import progress
from mistudio.sae import SparseAutoencoder, load_autoencoder
from mistudio.verify.concepts import CONCEPTS, KINDS
from mistudio.verify.explained import Explained, explained
from mistudio.verify.grammar import Grammar
from mistudio.verify.recovery import Firing, auroc, best_firing, best_group
from mistudio.verify.rows import Row, seeds_row
from mistudio.verify.subjects import Line, PlantedConfig, planted_line

GROUP = 4
RECOVERED = 0.95  # AUROC of a concept that counts as recovered
SHARE_TO_REACH = 0.9
NEAR_PROBE = 0.05
FIRES_LIKE = 0.8  # F1 on training documents from which a latent stands for a concept, and is explained
PROGRAM_F1 = 0.8
_TOKENS = 24_000  # of each split


class Tokens(NamedTuple):
    """Activations of some tokens, and which concepts each is an example of."""

    acts_TD: Tensor
    labels_TC: NDArray[np.bool_]


class Space(NamedTuple):
    """What one set of directions tells of a concept on held-out documents."""

    single: float  # AUROC of the best of them
    group: float  # AUROC of the best group
    f1: float  # of firing, of the one that is best at that; above a fifth of its maximum
    latents: tuple[int, ...]  # of the group
    firing: Firing  # the one that is best at that, by training tokens


class ConceptFigures(NamedTuple):
    """One concept, by latents and by the controls."""

    concept: str
    dense: float  # AUROC of a linear probe on the activations
    sae: Space
    random: Space  # an untrained autoencoder
    directions: Space  # random directions
    shuffled: Space  # labels of other tokens


def planted_rows(store: Store, num_seeds: int, config: PlantedConfig | None = None) -> list[Row]:
    """The figures of all concepts, over seeds; each seed has its own language, model and autoencoder."""
    config = config or PlantedConfig()
    found, programs = zip(*(planted(store, config, seed) for seed in range(num_seeds)), strict=True)
    return [*_share_rows(found), *_kind_rows(found), *_concept_rows(found), *_program_rows(programs)]


def planted(store: Store, config: PlantedConfig, seed: int) -> tuple[list[ConceptFigures], list[Explained]]:
    """Every concept of one seed's language, and the explanations of those that a latent fires like."""
    line = planted_line(store, config, seed)
    grammar, sae = Grammar(seed, config.documents), load_autoencoder(line.sae)
    train, heldout = (tokens_of(line, grammar, config.hook, split) for split in ("train", "heldout"))
    figures = concept_figures(sae, train, heldout, seed)
    latents = {each.concept: each.sae.firing.latent for each in figures if each.sae.firing.f1 >= FIRES_LIKE}
    return figures, explained(line, grammar, sae, config.hook, latents, seed)


def tokens_of(line: Line, grammar: Grammar, hook: str, split: Split, count: int = _TOKENS) -> Tokens:
    """The first tokens of a split; its documents come in random order."""
    reader = ActivationReader(line.activations, hook, split)
    stop = min(count, len(reader))
    meta = reader.meta(0, stop)
    labels = {int(number): grammar.document(int(number)).labels() for number in np.unique(meta["document"])}
    rows = [
        labels[int(document)][position] for document, position in zip(meta["document"], meta["position"], strict=True)
    ]
    return Tokens(reader.acts(0, stop).float(), np.stack(rows))


def concept_figures(sae: SparseAutoencoder, train: Tokens, heldout: Tokens, seed: int) -> list[ConceptFigures]:
    """Each concept by latents, by the activations, and by the controls."""
    control = random_autoencoder(sae, train.acts_TD[:1024], seed)
    directions_FD = functional.normalize(torch.randn(sae.width, sae.d_in, generator=control_generator(seed)), dim=1)
    dense, own, random, directions = (
        [read(tokens.acts_TD).numpy() for tokens in (train, heldout)]
        for read in (torch.Tensor.float, sae.encode, control.encode, lambda acts_TD: acts_TD @ directions_FD.T)
    )
    orders = [np.random.default_rng(seed).permutation(len(tokens.labels_TC)) for tokens in (train, heldout)]
    figures = []
    with progress("Read concepts", len(CONCEPTS), "concepts") as bar:
        for number, concept in enumerate(CONCEPTS):
            labels = [tokens.labels_TC[:, number] for tokens in (train, heldout)]
            shuffled = [is_T[order_T] for is_T, order_T in zip(labels, orders, strict=True)]
            probe = fit_probe(dense[0], labels[0], dense[1])
            figures.append(
                ConceptFigures(
                    concept,
                    auroc(probe.scores_P, labels[1]),
                    sae=_space(own, labels),
                    random=_space(random, labels),
                    directions=_space(directions, labels),
                    shuffled=_space(own, shuffled),
                )
            )
            bar.advance(1, concept)
    return figures


def _space(rows: list[NDArray[np.float32]], labels: list[NDArray[np.bool_]]) -> Space:
    """Choose on the training tokens, measure on the held-out ones."""
    single, group = best_group(rows[0], labels[0], rows[1], labels[1], GROUP)
    firing = best_firing(rows[0], labels[0])
    return Space(single.auroc, group.auroc, firing.f1_on(rows[1], labels[1]), group.latents, firing)


def _share_rows(found: Sequence[list[ConceptFigures]]) -> list[Row]:
    """Shares of the concepts, over seeds; what is asked for is among them."""

    def shares(space: str, figure: str) -> list[float]:
        return [fmean(getattr(getattr(each, space), figure) >= RECOVERED for each in own) for own in found]

    def against(figure: str) -> str:
        return ", ".join(
            f"{name} {fmean(shares(space, figure)):.3f}"
            for space, name in (("random", "random autoencoder"), ("directions", "random directions"))
        )

    near = [fmean(each.sae.group >= each.dense - NEAR_PROBE for each in own) for own in found]
    chance = [fmean(each.shuffled.group for each in own) for own in found]
    f1s = {space: [fmean(getattr(each, space).f1 for each in own) for own in found] for space in ("sae", "random")}
    dense = fmean(fmean(each.dense >= RECOVERED for each in own) for own in found)
    group = f"AUROC at least {RECOVERED} by the best group of {GROUP}"
    return [
        seeds_row(
            f"planted: {group}",
            shares("sae", "group"),
            "of concepts",
            f"linear probe {dense:.3f}, {against('group')}",
            at_least=SHARE_TO_REACH,
        ),
        seeds_row(
            f"planted: best group within {NEAR_PROBE} of a linear probe", near, "of concepts", at_least=SHARE_TO_REACH
        ),
        seeds_row(
            f"planted: AUROC at least {RECOVERED} by a single latent",
            shares("sae", "single"),
            "of concepts",
            against("single"),
        ),
        seeds_row("planted: F1 of firing of the best latent", f1s["sae"], "F1", f"random {fmean(f1s['random']):.3f}"),
        seeds_row("planted: best group, shuffled labels", chance, "AUROC", "chance is 0.5"),
    ]


def _kind_rows(found: Sequence[list[ConceptFigures]]) -> list[Row]:
    """Mean AUROC of the best group, by sort of concept."""
    rows = []
    for kind, names in KINDS.items():
        chosen = [[each for each in own if each.concept in names] for own in found]
        flat = [each for own in chosen for each in own]
        single, dense = fmean(each.sae.single for each in flat), fmean(each.dense for each in flat)
        f1 = fmean(each.sae.f1 for each in flat)
        rows.append(
            seeds_row(
                f"planted, {len(names)} {kind}: best group of {GROUP}",
                [fmean(each.sae.group for each in own) for own in chosen],
                "AUROC",
                f"single latent {single:.3f}, linear probe {dense:.3f}, F1 of firing {f1:.3f}",
            )
        )
    return rows


def _concept_rows(found: Sequence[list[ConceptFigures]]) -> list[Row]:
    """The concepts that the best group does not recover, on average over seeds."""
    rows = []
    for each in zip(*found, strict=True):
        groups = [figures.sae.group for figures in each]
        if fmean(groups) < RECOVERED:
            against = f"linear probe {fmean(figures.dense for figures in each):.3f}"
            rows.append(seeds_row(f"planted, not recovered: {each[0].concept}", groups, "AUROC", against))
    return rows


def _program_rows(programs: Sequence[list[Explained]]) -> list[Row]:
    """What programs say of the latents that fire like a concept."""
    shuffled = fmean(fmean(each.f1_shuffled for each in own) for own in programs)
    chance = f"{fmean(len(own) for own in programs):.1f} concepts a seed; another's firing {shuffled:.3f}"
    return [
        seeds_row(
            "planted: program explanations, held-out tokens",
            [fmean(each.f1 for each in own) for own in programs],
            "F1",
            chance,
            at_least=PROGRAM_F1,
        ),
        seeds_row(
            "planted: program explanations name the concept first",
            [fmean(each.is_named for each in own) for own in programs],
            "of concepts",
            f"chance is 1 of {len(CONCEPTS)}",
            at_least=SHARE_TO_REACH,
        ),
    ]
