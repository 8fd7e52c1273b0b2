from collections.abc import Callable

import pytest

from mistudio.errors import InputError
from mistudio.instrument.engine import Engine, Generation
from mistudio.instrument.paged import PagedEngine
from mistudio.instrument.session import Session
from mistudio.instrument.text_engine import TextEngine
from mistudio.instrument.where import plain_prompt
from mistudio.instrument.write_all import write_all
from mistudio.subject import Subject, SubjectConfig, load_subject
from tests.support.tiny import tiny_llama

TEXTS = ["the cat sat", "under the red tree and then", "a dog", "once the moon gave", "never again"]
LIMITS = [5, 1, 9, 3, 7]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return load_subject(tiny_llama(tmp_path_factory.mktemp("llama")), SubjectConfig(device="cpu"))


def generations(subject: Subject) -> list[Generation]:
    return [
        Generation(plain_prompt(subject.tokenizer(text)["input_ids"], frozenset()), limit)
        for text, limit in zip(TEXTS, LIMITS, strict=True)
    ]


@pytest.mark.parametrize("num_rows", [1, 2, 8])
@pytest.mark.parametrize("kind", [Engine, PagedEngine])
def test_more_answers_than_rows_are_written_as_each_alone(
    kind: Callable[[Session, int, int], TextEngine], num_rows: int, subject: Subject
) -> None:
    asked = generations(subject)
    with kind(Session(subject), num_rows, 64) as engine:
        written = list(write_all(engine, asked))
        assert not engine.running
        alone = generations(subject)
        for one in alone:
            list(write_all(engine, [one]))
    assert [one.tokens for one in asked] == [one.tokens for one in alone]
    assert [len(one.tokens) for one in asked] == LIMITS
    assert len(written) == sum(LIMITS)
    assert all([w.token for w in written if w.generation is one] == one.tokens for one in asked)


def test_an_answer_that_its_reader_ends_gives_its_row_to_the_next(subject: Subject) -> None:
    asked = generations(subject)
    with Engine(Session(subject), 1, 64) as engine:
        for written in write_all(engine, asked):
            if len(written.generation.tokens) == 2:
                engine.stop(written.generation)
    assert [len(one.tokens) for one in asked] == [min(limit, 2) for limit in LIMITS]


def test_nothing_is_written_where_nothing_is_asked_and_what_cannot_begin_is_an_error(subject: Subject) -> None:
    with Engine(Session(subject), 2, 64) as engine:
        assert list(write_all(engine, [])) == []
        long = Generation(plain_prompt([5] * 60, frozenset()), 10)
        with pytest.raises(InputError, match="more than the 64"):
            list(write_all(engine, [long]))
