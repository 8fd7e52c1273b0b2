import threading
from typing import Any

from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.intake import INTAKE_OUTCOMES, Intake
from mistudio.monitor.traffic.joining import Joined
from tests.support.logged_events import event


def intake(now: list[float] | None = None, **changed: Any) -> Intake:
    clock = [0.0] if now is None else now
    return Intake(TrafficSettings(join_timeout_s=10, **changed), lambda: clock[0])


def put(intake: Intake, number: int, body: bytes = b"{}") -> None:
    for kind in ("request", "response"):
        assert intake.offer(event(kind, body, str(number)))  # type: ignore[arg-type]


def ids(found: Any) -> list[str]:
    return [each.first.id for each in found]


def test_whole_exchanges_come_out_in_the_order_in_which_they_were_joined() -> None:
    made = intake()
    made.offer(event("request", b"{}", "slow"))
    for number in range(3):
        put(made, number)
    made.offer(event("response", b"{}", "slow"))
    assert ids(made.take_many(10, 0)) == ["0", "1", "2", "slow"]
    assert made.take(0) is None


def test_a_full_queue_drops_whole_exchanges_the_oldest_first_and_counts_them() -> None:
    made = intake(max_queue=3)
    for number in range(10):
        put(made, number)
    assert ids(made.take_many(10, 0)) == ["7", "8", "9"]
    counts = made.counts()
    assert (counts["joined"], counts["dropped"], counts["taken"], counts["offered"]) == (10, 7, 3, 20)


def test_bytes_are_bounded_and_a_large_event_is_not_taken() -> None:
    made = intake(max_event_bytes=1024, max_waiting_bytes=4096, max_queue_bytes=8192)
    for number in range(20):
        put(made, number, b"x" * 1000)
        assert made.depth().queued_bytes <= 8192
    assert made.depth().queued == 2
    assert not made.offer(event("request", b"x" * 200_000, "large"))
    assert made.counts()["too_large"] == 1


def test_what_waits_for_its_other_half_is_let_go_when_somebody_takes() -> None:
    now = [0.0]
    made = intake(now)
    request = event("request", b"{}", "1")
    made.offer(request)
    assert made.depth().waiting == 1
    now[0] = 10.0
    assert made.take(0) == Joined(request, None)
    assert made.counts()["request_alone"] == 1


def test_at_the_end_what_waits_is_queued_and_nothing_more_is_taken() -> None:
    made = intake()
    made.offer(event("request", b"{}", "1"))
    made.close()
    assert ids(made.take_many(10, 5)) == ["1"]
    assert made.take(5) is None
    assert not made.offer(event("request", b"{}", "2"))
    assert made.counts()["refused"] == 1
    assert made.is_closed


def test_a_taker_that_waits_is_woken_by_the_exchange_and_by_the_end() -> None:
    made = Intake(TrafficSettings())
    found: list[str] = []

    def work() -> None:
        while joined := made.take(60):
            found.append(joined.first.id)

    thread = threading.Thread(target=work)
    thread.start()
    put(made, 1)
    put(made, 2)
    made.close()
    thread.join(30)
    assert not thread.is_alive()
    assert found == ["1", "2"]


def test_nothing_is_lost_uncounted_between_threads() -> None:
    made = Intake(TrafficSettings(max_queue=50, recent_ids=100_000))
    taken: list[str] = []

    def offer(part: int) -> None:
        for number in range(300):
            put(made, part * 1000 + number)

    def take() -> None:
        while joined := made.take(60):
            taken.append(joined.first.id)

    threads = [threading.Thread(target=offer, args=(part,)) for part in range(4)]
    taker = threading.Thread(target=take)
    for thread in (taker, *threads):
        thread.start()
    for thread in threads:
        thread.join(60)
    made.close()
    taker.join(60)
    counts = made.counts()
    assert set(counts) == set(INTAKE_OUTCOMES)
    assert counts["joined"] == 1200
    assert counts["taken"] == len(taken) == len(set(taken))
    assert counts["taken"] + counts["dropped"] == 1200
