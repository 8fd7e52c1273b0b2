"""A planted language: a small grammar whose every token is labelled with the concepts that it is an example of.

64 concepts, of four sorts. *Classes* of words with the same use (birds, verbs of speech), six words each unless said
otherwise; *families* of classes (animals, nouns), which nest; *rare* classes, on a few tokens in a thousand; and
*contexts*, which the word alone does not tell (inside brackets, in a question, in a document about the sea). Words of
one class are interchangeable; classes differ in what comes before and after them, by tables that are drawn anew for
each seed. So a model that predicts the next word well has to tell the concepts apart.

A document is a heading and some sentences, short enough to be one sequence.

Shape legend: T tokens of a document, C concepts.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.corpus.documents import Document
from mistudio.verify.concepts import (
    ADJECTIVES,
    ADVERBS,
    BIT,
    CLASSES,
    CONCEPTS,
    EVER,
    FUNCTION,
    HEADINGS,
    NOUN_CLASSES,
    NOUNS,
    RARE,
    TOPICS,
    VERBS,
    WORD_BITS,
)

if TYPE_CHECKING:
    from collections import Counter

VERSION = 2  # raise it when the same seed would give other documents
_SEED = 0x9A77_0000
_MAX_WORDS = 118  # and a sentence beyond the one that reaches about this is left out


class Labelled(NamedTuple):
    """A document, and which concepts each of its words is an example of."""

    words: tuple[str, ...]
    bits: tuple[int, ...]

    @property
    def text(self) -> str:
        """The words with spaces between them."""
        return " ".join(self.words)

    def labels(self) -> NDArray[np.bool_]:
        """One column a concept [T, C], in the order of ``CONCEPTS``."""
        bits_T1 = np.array(self.bits, dtype=np.uint64)[:, None]
        return (bits_T1 >> np.arange(len(CONCEPTS), dtype=np.uint64) & np.uint64(1)).astype(np.bool_)


class Grammar:
    """Documents of one seed's language; a corpus source (:class:`mistudio.corpus.documents.CorpusSource`).

    Args:
        seed: of the tables, and of the documents.
        num_documents: how many there are.
    """

    uri = "builtin:planted-language"

    def __init__(self, seed: int, num_documents: int) -> None:
        self.seed, self.num_documents = seed, num_documents
        draw = np.random.default_rng(_SEED + seed)
        self._adjective_of = _table(draw, NOUN_CLASSES, list(ADJECTIVES))
        self._verb_of = _table(draw, NOUN_CLASSES, list(VERBS))
        self._object_of = _table(draw, list(VERBS), NOUN_CLASSES)

    @property
    def digest(self) -> str:
        """sha256 of what determines the documents."""
        tables = [NOUNS, VERBS, ADJECTIVES, ADVERBS, FUNCTION, RARE, HEADINGS, TOPICS]
        content = json.dumps([VERSION, self.seed, self.num_documents, tables], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def labelled(self) -> list[Labelled]:
        """All documents with their labels."""
        return [self.document(number) for number in range(self.num_documents)]

    def documents(self, dropped: "Counter[str] | None" = None) -> Iterator[Document]:
        """The documents as text; nothing is left out."""
        for document in self.labelled:
            yield Document(document.text, "planted")

    def document(self, number: int) -> Labelled:
        """One document; the same each time."""
        return _Writer(self, np.random.default_rng((_SEED, self.seed, number))).document()

    def adjective_of(self, noun: str, draw: np.random.Generator) -> str:
        """The class of an adjective that goes with a class of nouns."""
        return _drawn(self._adjective_of[noun], draw)

    def verb_of(self, noun: str, draw: np.random.Generator) -> str:
        """The class of a verb that goes with a class of nouns as its subject."""
        return _drawn(self._verb_of[noun], draw)

    def object_of(self, verb: str, draw: np.random.Generator) -> str:
        """The class of a noun that goes with a class of verbs as its object."""
        return _drawn(self._object_of[verb], draw)


class _Writer:
    """Writes one document, word after word; knows what the words stand in."""

    def __init__(self, grammar: Grammar, draw: np.random.Generator) -> None:
        self.grammar, self._draw = grammar, draw
        self._words: list[str] = []
        self._bits: list[int] = []
        self._around: list[str] = []  # contexts that hold for what is written now
        self._topic = list(TOPICS)[draw.integers(len(TOPICS))]

    def document(self) -> Labelled:
        """A heading, then sentences up to the length of a sequence."""
        self._around.append(f"about {self._topic}")
        self._word(self._one(HEADINGS[self._topic].split()))
        self._word(":")
        while True:
            before = len(self._words)
            self._sentence()
            if len(self._words) > _MAX_WORDS:
                return Labelled(tuple(self._words[:before]), tuple(self._bits[:before]))

    def _sentence(self) -> None:
        """A statement or a question, seldom with an omen before it or an oath at its end."""
        if self._chance(0.04):
            self._of_class("omen")
            self._of_class("mark")
        is_question = self._chance(0.2)
        self._within(["in a question"] * is_question, self._question if is_question else self._statement)

    def _question(self) -> None:
        self._of_class("question word")
        self._clause()
        self._word("?")

    def _statement(self) -> None:
        self._clause()
        if self._chance(0.25):
            self._of_class("conjunction")
            self._clause()
        if self._chance(0.04):
            self._of_class("mark")
            self._of_class("oath")
        self._word("!" if self._chance(0.15) else ".")

    def _clause(self) -> None:
        noun = self._subject()
        is_negated = self._chance(0.2)
        self._within(["in a negated clause"] * is_negated, lambda: self._predicate(noun, is_negated))

    def _subject(self) -> str:
        """A subject; the class of its noun."""
        if self._chance(0.15):
            self._of_class("pronoun", "subject")
            return "kin"
        noun = self._noun_class()
        self._noun_phrase(noun, "subject")
        if self._chance(0.12):
            self._within(["in brackets"], lambda: self._aside(noun))
        return noun

    def _aside(self, noun: str) -> None:
        self._word("(")
        self._of_class(self.grammar.adjective_of(noun, self._draw))
        self._of_class("conjunction")
        self._of_class("degree")
        self._of_class(self.grammar.adjective_of(noun, self._draw))
        self._word(")")

    def _predicate(self, noun: str, is_negated: bool) -> None:
        if is_negated:
            self._of_class("negation")
        verb = self.grammar.verb_of(noun, self._draw)
        self._of_class(verb)
        self._complement(verb)
        if self._chance(0.3):
            self._of_class("manner" if self._chance(0.6) else "time")
        if is_negated:
            self._word(EVER)

    def _complement(self, verb: str) -> None:
        """What follows a verb: a place, speech, goods by number, a list, or an object."""
        if verb == "motion":
            self._place_phrase()
        elif verb == "speech":
            self._within(["in quotes"], self._speech)
        elif verb == "giving" and self._chance(0.5):
            self._goods()
        elif self._chance(0.2):
            self._within(["in a list"], lambda: self._list(verb))
        else:
            self._noun_phrase(self.grammar.object_of(verb, self._draw))
            if self._chance(0.2):
                self._place_phrase()

    def _speech(self) -> None:
        self._word('"')
        if self._chance(0.06):
            self._of_class("spell")
            self._of_class("spell")
            self._word("!")
        else:
            noun = self._noun_class()
            self._noun_phrase(noun)
            self._of_class("degree")
            self._of_class(self.grammar.adjective_of(noun, self._draw))
        self._word('"')

    def _goods(self) -> None:
        self._of_class("number")
        self._of_class("unit")
        self._word("of")
        self._of_class(self._one(["metal", "gem", "grain", "fruit", "cloth"]))

    def _list(self, verb: str) -> None:
        noun = self.grammar.object_of(verb, self._draw)
        for _ in range(int(self._draw.integers(2, 4))):
            self._of_class(noun)
            self._of_class("mark")
        self._of_class(noun)

    def _place_phrase(self) -> None:
        self._of_class("preposition")
        noun = self._one(["water", "height", "town"])
        self._noun_phrase(noun, "object of a preposition")

    def _noun_phrase(self, noun: str, role: str | None = None) -> None:
        self._of_class("determiner")
        if self._chance(0.45):
            if self._chance(0.2):
                self._of_class("degree")
            self._of_class(self.grammar.adjective_of(noun, self._draw))
        self._of_class(noun, role)

    def _noun_class(self) -> str:
        """A class of nouns, mostly one of the topic."""
        return self._one(list(TOPICS[self._topic]) if self._chance(0.9) else NOUN_CLASSES)

    def _of_class(self, name: str, role: str | None = None) -> None:
        self._word(self._one(CLASSES[name]), role)

    def _word(self, word: str, role: str | None = None) -> None:
        contexts = [*self._around, *([role] if role else [])]
        self._words.append(word)
        self._bits.append(WORD_BITS[word] | sum({BIT[context] for context in contexts}))

    def _within(self, contexts: list[str], write: Callable[[], None]) -> None:
        """Write something within contexts, and leave them again."""
        self._around += contexts
        write()
        del self._around[len(self._around) - len(contexts) :]

    def _one(self, words: list[str]) -> str:
        return words[int(self._draw.integers(len(words)))]

    def _chance(self, share: float) -> bool:
        return bool(self._draw.random() < share)


def _table(draw: np.random.Generator, rows: list[str], columns: list[str]) -> dict[str, dict[str, float]]:
    """For each row how likely each column is: mostly a few of them."""
    shares = draw.dirichlet(np.full(len(columns), 0.3), size=len(rows))
    return {row: dict(zip(columns, share.tolist(), strict=True)) for row, share in zip(rows, shares, strict=True)}


def _drawn(shares: dict[str, float], draw: np.random.Generator) -> str:
    return str(draw.choice(list(shares), p=list(shares.values())))
