"""The service that generates: requests from any thread, one thread that runs the model."""

import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mistudio.errors import Busy, ConfigError, Draining, InputError, NotFound, Unavailable
from mistudio.instrument import Session, open_session
from mistudio.instrument.compiled import Nameable, NamedDirection
from mistudio.instrument.edits import Edits
from mistudio.sae import TopKConfig
from mistudio.settings import validated
from mistudio.steer.audit import AuditLog
from mistudio.steer.audit_chain import Intervention
from mistudio.steer.audit_verify import verify_log
from mistudio.steer.callers import Caller
from mistudio.steer.config import ServiceConfig
from mistudio.steer.guard import GuardSettings
from mistudio.steer.preset_use import NamedEdits
from mistudio.steer.requests import Delta, Done, Event, Failed, Finished, GenerationRequest
from mistudio.steer.service import SteerService
from mistudio.subject import HookPoint, resolve_hooks
from tests.support.directions import random_directions
from tests.support.tiny import WIDTH
from tests.support.tiny_run import llama_run, publish_sae

UNKNOWN = {"op": "add", "feature": 4, "strength": 2.0, "unit": "feature_max"}
ADD = {"op": "add", "feature": 3, "strength": 40.0}
GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    run = llama_run(tmp_path_factory)
    made = random_directions(TopKConfig(width=64, k=6), WIDTH, None, seed=3)
    with open_session(publish_sae(run.store, made, run.activations), run.source) as opened:
        yield opened


@pytest.fixture(scope="module")
def service(session: Session) -> Iterator[SteerService]:
    maxima: Callable[[int], float | None] = {3: 2.0}.get
    with SteerService(Nameable(session, ["own"], [maxima]), "tiny", ServiceConfig(rows=4, queue=2)) as running:
        yield running


def request(**asked: object) -> GenerationRequest:
    return validated(GenerationRequest, {"prompt": "the cat", "max_tokens": 6, "ignore_eos": True, **asked})


def ask(service: SteerService, **asked: object) -> list[Event]:
    return list(service.events(service.prepare(request(**asked))))


