"""The record of who did what, on every kind of store: one chain, however many write to it at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mistudio.artifacts import actions, open_store, record_action, verify_actions
from tests.contract.test_store import FACTORIES


@pytest.fixture(params=FACTORIES)
def url(request: pytest.FixtureRequest) -> str:
    return FACTORIES[request.param](request)


def test_of_many_who_act_at_once_none_is_lost_and_all_are_in_one_chain(url: str) -> None:
    open_store(url)

    def act(number: int) -> str:
        return record_action(open_store(url), "publish", f"sae/{number}").name

    with ThreadPoolExecutor(6) as pool:
        names = list(pool.map(act, range(18)))
    store = open_store(url, "r")
    assert len(set(names)) == 18
    assert verify_actions(store)[:2] == ((), 18)
    assert {each.record["target"] for each in actions(store)} == {f"sae/{number}" for number in range(18)}


def test_a_record_that_was_changed_is_named(url: str) -> None:
    store = open_store(url)
    names = [record_action(store, "publish", f"sae/{number}").name for number in range(3)]
    content = store.read(names[1])
    store.remove(names[1])
    assert store.create(names[1], content.replace(b"sae/1", b"sae/9"))
    (problem,) = verify_actions(store).problems
    assert problem.startswith(names[1])
