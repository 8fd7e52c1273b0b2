"""Rates: a burst at once, then as many as come in, each key by itself."""

import pytest

from model_servers.base.rates import Rates


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_one_as_each_token_comes_in() -> None:
    clock = Clock()
    rates = Rates(per_minute=60, burst=3, clock=clock)
    assert [rates.wait_s("alice") for _ in range(3)] == [0, 0, 0]
    assert rates.wait_s("alice") == pytest.approx(1)
    clock.now += 0.4
    assert rates.wait_s("alice") == pytest.approx(0.6)
    clock.now += 0.6
    assert rates.wait_s("alice") == 0
    assert rates.wait_s("alice") == pytest.approx(1)


def test_a_bucket_holds_no_more_than_a_burst_however_long_nobody_asks() -> None:
    clock = Clock()
    rates = Rates(per_minute=60, burst=2, clock=clock)
    rates.wait_s("alice")
    clock.now += 3600
    assert [rates.wait_s("alice") for _ in range(3)] == [0, 0, pytest.approx(1)]


def test_keys_do_not_share_a_bucket() -> None:
    rates = Rates(per_minute=1, burst=1, clock=Clock())
    assert rates.wait_s("alice") == 0
    assert rates.wait_s("alice") > 0
    assert rates.wait_s("bob") == 0


def test_without_a_limit_nobody_waits() -> None:
    rates = Rates(per_minute=None, burst=1)
    assert {rates.wait_s("alice") for _ in range(100)} == {0}
