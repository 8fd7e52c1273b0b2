"""Program explanations of latents whose concept is known: do they say the concept that the latent stands for.

For each concept that some latent fires like, that latent (chosen on training documents) is explained by a program,
which sees training documents alone. On held-out documents the program's firing is compared with the
latent's, and with the labels of all concepts: the concept is named if no other fits the program better.

Shape legend: N tokens, C concepts.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.activations import ActivationReader
from mistudio.corpus.reader import Split, TokenCorpus
from mistudio.explain.config import ProgramConfig
from mistudio.explain.firings import Firings, captured_sequences, read_firings
from mistudio.explain.program import ProgramExplainer
from mistudio.explain.programs import Context, Program
from mistudio.explain.records import Evidence
from mistudio.explain.tokens import Tokens, draw_sequences, read_tokens
from mistudio.sae import SparseAutoencoder
from mistudio.subject import load_tokenizer, token_strings
from mistudio.verify.concepts import CONCEPTS
from mistudio.verify.grammar import Grammar
from mistudio.verify.subjects import Line

_TOKENS: dict[Split, int] = {"train": 60_000, "heldout": 24_000}


class Explained(NamedTuple):
    """One latent's program on held-out documents."""

    concept: str
    latent: int
    text: str
    f1: float  # of the program's firing against the latent's
    f1_shuffled: float  # against the latent's firing on other tokens
    named: str  # the concept whose labels fit the program best

    @property
    def is_named(self) -> bool:
        """Whether that is the concept that the latent stands for."""
        return self.named == self.concept


def explained(
    line: Line, grammar: Grammar, sae: SparseAutoencoder, hook: str, latents: dict[str, int], seed: int
) -> list[Explained]:
    """Explain the latent of each concept, and hold the explanation against what is known.

    Args:
        line: where activations and corpus are.
        grammar: knows the labels.
        sae: whose latents they are.
        hook: where it reads.
        latents: the latent that stands for a concept, by concept.
        seed: of the documents drawn.
    """
    tokens, firings = {}, {}
    for split in _TOKENS:
        tokens[split], firings[split] = _read(line, sae, hook, split, seed)
    config = ProgramConfig()
    max_F = firings["train"].max_F()
    explainer = ProgramExplainer(tokens["train"], firings["train"], config, seed)
    evidence = [Evidence(latent, (), 0.0, float(max_F[latent])) for latent in sorted(set(latents.values()))]
    found = {explanation.feature: explanation for explanation in explainer.explain(evidence)}
    context, labels_NC = Context(tokens["heldout"]), _labels(tokens["heldout"], grammar)
    order_N = np.random.default_rng(seed).permutation(len(context))
    results = []
    for concept, latent in latents.items():
        program = Program.from_json(found[latent].program or Program().to_json())
        says_N = program.predict(context) > 0
        fires_N = firings["heldout"].dense(latent) > config.threshold * max_F[latent]
        fits_C = [f1(says_N, labels_NC[:, number]) for number in range(len(CONCEPTS))]
        named = CONCEPTS[int(np.argmax(fits_C))]
        text = found[latent].text
        results.append(Explained(concept, latent, text, f1(says_N, fires_N), f1(says_N, fires_N[order_N]), named))
    return results


def f1(says_N: NDArray[np.bool_], is_N: NDArray[np.bool_]) -> float:
    """F1 of predictions; 0 where there are none to make and none are made."""
    return float(2 * (says_N & is_N).sum() / max(int(says_N.sum() + is_N.sum()), 1))


def _read(line: Line, sae: SparseAutoencoder, hook: str, split: Split, seed: int) -> tuple[Tokens, Firings]:
    """Tokens of documents drawn at random, and where the latents fire on them."""
    corpus, reader = TokenCorpus(line.corpus), ActivationReader(line.activations, hook, split)
    sequences = draw_sequences(corpus, split, captured_sequences(reader), _TOKENS[split], seed)
    tokens = read_tokens(corpus, split, sequences, token_strings(load_tokenizer(line.source)))
    return tokens, read_firings(reader, sae, tokens)


def _labels(tokens: Tokens, grammar: Grammar) -> NDArray[np.bool_]:
    """The concepts of every token [N, C]."""
    labels = {int(number): grammar.document(int(number)).labels() for number in np.unique(tokens.document_N)}
    places = zip(tokens.document_N.tolist(), tokens.position_N.tolist(), strict=True)
    return np.stack([labels[document][position] for document, position in places])