def text_of(events: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


def ended(told: "queue.SimpleQueue[Event]") -> Event:
    """The next event that is a request's last."""
    while True:
        event = told.get(timeout=30)
        if isinstance(event, Done | Failed):
            return event


def idle(service: SteerService) -> bool:
    """Whether all rows are free, a little later at most."""
    for _ in range(200):
        if service.stats().rows_in_use == service.stats().waiting == 0:
            return True
        time.sleep(0.01)
    return False


def test_an_answer_comes_in_pieces_with_its_end_and_its_tokens(service: SteerService) -> None:
    events = ask(service, sampling=GREEDY, logprobs=2)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert sum(len(delta.token_ids) for delta in deltas) == 6
    assert all(delta.logprobs and len(delta.logprobs[0].top) == 2 for delta in deltas if delta.token_ids)
    assert events[-2] == Finished(0, "length")
    assert isinstance(events[-1], Done)
    assert events[-1].usage.completion_tokens == 6


def test_edits_change_the_answer_and_equal_requests_have_equal_answers(service: SteerService) -> None:
    plain, steered = (text_of(ask(service, sampling=GREEDY, steering=s)) for s in (None, {"edits": [ADD]}))
    assert plain != steered
    assert steered == text_of(ask(service, sampling=GREEDY, steering={"edits": [ADD]}))
    assert plain == text_of(ask(service, sampling=GREEDY, steering={"edits": []}))


def test_the_units_mean_the_same_strength(service: SteerService) -> None:
    half = {**ADD, "strength": 20.0, "unit": "feature_max"}  # of 2.0
    texts = {text_of(ask(service, sampling=GREEDY, steering={"edits": [edit]})) for edit in (ADD, half)}
    assert len(texts) == 1


def test_answers_of_one_request_differ_by_their_draws_and_come_again_with_the_seed(service: SteerService) -> None:
    asked = {"n": 3, "sampling": {"temperature": 2.0, "seed": 7}, "max_tokens": 8}
    one, two = ask(service, **asked), ask(service, **asked)
    texts = [text_of(one, index) for index in range(3)]
    assert len(set(texts)) == 3
    assert texts == [text_of(two, index) for index in range(3)]


def test_a_comparison_holds_both_answers_and_what_lies_between(service: SteerService) -> None:
    steering = {"edits": [ADD], "compare": True, "watch": [3]}
    done = ask(service, sampling=GREEDY, steering=steering)[-1]
    assert isinstance(done, Done)
    compared = done.comparison
    assert compared is not None
    assert compared.plain_text == text_of(ask(service, sampling=GREEDY))
    assert "".join(one.plain for one in compared.diff) == compared.plain_text
    assert len(compared.kl) == 6
    assert max(compared.kl) > 0
    assert compared.perplexity > compared.plain_perplexity
    assert compared.watched_plain is not None
    assert compared.dose["resid_post.1"] > 0


def test_without_an_edit_a_comparison_finds_no_difference(service: SteerService) -> None:
    zero = {**ADD, "strength": 0.0}
    done = ask(service, sampling={"temperature": 1.0, "seed": 3}, steering={"edits": [zero], "compare": True})[-1]
    assert isinstance(done, Done)
    assert done.comparison is not None
    assert [one.kind for one in done.comparison.diff] == ["same"]
    assert max(done.comparison.kl) == 0
    assert done.comparison.perplexity == done.comparison.plain_perplexity


def test_watched_features_are_reported_as_the_model_goes_on_with_them(service: SteerService) -> None:
    edit = {"op": "clamp", "feature": 3, "value": 50.0}
    events = ask(service, sampling=GREEDY, steering={"edits": [edit], "watch": [3, 5]})
    values = [event.watched[0] for event in events if isinstance(event, Delta) and event.watched]
    assert len(values) == 6
    assert all(value[0] == pytest.approx(50.0, rel=0.3) for value in values)


def test_a_stop_text_ends_an_answer_and_is_left_out(service: SteerService) -> None:
    whole = text_of(ask(service, sampling=GREEDY, max_tokens=12))
    stop = whole[4:6]
    events = ask(service, sampling=GREEDY, max_tokens=12, stop=[stop])
    assert text_of(events) == whole[: whole.index(stop)]
    assert events[-2] == Finished(0, "stop")
    assert idle(service)


def test_a_feature_that_fires_ends_the_answer_and_is_named(service: SteerService) -> None:
    clamp = {"op": "clamp", "feature": 3, "value": 9.0, "where": {"window": [2, 9]}}
    stopping = {"edits": [clamp], "stop_when": [{"feature": 9, "above": 0.0}]}
    events = ask(service, sampling=GREEDY, steering=stopping, max_tokens=14)
    ends = [event for event in events if isinstance(event, Finished)]
    assert ends[0].reason in ("stop", "length")
    if ends[0].reason == "stop":
        assert ends[0].detail == "feature 9 above 0"


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"prompt": ""}, None, None),
        ({"prompt": []}, InputError, "empty"),
        ({"prompt": [99999]}, InputError, "no token 99999"),
        ({"max_tokens": 100_000}, InputError, "room for"),
        ({"n": 5}, InputError, "generates 4"),
        ({"sampling": {"logit_bias": {99999: 1}}}, InputError, "logit_bias"),
        ({"steering": {"edits": [{**ADD, "feature": 64}]}}, NotFound, "no feature 64"),
        ({"steering": {"edits": [{**ADD, "autoencoder": "other"}]}}, NotFound, "no autoencoder 'other'"),
        (
            {"steering": {"edits": [UNKNOWN]}},
            InputError,
            "feature 4 is not known",
        ),
        ({"steering": {"edits": [{**ADD, "unit": "relative"}]}}, ConfigError, r"edits\[0\]\.strength.*at most 2"),
        ({"steering": {"preset": "calm"}}, NotFound, "no preset .calm"),
        ({"steering": {"watch": [64]}}, NotFound, "no feature 64"),
        ({"steering": {"edits": [ADD], "compare": True}, "n": 2}, InputError, "leave out n"),
        ({"messages": [{"role": "user", "content": "hi"}], "prompt": None}, InputError, "chat-template"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    service: SteerService, asked: dict[str, object], error: type[Exception] | None, said: str | None
) -> None:
    if error is None:
        assert isinstance(ask(service, **asked)[-1], Done)  # the token that begins a text is prompt enough
        return
    with pytest.raises(error, match=said):
        service.prepare(request(**asked))


def test_an_answer_whose_numbers_are_no_longer_finite_is_ended_and_says_so(service: SteerService) -> None:
    prepared = service.prepare(request(logprobs=2, steering={"edits": [ADD], "compare": True, "watch": [3]}))
    assert prepared.edits is not None
    (term,) = prepared.edits.terms
    endless = replace(prepared.edits, terms=(replace(term, vector_D=term.vector_D * math.inf),))
    *_, finished, done = service.events(replace(prepared, edits=endless))
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.detail) == ("content_filter", "the model's numbers are no longer finite")
    assert isinstance(done, Done)
    assert done.comparison is not None
    assert math.isnan(done.comparison.perplexity)
    assert done.usage.completion_tokens == 0


