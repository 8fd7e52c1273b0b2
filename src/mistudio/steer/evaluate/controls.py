"""What a feature is compared with at an equal push: other vectors of the same hook point, and prompts.

Shape legend: N texts, D width of the hook point.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mistudio.corpus.tokens import TextEncoder
from mistudio.instrument.compiled import CompiledEdits, Nameable, NamedDirection, compile_edits
from mistudio.instrument.divergence import Moved, amount_for
from mistudio.instrument.edits import Add, Edits
from mistudio.steer.evaluate.bench import Bench, Setting
from mistudio.steer.evaluate.concepts import Concept
from mistudio.steer.evaluate.records import DIFFERENCE, OTHER, PROMPT_EXAMPLES, PROMPT_LABEL, RANDOM
from mistudio.steer.evaluate.windows import Ids


class Control(NamedTuple):
    """A setting that is compared with a feature."""

    method: str
    strength: float | None  # of a vector, times its length
    setting: Setting
    moved: Moved


def vectors(bench: Bench, concept: Concept, other: int | None, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The vectors that a feature is compared with, by method; those that cannot be made are left out.

    Args:
        bench: the model.
        concept: of the feature.
        other: another feature; None: there is none.
        seed: of the random direction.
    """
    difference_D = mean_difference(bench, concept.positives, concept.negatives)
    if difference_D is not None:
        yield DIFFERENCE, difference_D
    decoder_FD = bench.placed.sae.W_dec.detach().float()
    draw = torch.Generator().manual_seed(seed)
    random_D = torch.randn(decoder_FD.shape[1], generator=draw).to(decoder_FD.device)
    yield RANDOM, random_D / random_D.norm()
    if other is not None:
        yield OTHER, decoder_FD[other]


def mean_difference(bench: Bench, positives: Sequence[Ids], negatives: Sequence[Ids]) -> Tensor | None:
    """The mean activation of texts with the concept less that of texts without [D]; None without either."""
    if not positives or not negatives:
        return None
    one_D, two_D = (
        torch.stack([acts_TD.float().mean(dim=0) for acts_TD in bench.reader.activations(texts, at_write=True)]).mean(0)
        for texts in (positives, negatives)
    )
    return one_D - two_D


def pushed(bench: Bench, method: str, vector_D: Tensor, target_kl: float) -> Control | None:
    """A vector at the length that moves predictions by so much; None where none does."""
    norm = float(vector_D.norm())
    if not norm > 0:
        return None
    found = amount_for(bench.divergence, vector_D, target_kl, start=1 / norm)
    if found is None:
        return None
    amount, moved = found
    return Control(method, amount, Setting(adding(bench, vector_D, amount)), moved)


def adding(bench: Bench, vector_D: Tensor, amount: float) -> CompiledEdits:
    """The edits that add so much of a vector where the autoencoder writes."""
    digest = hashlib.sha256(vector_D.float().cpu().numpy().tobytes()).hexdigest()
    direction = NamedDirection(bench.placed.ends.write, vector_D, digest)
    nameable = Nameable(bench.session, directions={"vector": direction}.__getitem__)
    return compile_edits(Edits(edits=(Add(direction="vector", strength=amount),)), nameable)


def prompting(bench: Bench, concept: Concept, examples: int) -> Iterator[Control]:
    """Prompts that say what is wanted: by its label, and by passages that have it."""
    if concept.label:
        (ids,) = TextEncoder(bench.session.subject.tokenizer).encode([f"{concept.label}: "])
        yield _asking(bench, PROMPT_LABEL, tuple(ids.tolist()))
    if concept.positives:
        yield _asking(bench, PROMPT_EXAMPLES, tuple(token for text in concept.positives[:examples] for token in text))


def _asking(bench: Bench, method: str, before: Ids) -> Control:
    setting = Setting(before=before[: bench.room_before])
    return Control(method, None, setting, bench.moved(setting))
