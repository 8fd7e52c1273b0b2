"""Programs: what they predict, how they are written, how sets are fitted, and that the search finds planted ones."""

import itertools
import random

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from mistudio.explain.config import ProgramConfig, SearchConfig
from mistudio.explain.firings import Firings
from mistudio.explain.program import ProgramExplainer
from mistudio.explain.programs import Branch, Context, Flag, Member, Pair, Program
from mistudio.explain.programs.english import describe, label
from mistudio.explain.programs.fitting import Taken, best_exceptions, best_set
from mistudio.explain.records import Evidence, Explanation
from mistudio.explain.tokens import Tokens
from tests.support.texts import tokens_of

WORDS = ["cat", "dog", "sun", "sea", "red", "one", "two", "get", "put", "run", "the", "of"]


def documents(num: int, seed: int) -> list[str]:
    """Random lines of words, with brackets here and there."""
    draw = random.Random(seed)

    def line() -> str:
        words = [draw.choice(WORDS) for _ in range(draw.randint(3, 9))]
        if draw.random() < 0.6:
            at = draw.randrange(len(words))
            words[at] = f"({words[at]} {draw.choice(WORDS)} {draw.choice(WORDS)})"
        return " ".join(words)

    return ["\n".join(line() for _ in range(12)) + "\n" for _ in range(num)]


def firings_of(tokens: Tokens, fires: list[NDArray[np.bool_]], value: float = 2.0) -> Firings:
    """Features that fire with one value where they are predicted to."""
    rows = [np.flatnonzero(each) for each in fires]
    starts = np.cumsum([0, *map(len, rows)])
    values = np.full(starts[-1], value, dtype=np.float32)
    return Firings(len(tokens), starts, np.concatenate(rows).astype(np.int32), values)


def ids(tokens: Tokens, *words: str) -> list[int]:
    return [place for place, string in enumerate(tokens.strings) if string.strip() in words]


RULES = {
    "a set of tokens": lambda c, t: np.isin(t.id_N, ids(t, "cat", "dog")),
    "a token after another": lambda c, t: np.isin(t.id_N, ids(t, "sun")) & np.isin(t.near(-1), ids(t, "the", "of")),
    "any token after one": lambda c, t: np.isin(t.near(-1), ids(t, "get")),
    "a token inside brackets": lambda c, t: np.isin(t.id_N, ids(t, "sea", "red", "run")) & c.flag("inside parentheses"),
    "a token not after another": lambda c, t: (
        np.isin(t.id_N, ids(t, "put")) & ~np.isin(t.near(-1), ids(t, "the", "of"))
    ),
    "one token, or another at the start of a line": lambda c, t: (
        np.isin(t.id_N, ids(t, "one")) | (np.isin(t.id_N, ids(t, "two", "of")) & c.flag("at the start of a line"))
    ),
    "a repeated token": lambda c, t: (
        np.isin(t.id_N, ids(t, "red", "sun")) & c.flag("that occurred before in its sequence")
    ),
    "two tokens after another": lambda c, t: (
        np.isin(t.id_N, ids(t, "dog", "cat", "red", "put")) & np.isin(t.near(-2), ids(t, "sea"))
    ),
}


@pytest.fixture(scope="module")
def train() -> Tokens:
    return tokens_of(documents(160, 1), length=64)


@pytest.fixture(scope="module")
def explained(train: Tokens) -> dict[str, Explanation]:
    context = Context(train)
    firings = firings_of(train, [rule(context, train) for rule in RULES.values()])
    made = ProgramExplainer(train, firings, ProgramConfig()).explain(
        Evidence(number, (), 0.1, 2.0) for number in range(len(RULES))
    )
    return dict(zip(RULES, made, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_the_search_finds_a_planted_program_that_holds_on_other_documents(
    name: str, explained: dict[str, Explanation], train: Tokens
) -> None:
    tokens = tokens_of(documents(60, 2), length=64)
    assert tokens.strings == train.strings
    context = Context(tokens)
    explanation = explained[name]
    predicted = Program.from_json(explanation.program or "").predict(context) > 0
    true = RULES[name](context, tokens)
    f1 = 2 * (predicted & true).sum() / (predicted.sum() + true.sum())
    assert f1 >= 0.95, explanation.text
    assert explanation.confidence == pytest.approx(f1, abs=0.06)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a set of tokens", ["` cat`", "` dog`"]),
        ("a token after another", ["` sun`", "after", "` the`", "` of`"]),
        ("any token after one", ["any token after", "get`"]),
        ("a token inside brackets", ["` sea`", "inside parentheses"]),
        ("a repeated token", ["` red`", "that occurred before in its sequence"]),
    ],
)
def test_programs_say_in_english_what_was_planted(
    name: str, words: list[str], explained: dict[str, Explanation]
) -> None:
    for word in words:
        assert word in explained[name].text
    assert 0 < len(explained[name].label) <= 64