def test_a_request_that_is_not_understood_names_the_field() -> None:
    with pytest.raises(ConfigError, match="strength: field required"):
        request(steering={"edits": [{"op": "add", "feature": 1}]})
    with pytest.raises(ConfigError, match="top_k"):
        request(sampling={"top_k": 10**400})
    with pytest.raises(ConfigError, match="strength.*1000000000"):
        request(steering={"edits": [{**ADD, "strength": 1e300}]})


def test_more_requests_than_may_wait_are_refused_and_rows_come_free_again(service: SteerService) -> None:
    long = service.prepare(request(n=4, max_tokens=40))
    finished = threading.Semaphore(0)

    def tell(event: Event) -> None:
        if isinstance(event, Done | Failed):
            finished.release()

    taken, refused = 0, list[Busy]()
    for _ in range(6):
        try:
            service.submit(long, tell)
        except Busy as error:
            refused.append(error)
        else:
            taken += 1
    assert refused
    assert refused[0].retry_after_s >= 1
    for _ in range(taken):
        assert finished.acquire(timeout=60)
    assert idle(service)


def test_who_leaves_frees_the_rows(service: SteerService) -> None:
    events = service.events(service.prepare(request(n=4, max_tokens=100)))
    assert isinstance(next(events), Delta)
    before = service.stats().cancelled
    events.close()  # type: ignore[attr-defined]
    assert idle(service)
    assert service.stats().cancelled == before + 1
    assert service.stats().generated_tokens < 10_000


def test_requests_side_by_side_have_the_answers_that_each_has_alone(service: SteerService) -> None:
    asked = [
        {"prompt": prompt, "sampling": {"temperature": 1.0, "seed": number}, "steering": steering}
        for number, (prompt, steering) in enumerate(
            [("the cat", None), ("a dog ran and", {"edits": [ADD]}), ("", None), ("moon", {"edits": [ADD]})] * 2
        )
    ]
    alone = [text_of(ask(service, **one)) for one in asked]
    found: dict[int, str] = {}

    def one(number: int) -> None:
        for _ in range(100):
            try:
                found[number] = text_of(ask(service, **asked[number]))
            except Busy:
                time.sleep(0.02)
            else:
                return

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(asked))] == alone


def test_a_service_that_drains_finishes_what_it_has_and_takes_nothing_new(session: Session) -> None:
    service = SteerService(Nameable(session), "tiny", ServiceConfig(rows=2))
    service.start()
    told: list[Event] = []
    service.submit(service.prepare(request(max_tokens=30)), told.append)
    assert service.drain(60)
    assert isinstance(told[-1], Done)
    with pytest.raises(Draining):
        service.submit(service.prepare(request()), told.append)
    service.close()


def test_a_service_that_is_closed_fails_what_was_under_way(session: Session) -> None:
    service = SteerService(Nameable(session), "tiny", ServiceConfig(rows=1))
    service.start()
    told: list[list[Event]] = [[], []]
    for events in told:
        service.submit(service.prepare(request(max_tokens=90)), events.append)
    service.close()
    assert all(isinstance(events[-1], Failed) for events in told)


def test_a_steered_answer_that_goes_round_in_a_loop_is_ended_and_says_so(session: Session) -> None:
    guard = GuardSettings(loop_tokens=8, loop_times=2, max_perplexity=None)
    with SteerService(Nameable(session), "tiny", ServiceConfig(rows=2, guard=guard)) as guarded:
        loop = {"sampling": {"temperature": 0, "logit_bias": {65: 100}}, "max_tokens": 40}
        steered = ask(guarded, **loop, steering={"edits": [ADD]})
        (end,) = (event for event in steered if isinstance(event, Finished))
        assert (end.reason, end.detail) == ("content_filter", "repetition: the same 1 token again and again")
        assert sum(len(event.token_ids) for event in steered if isinstance(event, Delta)) == 8
        (end,) = (event for event in ask(guarded, **loop) if isinstance(event, Finished))
        assert end.reason == "length"  # nobody steered it
        assert guarded.stats().collapsed == 1


def test_an_answer_that_the_model_as_it_is_finds_absurd_is_ended(session: Session) -> None:
    guard = GuardSettings(loop_tokens=None, distinct=None, max_perplexity=1.5, perplexity_window=8)
    with SteerService(Nameable(session), "tiny", ServiceConfig(rows=2, guard=guard)) as guarded:
        asked = {"sampling": {"temperature": 2.0, "seed": 1}, "max_tokens": 30}
        (end,) = (event for event in ask(guarded, **asked, steering={"edits": [ADD]}) if isinstance(event, Finished))
        assert end.reason == "content_filter"
        assert "perplexity" in str(end.detail)


