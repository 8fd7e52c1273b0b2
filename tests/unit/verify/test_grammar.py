"""The planted language: its labels hold of its words, and its documents fit a sequence."""

import numpy as np
import pytest

from mistudio.verify.concepts import CONCEPTS, KINDS, WORDS
from mistudio.verify.grammar import Grammar


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar(seed=0, num_documents=200)


def labels_by_concept(grammar: Grammar) -> tuple[list[str], dict[str, np.ndarray]]:
    words = [word for document in grammar.labelled for word in document.words]
    labels = np.concatenate([document.labels() for document in grammar.labelled])
    return words, dict(zip(CONCEPTS, labels.T, strict=True))


def test_there_are_64_concepts_each_of_them_on_tokens_but_not_on_all(grammar: Grammar) -> None:
    _, labels = labels_by_concept(grammar)
    assert len(CONCEPTS) == len(set(CONCEPTS)) == 64
    assert sum(len(names) for names in KINDS.values()) == 64
    assert all(0 < is_N.mean() < 0.5 for is_N in labels.values())
    assert all(labels[name].mean() < 0.006 for name in KINDS["rare classes"])


def test_a_word_is_of_its_class_wherever_it_stands_and_families_nest(grammar: Grammar) -> None:
    words, labels = labels_by_concept(grammar)
    is_robin = np.array(words) == "robin"
    assert is_robin.any()
    assert labels["bird"][is_robin].all()
    assert not labels["fish"][is_robin].any()
    for inner, outer in (("bird", "animal"), ("animal", "noun"), ("animal", "living"), ("gem", "matter")):
        assert not (labels[inner] & ~labels[outer]).any()


def test_contexts_are_what_brackets_questions_and_negations_enclose(grammar: Grammar) -> None:
    for document in grammar.labelled[:50]:
        is_TC = dict(zip(CONCEPTS, document.labels().T, strict=True))
        depth, quoted = 0, False
        for place, word in enumerate(document.words):
            depth += word == "("
            opens = word == '"' and not quoted
            quoted = quoted or opens
            assert is_TC["in brackets"][place] == (depth > 0)
            assert is_TC["in quotes"][place] == quoted
            depth -= word == ")"
            quoted = quoted and (opens or word != '"')
            if word == "?":
                assert is_TC["in a question"][place]
            if word == "ever":
                assert is_TC["in a negated clause"][place]


def test_every_document_has_one_topic_on_all_of_its_words(grammar: Grammar) -> None:
    topics = [CONCEPTS.index(name) for name in CONCEPTS if name.startswith("about ")]
    for document in grammar.labelled:
        assert sorted(document.labels()[:, topics].all(axis=0).tolist()) == [False, False, True]


def test_documents_fit_a_sequence_and_are_the_same_each_time(grammar: Grammar) -> None:
    assert all(20 < len(document.words) <= 118 for document in grammar.labelled)
    assert Grammar(0, 200).document(7) == grammar.labelled[7]
    assert Grammar(1, 200).document(7) != grammar.labelled[7]
    assert Grammar(1, 200).digest != grammar.digest
    assert {word for document in grammar.labelled for word in document.words} <= set(WORDS)