def test_noise_is_not_explained_by_context(train: Tokens) -> None:
    noise = np.random.default_rng(0).random(len(train)) < 0.3
    fires = np.isin(train.id_N, ids(train, "cat", "sun")) & noise
    explainer = ProgramExplainer(train, firings_of(train, [fires]), ProgramConfig())
    (both,) = explainer.explain_both([Evidence(0, (), 0.1, 2.0)])
    program, token_set = both
    assert program.program == token_set.program
    assert program.confidence == pytest.approx(0.46, abs=0.08)


def test_explaining_again_gives_the_same_bytes(train: Tokens, explained: dict[str, Explanation]) -> None:
    context = Context(train)
    firings = firings_of(train, [rule(context, train) for rule in RULES.values()])
    again = ProgramExplainer(train, firings, ProgramConfig()).explain(
        Evidence(number, (), 0.1, 2.0) for number in range(len(RULES))
    )
    assert [each.model_dump_json() for each in again] == [each.model_dump_json() for each in explained.values()]


def test_a_feature_that_never_fires_is_dead_and_one_that_fires_elsewhere_is_not(train: Tokens) -> None:
    firings = firings_of(train, [np.zeros(len(train), bool)])
    explainer = ProgramExplainer(train, firings, ProgramConfig())
    dead, elsewhere = explainer.explain([Evidence(0, (), 0.0, 0.0), Evidence(0, (), 1e-6, 3.0)])
    assert dead.status == "dead"
    assert "Never fires" in dead.text
    assert elsewhere.status == "failed"


def test_what_counts_as_firing_is_a_fraction_of_the_maximum(train: Tokens) -> None:
    strong, weak = np.isin(train.id_N, ids(train, "cat")), np.isin(train.id_N, ids(train, "dog"))
    rows = np.flatnonzero(strong | weak)
    values = np.where(strong[rows], 1.0, 0.15).astype(np.float32)
    firings = Firings(len(train), np.array([0, len(rows)]), rows.astype(np.int32), values)
    for threshold, expected in ((0.2, {"cat"}), (0.1, {"cat", "dog"})):
        explainer = ProgramExplainer(train, firings, ProgramConfig(threshold=threshold))
        (explanation,) = explainer.explain([Evidence(0, (), 0.1, 1.0)])
        predicted = Program.from_json(explanation.program or "").predict(Context(train)) > 0
        assert {train.strings[each].strip() for each in train.id_N[predicted].tolist()} == expected


def test_a_program_found_on_a_sample_of_the_tokens_is_right_at_most_always(train: Tokens) -> None:
    context = Context(train)
    after = [np.isin(train.near(-1), ids(train, word)) for word in WORDS]
    firings = firings_of(train, [rule(context, train) for rule in RULES.values()] + after)
    config = ProgramConfig(search=SearchConfig(max_tokens=1000))
    made = ProgramExplainer(train, firings, config).explain(
        Evidence(number, (), 0.1, 2.0) for number in range(firings.num_features)
    )
    confidences = [each.confidence for each in made]
    assert max(confidences) == 1
    assert min(confidences) > 0.8


def test_one_document_is_enough() -> None:
    tokens = tokens_of(["the cat the dog " * 20])
    firings = firings_of(tokens, [np.isin(tokens.id_N, ids(tokens, "cat"))])
    (explanation,) = ProgramExplainer(tokens, firings, ProgramConfig()).explain([Evidence(0, (), 0.1, 2.0)])
    assert "cat" in explanation.text