@pytest.mark.parametrize(
    ("steering", "said"),
    [
        ({"preset": "steep", "preset_strength": 500}, "preset_strength: by 500 .*start"),
        ({"preset": "watchful", "stop_when": [{"feature": 2}]}, "with what the preset holds, .*64"),
    ],
)
def test_what_a_preset_cannot_become_is_refused_by_name(
    session: Session, steering: dict[str, object], said: str
) -> None:
    steep = {"op": "add", "feature": 9, "strength": 1e-3, "schedule": {"start": 10}}
    presets = {
        "steep": NamedEdits(Edits.model_validate({"edits": [steep]})),
        "watchful": NamedEdits(Edits.model_validate({"stop_when": [{"feature": 1}] * 64})),
    }
    with_presets = SteerService(Nameable(session), "tiny", ServiceConfig(rows=2), presets=presets.__getitem__)
    with pytest.raises(InputError, match=said):
        with_presets.prepare(request(steering=steering))


def test_a_comparison_that_fails_is_told_and_harms_no_other(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(*_asked: object) -> None:
        message = "not enough memory"
        raise RuntimeError(message)

    with SteerService(Nameable(session), "tiny", ServiceConfig(rows=4)) as served:
        monkeypatch.setattr(served.engine, "judge", no_memory)
        told: tuple[queue.SimpleQueue[Event], ...] = (queue.SimpleQueue(), queue.SimpleQueue())
        served.submit(served.prepare(request(max_tokens=30)), told[0].put)
        served.submit(served.prepare(request(steering={"edits": [ADD], "compare": True})), told[1].put)
        plain, compared = map(ended, told)
        assert idle(served)
    assert isinstance(compared, Failed)
    assert isinstance(plain, Done)
    assert "could not be compared" in caplog.text


def test_a_request_that_cannot_be_started_harms_no_other(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with SteerService(Nameable(session), "tiny", ServiceConfig(rows=4)) as served:
        good, bad = served.prepare(request()), served.prepare(request(steering={"edits": [ADD]}))
        assert bad.edits is not None
        (term,) = bad.edits.terms
        bad = replace(bad, edits=replace(bad.edits, terms=(replace(term, vector_D=torch.zeros(3)),)))
        told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        with served._changed:  # so that all three are let in together
            for each in (good, bad, good):
                served.submit(each, told.put)
        last = [ended(told) for _ in range(3)]
    assert sorted(type(event).__name__ for event in last) == ["Done", "Done", "Failed"]
    assert "could not be started" in caplog.text


def test_edits_along_one_direction_count_together_whatever_they_call_it(session: Session) -> None:
    (hook,) = resolve_hooks(session.subject, [HookPoint("resid_post", 0)])
    one, other = (NamedDirection(hook, torch.ones(WIDTH), digest) for digest in "12")
    saved = {"calm": one, "direction/1": one, "kind": other}
    served = SteerService(Nameable(session, directions=lambda name: saved[name]), "tiny", ServiceConfig(rows=2))

    def along(*names: str) -> GenerationRequest:
        edits = [{"op": "add", "direction": name, "strength": 1.5, "unit": "relative"} for name in names]
        return request(steering={"edits": edits})

    served.prepare(along("calm", "kind"))
    with pytest.raises(ConfigError, match=r"edits\[1\]\.strength.*together with the edits before it 3"):
        served.prepare(along("calm", "direction/1"))


def test_a_direction_that_is_saved_anew_is_the_one_that_acts(session: Session) -> None:
    (hook,) = resolve_hooks(session.subject, [HookPoint("resid_post", 0)])
    one_D, other_D = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1))
    saved = {"calm": NamedDirection(hook, one_D, "1")}
    steering = {"edits": [{"op": "add", "direction": "calm", "strength": 20.0}]}
    with SteerService(Nameable(session, directions=lambda name: saved[name]), "tiny", ServiceConfig(rows=2)) as served:
        first = text_of(ask(served, sampling=GREEDY, steering=steering))
        saved["calm"] = NamedDirection(hook, other_D, "2")
        second = text_of(ask(served, sampling=GREEDY, steering=steering))
        saved["calm"] = NamedDirection(hook, one_D, "1")
        assert text_of(ask(served, sampling=GREEDY, steering=steering)) == first
    assert second != first


