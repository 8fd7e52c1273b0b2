"""What is particular to the engine on a cache in pages: what is put out comes back the same, and what does not fit."""

from collections import Counter

import pytest
import torch

from mistudio.errors import ConfigError, InputError, SubjectError
from mistudio.instrument.compiled import Nameable
from mistudio.instrument.paged import PagedEngine
from mistudio.instrument.paged_batches import PagedBatches, Piece
from mistudio.instrument.sampling import Choosing
from mistudio.instrument.session import Session
from tests.support.families import CAUSAL
from tests.support.generating import (
    Wish,
    answered,
    compiled,
    generated,
    ids_of,
    nameable_of,
    session_of,
    subject_of,
    tokens_of,
)

pytestmark = pytest.mark.usefixtures("_little_to_collect")
SLOTS = 64
REFUSED = ("bloom", "falcon_7b", "falcon_40b", "falcon_rw", "gptj", "stablelm")


@pytest.fixture(scope="module")
def session() -> Session:
    return session_of("llama")


@pytest.fixture(scope="module")
def nameable(session: Session) -> Nameable:
    return nameable_of(session)


@pytest.fixture(scope="module")
def wishes(nameable: Nameable) -> list[Wish]:
    """Answers in which something depends on places, on what happened before, or on draws."""
    add = {"op": "add", "feature": 3, "strength": 25}
    edits: list[dict[str, object] | None] = [
        {**add, "schedule": {"start": 1, "end": -1, "steps": 12}},
        {**add, "where": {"positions": [4, 15, 22, 30]}},
        {**add, "where": {"window": [3, 9]}},
        {**add, "where": "generated"},
        {**add, "when": {"feature": 7, "autoencoder": "early", "above": 0.5}},
        None,
        {"op": "clamp", "features": [1, 9], "value": 20, "where": "prompt"},
    ]
    return [
        Wish(
            ids_of(12 + number, number),
            24,
            None if one is None else compiled(nameable, one),
            {"choosing": Choosing(temperature=number % 3 / 2, seed=str(number)), "watched": ((1, 7),)},
        )
        for number, one in enumerate(edits)
    ]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each sequence was read from its beginning."""
    begun: Counter[str] = Counter()
    original = PagedBatches.next

    def counted(batches: PagedBatches) -> list[Piece]:
        pieces = original(batches)
        begun.update(piece.key for piece in pieces if piece.start == 0)
        return pieces

    monkeypatch.setattr(PagedBatches, "next", counted)
    return begun


@pytest.mark.parametrize("steps_between", [0, 2])
def test_answers_that_are_put_out_for_want_of_room_go_on_as_if_nothing_had_happened(
    session: Session, wishes: list[Wish], steps_between: int, begun: Counter[str]
) -> None:
    with PagedEngine(session, len(wishes), SLOTS) as roomy:
        begun.clear()
        expected = answered(roomy, wishes, steps_between)
    times_read = begun.total()
    with PagedEngine(session, len(wishes), SLOTS, num_cached=64) as narrow:
        begun.clear()
        found = answered(narrow, wishes, steps_between)
    assert begun.total() > times_read
    assert tokens_of(found) == tokens_of(expected)
    for one, other in zip(found, expected, strict=True):
        seen, before = ([each.watched[0] for each in answer] for answer in (one, other))
        assert seen == pytest.approx(before, rel=1e-3, abs=1e-4)


def test_a_condition_that_has_fired_stays_so_for_an_answer_that_is_read_again(
    session: Session, nameable: Nameable, begun: Counter[str]
) -> None:
    when = {"feature": 7, "autoencoder": "early", "above": 0.2}
    edits = compiled(nameable, {"op": "add", "feature": 3, "strength": 25, "when": when})
    some = [Wish(ids_of(20, number), 24, edits) for number in range(5)]
    with PagedEngine(session, 5, SLOTS) as roomy:
        begun.clear()
        expected = [tokens_of(answered(roomy, [wish]))[0] for wish in some]
    times_read = begun.total()
    with PagedEngine(session, 5, SLOTS, num_cached=64) as narrow:
        begun.clear()
        assert tokens_of(answered(narrow, some)) == expected
    assert begun.total() > times_read
    assert expected != [generated(session.subject, wish.ids, 24) for wish in some]


def test_room_that_an_answer_leaves_when_it_is_stopped_is_for_those_that_wait(session: Session) -> None:
    some = [Wish(ids_of(30, number), 24).begun() for number in range(4)]
    with PagedEngine(session, 4, SLOTS, num_cached=64) as engine:
        engine.start(some)
        for _ in range(6):
            engine.step()
        engine.stop(some[0])
        engine.stop(some[3])
        while engine.running:
            engine.step()
    for generation in some[1:3]:
        assert generation.tokens == generated(session.subject, generation.prompt.ids, 24)


def test_an_answer_longer_than_all_of_the_cache_is_refused(session: Session) -> None:
    with (
        PagedEngine(session, 4, SLOTS, num_cached=48) as engine,
        pytest.raises(InputError, match="The prompt has 60 tokens, and 5 are to be generated: together more than"),
    ):
        engine.start([Wish(ids_of(60), 5).begun()])


def test_a_cache_larger_than_memory_is_refused(session: Session) -> None:
    with pytest.raises(ConfigError, match=r"A cache of 4,000,000,000,000 tokens does not fit .*give fewer rows"):
        PagedEngine(session, 4, SLOTS, num_cached=4_000_000_000_000)


def test_long_prompts_are_read_in_pieces_beside_answers_under_way(
    session: Session, nameable: Nameable, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [Wish(ids_of(length, length), 9) for length in (41, 3, 50, 17)]
    schedule = {"start": 1, "end": 0, "steps": 4}
    edits = compiled(nameable, {"op": "add", "feature": 3, "strength": 25, "schedule": schedule})
    some.append(Wish(ids_of(33), 9, edits))
    with PagedEngine(session, 5, SLOTS) as engine:
        expected = tokens_of(answered(engine, some))
    monkeypatch.setattr("mistudio.instrument.paged_batches._PASS_TOKENS", 11)
    with PagedEngine(session, 5, SLOTS) as engine:
        assert tokens_of(answered(engine, some)) == expected
        assert tokens_of(answered(engine, some, 2)) == expected
    assert expected[:4] == [generated(session.subject, wish.ids, 9) for wish in some[:4]]


@pytest.mark.parametrize("family", sorted(set(CAUSAL) - set(REFUSED)))
def test_without_edits_a_family_whose_attention_reads_pages_gives_what_generate_gives(family: str) -> None:
    session = session_of(family, [])
    wishes = [Wish(ids_of(length, length), 22) for length in (5, 14, 1)]
    with PagedEngine(session, 2, SLOTS) as engine:
        found = tokens_of(answered(engine, wishes, 3))
    assert found == [generated(session.subject, wish.ids, wish.limit) for wish in wishes]


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_whose_attention_cannot_read_pages_is_refused(family: str) -> None:
    with pytest.raises(SubjectError, match=r"cannot read a cache in pages.*Use the static engine"):
        PagedEngine(session_of(family, []), 2, SLOTS)


@pytest.mark.parametrize("family", ["gemma2", "gptj"])
def test_the_model_has_its_own_attention_back_behind_the_engine_and_while_it_judges(family: str) -> None:
    model, wish = subject_of(family).model, Wish(ids_of(9), 4)
    attention = model.config._attn_implementation
    assert attention == "eager"
    tokens = generated(subject_of(family), wish.ids, 4)
    if family == "gptj":
        with pytest.raises(SubjectError):
            PagedEngine(session_of(family, []), 2, SLOTS)
    else:
        with PagedEngine(session_of(family, []), 2, SLOTS) as engine:
            assert model.config._attn_implementation == "paged|eager"
            assert engine.judge(wish.begun().prompt, tokens).logits_TV.argmax(dim=-1).tolist() == tokens
            assert tokens_of(answered(engine, [wish])) == [tokens]
    assert model.config._attn_implementation == attention
    assert generated(subject_of(family), wish.ids, 4) == tokens


def test_making_an_engine_leaves_the_generator_of_the_process_alone(session: Session) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with PagedEngine(session, 2, SLOTS):
        assert torch.equal(torch.rand(4), expected)