def test_a_program_predicts_by_its_first_branch_that_holds() -> None:
    tokens = tokens_of(["the cat (the dog) cat"])
    cat, dog = ids(tokens, "cat"), ids(tokens, "dog")
    program = Program(
        branches=(
            Branch(conditions=(Member(column="current", tokens=(*cat, *dog)),), value=1.0, values={cat[0]: 3.0}),
            Branch(conditions=(Flag(name="inside parentheses"),), value=0.5),
        )
    )
    strings = [tokens.strings[each] for each in tokens.id_N.tolist()]
    values = list(zip(strings, program.predict(Context(tokens)).tolist(), strict=True))
    assert values == [
        ("the", 0.0),
        (" cat", 3.0),
        (" (", 0.0),
        ("the", 0.5),
        (" dog", 1.0),
        (")", 0.5),
        (" cat", 3.0),
    ]


def test_conditions_hold_where_they_should() -> None:
    tokens = tokens_of(["a b c b"])
    context = Context(tokens)
    a, b, c = (tokens.strings.index(each) for each in ("a", " b", " c"))
    assert Member(column="previous", tokens=(a, -1)).holds(context).tolist() == [True, True, False, False]
    assert Member(column="previous", tokens=(a, -1), negated=True).holds(context).tolist() == [False, False, True, True]
    assert Pair(pairs=((a, b),)).holds(context).tolist() == [False, True, False, False]
    assert Pair(pairs=((c, b),), negated=True).holds(context).tolist() == [True, True, True, False]
    assert not Pair(pairs=()).holds(context).any()
    assert Flag(name="is a number", negated=True).holds(context).all()
    assert not Member(column="current", tokens=(10_000,)).holds(context).any()


def test_a_program_survives_being_written_and_is_refused_when_it_is_none() -> None:
    program = Program(
        branches=(
            Branch(
                conditions=(Member(column="line", tokens=(3, 1)), Pair(pairs=((1, 2),)), Flag(name="x", negated=True)),
                value=0.25,
                values={7: 1.5},
            ),
        )
    )
    assert Program.from_json(program.to_json()) == program
    for text in ('{"branches": [{"conditions": [], "value": 1}]}', '{"branches": [], "code": "x"}', "[]"):
        with pytest.raises(ValidationError):
            Program.from_json(text)


def test_an_empty_program_says_so() -> None:
    assert "nothing" in describe(Program(), ("a",), np.ones(1))
    assert label(Program(), ("a",), np.ones(1)) == "unexplained"


def test_many_tokens_go_by_the_name_of_their_class() -> None:
    strings = tuple(str(number) for number in range(30)) + ("word",)
    program = Program(branches=(Branch(conditions=(Member(column="current", tokens=tuple(range(29))),), value=1.0),))
    assert describe(program, strings, np.ones(31)).startswith("Fires on a number (`0`, `1`")


@pytest.mark.parametrize("seed", range(5))
def test_the_fitted_set_is_the_best_of_all_sets(seed: int) -> None:
    draw = np.random.default_rng(seed)
    seen = draw.integers(1, 40, size=8)
    fired = draw.binomial(seen, draw.random(8))
    taken, num_fires = Taken(hits=5, held=9), int(fired.sum()) + 12

    def f1(codes: list[int]) -> float:
        return 2 * (5 + fired[codes].sum()) / (9 + seen[codes].sum() + num_fires)

    every = [list(codes) for size in range(9) for codes in itertools.combinations(range(8), size)]
    assert f1(best_set(fired, seen, 0.0, taken, num_fires).tolist()) == pytest.approx(max(map(f1, every)))
    left_out = set(best_exceptions(fired, seen, 0.0, taken, num_fires).tolist())
    assert f1([code for code in range(8) if code not in left_out]) == pytest.approx(max(map(f1, every)))


def test_what_was_seen_once_does_not_enter_a_set() -> None:
    fired, seen = np.array([50, 1, 1]), np.array([60, 1, 2])
    assert best_set(fired, seen, 0.75, Taken(), 52).tolist() == [0]
    assert best_set(fired, seen, 0.0, Taken(), 52).tolist() == [0, 1, 2]