def test_a_preset_acts_beside_the_requests_own_edits(session: Session, service: SteerService) -> None:
    other = {"op": "add", "feature": 9, "strength": 30.0}
    presets = {"calm": NamedEdits(Edits.model_validate({"edits": [other]}), (-0.5, 1.5))}
    with SteerService(Nameable(session), "tiny", ServiceConfig(rows=2), presets=presets.__getitem__) as with_presets:
        named = text_of(ask(with_presets, sampling=GREEDY, steering={"edits": [ADD], "preset": "calm"}))
        half = ask(with_presets, sampling=GREEDY, steering={"preset": "calm", "preset_strength": 0.5})
        twice = ask(with_presets, sampling=GREEDY, steering={"preset": "calm", "preset_strength": 2})
    assert named == text_of(ask(service, sampling=GREEDY, steering={"edits": [ADD, other]}))
    assert text_of(half) == text_of(ask(service, sampling=GREEDY, steering={"edits": [{**other, "strength": 15.0}]}))
    assert [event.warnings for event in half if isinstance(event, Finished)] == [()]
    (warnings,) = (event.warnings for event in twice if isinstance(event, Finished))
    assert "outside -0.5 to 1.5" in warnings[0]


def test_every_request_that_changes_the_model_is_in_the_log_before_and_after(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "interventions.jsonl"
    with SteerService(Nameable(session), "tiny", ServiceConfig(rows=2), audit=AuditLog(path)) as logged:
        ask(logged)
        prepared = logged.prepare(request(steering={"edits": [ADD]}))
        told: list[Event] = []
        logged.submit(prepared, told.append, Caller("request-1", "alice"))
        assert logged.drain(60)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    records = [line for line in lines if line["record"] == "intervention"]
    assert [(one["request"], one["key"], one["outcome"]) for one in records] == [
        ("request-1", "alice", "admitted"),
        ("request-1", "alice", "length"),
    ]
    assert records[0]["edits"][0]["features"] == [3]
    assert "the cat" not in path.read_text()
    assert verify_log(path).state == "intact"


def test_a_request_that_comes_while_the_service_closes_is_refused_and_logged(session: Session, tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "interventions.jsonl")
    closing = SteerService(Nameable(session), "tiny", ServiceConfig(rows=2), audit=log)
    prepared, append = closing.prepare(request(steering={"edits": [ADD]})), log.append

    def slowly(intervention: Intervention) -> str:
        found = append(intervention)
        if intervention.outcome == "admitted":
            closing.close()
        return found

    log.append = slowly  # type: ignore[method-assign]
    with pytest.raises(Draining):
        closing.submit(prepared, print)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["outcome"] for line in lines if "outcome" in line] == ["admitted", "refused"]


def test_where_the_log_cannot_be_written_nothing_is_steered(session: Session, tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "interventions.jsonl")
    with SteerService(Nameable(session), "tiny", ServiceConfig(rows=2), audit=log) as logged:
        log.path.unlink()
        log.path.mkdir()
        with pytest.raises(Unavailable, match="nothing is steered"):
            ask(logged, steering={"edits": [ADD]})
        assert isinstance(ask(logged)[-1], Done)


@pytest.mark.parametrize("engine", ["static", "paged"])
def test_both_engines_give_the_same_answers(session: Session, service: SteerService, engine: str) -> None:
    asked = {"sampling": {"temperature": 1.0, "seed": 5, "top_p": 0.9}, "steering": {"edits": [ADD]}}
    config = validated(ServiceConfig, {"rows": 2, "engine": engine})
    with SteerService(Nameable(session), "tiny", config) as other:
        assert text_of(ask(other, **asked)) == text_of(ask(service, **asked))


def test_limits_on_an_autoencoder_that_is_not_served_keep_a_service_from_starting(session: Session) -> None:
    config = validated(ServiceConfig, {"rows": 2, "limits": {"deny": {"sae/other": [3]}}})
    with pytest.raises(NotFound, match="no autoencoder 'sae/other'"):
        SteerService(Nameable(session), "tiny", config)


def test_a_template_that_hides_whose_words_are_whose_is_told(session: Session) -> None:
    template = "{% for m in messages %}{{ m.content | upper | reverse }}{% endfor %}"
    messages = [{"role": "user", "content": "the cat"}]
    with SteerService(Nameable(session), "tiny", ServiceConfig(rows=2), template) as service:
        told = ask(service, prompt=None, messages=messages, steering={"edits": [ADD]})
    (warnings,) = (event.warnings for event in told if isinstance(event, Finished))
    assert "where.specials" in warnings[0]
