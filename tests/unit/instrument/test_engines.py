"""What every engine that generates has to hold, whichever back end it is: one suite for both."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
import transformers as tf
from transformers.models.llama.modeling_llama import LlamaMLP

from mistudio.errors import InputError, SubjectError
from mistudio.instrument.compiled import Nameable
from mistudio.instrument.sampling import Choosing
from mistudio.instrument.session import Session
from mistudio.instrument.text_engine import TextEngine
from mistudio.subject import run_captured
from tests.support.families import CAUSAL, random_model
from tests.support.generating import (
    BACK_ENDS,
    SPECIAL,
    Wish,
    answered,
    compiled,
    fresh_subject,
    generated,
    ids_of,
    loud_subject,
    nameable_of,
    session_of,
    tokens_of,
)

pytestmark = pytest.mark.usefixtures("_little_to_collect")
Make = Callable[..., TextEngine]
ROWS, SLOTS = 6, 64
EDITS: dict[str, list[dict[str, object]]] = {
    "add": [{"op": "add", "feature": 3, "strength": 20}],
    "add, of the largest": [{"op": "add", "feature": 7, "strength": 2, "unit": "feature_max", "autoencoder": "early"}],
    "add, relative": [{"op": "add", "feature": 9, "strength": 0.7, "unit": "relative", "autoencoder": "late"}],
    "direction": [{"op": "add", "direction": "calm", "strength": -1}],
    "clamp": [{"op": "clamp", "feature": 4, "value": 9}],
    "clamp, several": [{"op": "clamp", "features": [1, 2, 5, 8], "value": 30, "autoencoder": "late"}],
    "scale": [{"op": "scale", "features": list(range(64)), "factor": 2.5}],
    "ablate": [{"op": "ablate", "features": list(range(64)), "autoencoder": "late"}],
    "cap": [{"op": "cap", "features": list(range(64)), "value": 0.2}],
    "cap of a direction": [{"op": "cap", "direction": "calm", "value": -2.0}],
    "schedule": [{"op": "add", "feature": 11, "strength": 8, "schedule": {"start": 1, "end": 0, "steps": 6}}],
    "prompt": [{"op": "add", "feature": 12, "strength": 9, "where": "prompt"}],
    "generated": [{"op": "add", "feature": 13, "strength": 9, "where": "generated"}],
    "positions": [{"op": "add", "feature": 14, "strength": 15, "where": {"positions": [1, -1, 12]}}],
    "window": [{"op": "add", "feature": 15, "strength": 12, "where": {"window": [2, 5]}}],
    "exclusion": [{"op": "add", "feature": 16, "strength": 9, "where": {"exclude": {"positions": [0, 3, 11]}}}],
    "specials": [{"op": "add", "feature": 17, "strength": 9, "where": {"specials": True}}],
    "lasting": [{"op": "add", "feature": 18, "strength": 9, "when": {"feature": 20, "above": 0.4}}],
    "lasting, later in the model": [
        {
            "op": "add",
            "feature": 18,
            "strength": 9,
            "autoencoder": "early",
            "when": {"feature": 3, "autoencoder": "late"},
        }
    ],
    "on firing tokens": [
        {"op": "clamp", "feature": 19, "value": 40, "when": {"feature": 20, "above": 0.1, "lasting": False}}
    ],
    "chained conditions": [
        {"op": "add", "feature": 1, "strength": 9, "autoencoder": "late", "when": {"feature": 30, "above": 0.3}},
        {"op": "add", "feature": 2, "strength": -9, "when": {"feature": 3, "above": 0.5, "autoencoder": "early"}},
    ],
    "several autoencoders": [
        {"op": "add", "feature": 5, "strength": 4},
        {"op": "ablate", "features": [1, 2, 3, 4], "autoencoder": "late"},
        {"op": "clamp", "feature": 6, "value": 5, "autoencoder": "early", "where": "generated"},
    ],
    "one feature twice": [
        {"op": "clamp", "feature": 4, "value": 9, "where": "prompt"},
        {"op": "clamp", "feature": 4, "value": -5, "where": "generated"},
    ],
}


@pytest.fixture(scope="module")
def session() -> Session:
    return session_of("llama")


@pytest.fixture(scope="module")
def nameable(session: Session) -> Nameable:
    return nameable_of(session)


@pytest.fixture(scope="module", params=sorted(BACK_ENDS))
def make(request: pytest.FixtureRequest) -> Make:
    return BACK_ENDS[request.param]


@pytest.fixture(scope="module")
def engine(make: Make, session: Session) -> Iterator[TextEngine]:
    """One engine for all tests, which leave nothing under way."""
    with make(session, num_rows=ROWS, num_slots=SLOTS) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "engine" in request.fixturenames:
        engine: TextEngine = request.getfixturevalue("engine")
        left = list(engine.running)
        for generation in left:
            engine.stop(generation)
        assert not left


@pytest.fixture(scope="module")
def wishes(nameable: Nameable) -> list[Wish]:
    """An answer with each kind of edit and two without, of prompts of many lengths with special tokens among them."""
    found = [Wish(ids_of(17), 14)]
    for number, edits in enumerate(EDITS.values()):
        ids = list(ids_of(3 + 5 * number % 23, number))
        ids[number % len(ids)] = SPECIAL
        found.append(Wish(tuple(ids), 10 + number % 5, compiled(nameable, *edits)))
    return [*found, Wish(ids_of(2, 9), 20)]


@pytest.fixture(scope="module")
def alone(session: Session, wishes: list[Wish]) -> dict[str, list[list[int]]]:
    """The tokens of each answer that has the engine to itself, by back end."""
    found = {}
    for name, make in BACK_ENDS.items():
        with make(session, num_rows=1, num_slots=SLOTS) as engine:
            found[name] = [tokens_of(answered(engine, [wish]))[0] for wish in wishes]
    return found


@pytest.mark.parametrize("steps_between", [0, 1, 3])
def test_without_edits_a_batch_gives_what_generate_gives_for_each_prompt(
    engine: TextEngine, session: Session, steps_between: int
) -> None:
    wishes = [Wish(ids_of(length, length), 25) for length in (1, 3, 9, 20, 33, 7, 2, 15)]
    found = tokens_of(answered(engine, wishes, steps_between))
    assert found == [generated(session.subject, wish.ids, wish.limit) for wish in wishes]


@pytest.mark.parametrize("steps_between", [0, 2])
def test_each_answer_of_a_mixed_batch_is_the_one_it_has_alone(
    make: Make,
    session: Session,
    wishes: list[Wish],
    alone: dict[str, list[list[int]]],
    steps_between: int,
    request: pytest.FixtureRequest,
) -> None:
    with make(session, num_rows=len(wishes), num_slots=SLOTS) as engine:
        found = tokens_of(answered(engine, wishes, steps_between))
    expected = alone[request.node.callspec.params["make"]]
    assert dict(zip(["plain", *EDITS, "plain too"], found, strict=True)) == dict(
        zip(["plain", *EDITS, "plain too"], expected, strict=True)
    )


def test_both_back_ends_give_the_same_answers(alone: dict[str, list[list[int]]]) -> None:
    assert alone["static"] == alone["paged"]


def test_each_kind_of_edit_changes_the_answer(
    session: Session, wishes: list[Wish], alone: dict[str, list[list[int]]]
) -> None:
    plain = [generated(session.subject, wish.ids, wish.limit) for wish in wishes]
    same = [one == other for one, other in zip(plain, alone["static"], strict=True)]
    named = dict(zip(["plain", *EDITS, "plain too"], same, strict=True))
    assert [name for name, is_same in named.items() if is_same] == ["plain", "plain too"]


def test_an_answer_without_edits_has_the_very_logits_of_the_model_untouched(
    make: Make, engine: TextEngine, nameable: Nameable
) -> None:
    plain = Wish(ids_of(17), 14, more={"alternatives": 61})
    steered = [Wish(ids_of(9 + n, n), 14, compiled(nameable, *EDITS[name])) for n, name in enumerate(("add", "clamp"))]
    beside = [wish._replace(edits=None) for wish in steered]
    with make(Session(fresh_subject("llama")), num_rows=ROWS, num_slots=SLOTS) as untouched:
        expected = answered(untouched, [plain, *beside])[0], answered(untouched, [plain])[0]
    found = answered(engine, [plain, *steered])[0], answered(engine, [plain])[0]
    for answer, untouched_answer in zip(found, expected, strict=True):
        assert [one.alternatives for one in answer] == [one.alternatives for one in untouched_answer]


def test_what_is_judged_without_edits_are_the_very_logits_of_the_model(engine: TextEngine) -> None:
    untouched, wish = fresh_subject("llama"), Wish(ids_of(9))
    tokens = generated(untouched, wish.ids, 6)
    with torch.inference_mode():
        logits_TV = untouched.model(torch.tensor([[*wish.ids, *tokens]])).logits[0, len(wish.ids) - 1 : -1]
    judged = engine.judge(wish.begun().prompt, tokens)
    assert torch.equal(judged.logits_TV, logits_TV)
    assert judged.dose == {}


@pytest.mark.parametrize(
    "name", ["add", "clamp", "schedule", "window", "add, relative", "lasting", "on firing tokens", "chained conditions"]
)
def test_what_is_judged_with_edits_are_the_logits_that_the_answer_was_made_from(
    engine: TextEngine, nameable: Nameable, name: str
) -> None:
    edits = compiled(nameable, *EDITS[name])
    wish = Wish(ids_of(9), 10, edits, {"alternatives": 3})
    (answer,) = answered(engine, [wish])
    judged = engine.judge(wish.begun().prompt, [one.token for one in answer], edits)
    assert judged.logits_TV.argmax(dim=-1).tolist() == [one.token for one in answer]
    logprob_TV = torch.log_softmax(judged.logits_TV, dim=-1)
    chosen = torch.tensor([one.logprob for one in answer])
    torch.testing.assert_close(logprob_TV.max(dim=-1).values, chosen, rtol=1e-4, atol=1e-4)
    assert set(judged.dose) == {str(point) for point in edits.hooks}
    assert all(value > 0 for value in judged.dose.values())


def test_what_is_drawn_with_a_seed_does_not_depend_on_the_batch(
    engine: TextEngine, session: Session, nameable: Nameable
) -> None:
    def drawn(seed: str, **more: object) -> Wish:
        choosing = Choosing(temperature=1.3, seed=seed, **more)
        return Wish(ids_of(9), 20, more={"choosing": choosing})

    some = [drawn("a"), drawn("b"), drawn("a", top_k=7), drawn("a", top_p=0.6), drawn("a", min_p=0.2)]
    some.append(drawn("a")._replace(edits=compiled(nameable, *EDITS["add"])))
    alone = [tokens_of(answered(engine, [wish]))[0] for wish in some]
    assert tokens_of(answered(engine, some)) == alone
    assert tokens_of(answered(engine, [*some, Wish(ids_of(31, 2), 20)], 2))[:-1] == alone
    assert len({tuple(tokens) for tokens in alone}) == len(alone)


def test_several_answers_to_one_prompt_have_draws_of_their_own(engine: TextEngine) -> None:
    some = [Wish(ids_of(20), 8, more={"choosing": Choosing(temperature=1.5, seed=str(n))}) for n in range(4)]
    together = tokens_of(answered(engine, some))
    assert together == [tokens_of(answered(engine, [wish]))[0] for wish in some]
    assert len({tuple(tokens) for tokens in together}) == len(together)


def test_bias_likeliest_tokens_and_ends_are_as_asked_for(engine: TextEngine, session: Session) -> None:
    ids = ids_of(9)
    plain = generated(session.subject, ids, 8)
    with torch.inference_mode():
        logprob_V = session.subject.model(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
    told, biased, ended = answered(
        engine,
        [
            Wish(ids, 8, more={"alternatives": 4}),
            Wish(ids, 8, more={"choosing": Choosing(bias={44: 1e4}), "alternatives": 0}),
            Wish(ids, 8, more={"ends": frozenset({plain[3]})}),
        ],
    )
    best = logprob_V.topk(4)
    assert [token for token, _ in told[0].alternatives] == best.indices.tolist()
    assert [value for _, value in told[0].alternatives] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert told[0].logprob == pytest.approx(float(best.values[0]), abs=1e-4)
    assert [one.token for one in biased] == [44] * 8
    assert all(one.alternatives == () and one.logprob == pytest.approx(0, abs=1e-4) for one in biased)
    assert [one.token for one in ended] == plain[: plain.index(plain[3]) + 1]
    assert [one.finish for one in (told[-1], biased[-1], ended[-1])] == ["length", "length", "stop"]
    assert all(one.logprob is None and one.finish is None for one in ended[:-1])


def test_a_stopped_answer_frees_its_row_and_leaves_the_others_as_they_are(make: Make, session: Session) -> None:
    first, second, third = (Wish(ids_of(length, length), 20).begun() for length in (30, 9, 12))
    with make(session, num_rows=2, num_slots=SLOTS) as engine:
        engine.start([first, second])
        engine.step()
        with pytest.raises(InputError, match="1 answers were to be started, and 0 rows are free"):
            engine.start([third])
        engine.stop(first)
        engine.stop(first)
        assert engine.free_rows == 1
        assert list(engine.running) == [second]
        seen = len(first.tokens)
        engine.start([third])
        while engine.running:
            engine.step()
        assert engine.free_rows == 2
        assert engine.step() == []
        assert engine.start([]) == []
    assert len(first.tokens) == seen
    for generation in (second, third):
        assert generation.tokens == generated(session.subject, generation.prompt.ids, 20)


def test_an_edit_that_does_not_act_is_an_error_and_leaves_no_trace(
    engine: TextEngine, session: Session, nameable: Nameable
) -> None:
    add = {"op": "add", "feature": 7, "strength": 5, "autoencoder": "early"}
    early = compiled(nameable, add)
    wishes = [Wish(ids_of(9), 12, early), Wish(ids_of(14, 1), 12)]
    expected = tokens_of(answered(engine, wishes))
    # What has a condition is read by itself, after the shorter one, whose first token is there by then.
    fails = compiled(nameable, add, {**add, "when": {"feature": 3}})
    under_way, others = [wish.begun() for wish in wishes], [Wish(ids_of(2)).begun(), Wish(ids_of(5), 9, fails).begun()]
    engine.start(under_way)
    engine.step()
    block = session.subject.blocks[0]
    hooked = block.mlp
    block.mlp = LlamaMLP(session.subject.model.config).eval()  # no hook of ours sits here
    try:
        with pytest.raises(SubjectError, match=r"at mlp_out.0 did not act: the forward pass never came by"):
            engine.step()
        with pytest.raises(SubjectError, match=r"at mlp_out.0 did not act"):
            engine.start(others)
    finally:
        block.mlp = hooked
    assert [other.tokens for other in others] == [[], []]
    assert list(engine.running) == under_way
    while engine.running:
        engine.step()
    assert [generation.tokens for generation in under_way] == expected


def test_what_cannot_be_generated_is_refused(engine: TextEngine) -> None:
    for ids, limit, said in [
        ((), 5, "The prompt is empty"),
        ((3, 61), 5, "There is no token 61: the model knows 61"),
        (ids_of(50), 15, "The prompt has 50 tokens, and 15 are to be generated: together more than the 64"),
    ]:
        with pytest.raises(InputError, match=said):
            engine.check(Wish(ids, limit).begun())
        with pytest.raises(InputError, match=said):
            engine.start([Wish((4, 5), 3).begun(), Wish(ids, limit).begun()])
    assert engine.free_rows == engine.num_rows
    engine.check(Wish(ids_of(50), 14).begun())


def test_equal_beginnings_do_not_leak_what_one_of_them_was_steered_with(
    engine: TextEngine, session: Session, nameable: Nameable
) -> None:
    ids = ids_of(40, 4)
    prompt = compiled(nameable, {"op": "add", "direction": "calm", "strength": 4, "where": "prompt"})
    late = compiled(nameable, {"op": "add", "direction": "calm", "strength": 4, "where": {"positions": [-1]}})
    some = [Wish(ids, 12, prompt), Wish(ids, 12), Wish(ids, 12, late), Wish((*ids[:35], *ids_of(5, 8)), 12, prompt)]
    alone = [tokens_of(answered(engine, [wish]))[0] for wish in some]
    assert alone[1] == generated(session.subject, ids, 12)
    assert len({tuple(tokens) for tokens in alone}) == len(alone)
    assert tokens_of(answered(engine, some)) == alone
    assert tokens_of(answered(engine, some, 2)) == alone
    assert tokens_of(answered(engine, some[::-1], 1)) == alone[::-1]


def test_watched_features_are_those_of_the_tokens_that_were_predicted_from(
    engine: TextEngine, session: Session, nameable: Nameable
) -> None:
    watched = ((0, 5), (0, 20), (1, 7), (2, 9))
    wish = Wish(ids_of(12), 10, more={"watched": watched})
    answer, _ = answered(engine, [wish, Wish(ids_of(3), 14, compiled(nameable, *EDITS["clamp"]))])
    ids = [*wish.ids, *(one.token for one in answer)]
    for place, (number, latent) in enumerate(watched):
        value_T = values_of(session, number, ids)[:, latent]
        seen = torch.tensor([one.watched[place] for one in answer])
        torch.testing.assert_close(seen, value_T[len(wish.ids) - 1 : -1], rtol=1e-3, atol=1e-4)
    assert all(one.watched is None for one in answered(engine, [wish._replace(more={})])[0])


def test_watched_features_are_read_behind_the_edits(engine: TextEngine, nameable: Nameable) -> None:
    add = compiled(nameable, {"op": "add", "feature": 7, "strength": 50, "autoencoder": "early", "where": "generated"})
    (answer,) = answered(engine, [Wish(ids_of(12), 6, add, {"watched": ((1, 7),)})])
    assert answer[0].watched[0] < 10
    assert all(one.watched[0] > 40 for one in answer[1:])


def test_a_feature_that_fires_on_the_answer_ends_it_before_the_next_token(
    engine: TextEngine, nameable: Nameable
) -> None:
    # What is watched is read on the token from which the next one is predicted.
    wish = Wish(ids_of(12), 16, more={"watched": ((1, 7),)})
    (plain,) = answered(engine, [wish])
    values = [one.watched[0] for one in plain]
    highest = max(range(2, 15), key=values.__getitem__)
    above = max([*values[1:highest], 0.0])
    assert values[highest] > above
    stops = compiled(nameable, stop_when=[{"feature": 7, "autoencoder": "early", "above": above}])
    stopped, beside = answered(engine, [wish._replace(edits=stops), wish])
    assert [one.token for one in stopped] == [*(one.token for one in plain[:highest]), None]
    assert stopped[-1].finish == "feature"
    assert stopped[-1].stopped_by == stops.stops[0]
    assert [one.token for one in beside] == [one.token for one in plain]
    assert engine.free_rows == engine.num_rows


def test_an_answer_whose_logits_are_no_numbers_ends_and_leaves_nothing_behind(
    engine: TextEngine, nameable: Nameable
) -> None:
    endless = compiled(nameable, {"op": "add", "feature": 3, "strength": 1e9})
    endless = replace(endless, terms=(replace(endless.terms[0], vector_D=endless.terms[0].vector_D * math.inf),))
    plain = [Wish(ids_of(9, seed), 12) for seed in range(ROWS)]
    before = tokens_of(answered(engine, plain))
    broken = answered(engine, [Wish(ids_of(25, seed), 12, endless, {"alternatives": 1}) for seed in range(ROWS)])
    assert [[(one.token, one.finish) for one in answer] for answer in broken] == [[(None, "broken")]] * ROWS
    assert tokens_of(answered(engine, plain)) == before


def test_a_choice_that_fails_leaves_the_others_as_they_are(engine: TextEngine) -> None:
    wish, more = Wish(ids_of(9), 12), {"choosing": Choosing(temperature=1.0, top_k=10**400)}
    (alone,) = tokens_of(answered(engine, [wish]))
    begun = wish.begun()
    engine.start([begun])
    with pytest.raises(OverflowError):
        engine.start([Wish(ids_of(20, 1), 12, more=more).begun()])
    while engine.running:
        engine.step()
    assert begun.tokens == alone


@pytest.mark.parametrize("pass_tokens", [7, 512])
def test_a_lasting_condition_acts_behind_the_first_token_on_which_its_feature_fires(
    make: Make, session: Session, nameable: Nameable, pass_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mistudio.instrument.paged_batches._PASS_TOKENS", pass_tokens)
    ids, add = ids_of(21, 3), {"op": "add", "feature": 3, "strength": 30}
    value_T = values_of(session, 1, ids)[:, 7]
    firsts, found = set(), set()
    with make(session, num_rows=3, num_slots=SLOTS) as engine:
        for above in value_T[value_T > 0].tolist():
            if not (value_T > above).any():
                continue
            first = int((value_T > above).nonzero()[0])
            when = {"feature": 7, "autoencoder": "early", "above": above + 1e-4}
            given = {"positions": list(range(first + 1, SLOTS))}
            some = [Wish(ids, 12, compiled(nameable, one)) for one in ({**add, "when": when}, {**add, "where": given})]
            conditional = tokens_of(answered(engine, [Wish(ids_of(30, 1), 9), some[0]]))[1]
            assert conditional == tokens_of(answered(engine, [some[1]]))[0]
            firsts.add(first)
            found.add(tuple(conditional))
    assert len(firsts) > 1
    assert len(found) > 1


def test_a_condition_that_fires_on_the_answer_acts_from_the_next_token_on(
    engine: TextEngine, session: Session, nameable: Nameable
) -> None:
    ids, add = ids_of(12), {"op": "add", "feature": 3, "strength": 30}
    tokens = generated(session.subject, ids, 16)
    value_TF = values_of(session, 1, [*ids, *tokens])
    latents, found = [], set()
    for latent in range(value_TF.shape[1]):
        place = int(value_TF[:24, latent].argmax())
        above = float(value_TF[:place, latent].max()) if place else 0.0
        if place < 13 or float(value_TF[place, latent]) < above + 0.1:
            continue
        when = {"feature": latent, "autoencoder": "early", "above": above + 0.05}
        given = {"positions": list(range(place + 1, SLOTS))}
        both = [compiled(nameable, {**add, "when": when}), compiled(nameable, {**add, "where": given})]
        conditional, known = tokens_of(answered(engine, [Wish(ids, 16, edits) for edits in both]))
        assert conditional == known
        assert conditional[: place + 1 - 12] == tokens[: place + 1 - 12]
        latents.append(latent)
        found.add(tuple(conditional))
    assert len(latents) > 3
    assert len(found) > 1


def test_a_lasting_condition_acts_without_a_cache_as_where_it_fired_by_hand() -> None:
    session = session_of("falcon_rw")  # whose attention biases come from a mask of its own making
    nameable, add = nameable_of(session), {"op": "add", "feature": 3, "strength": 30}
    found = set()
    with BACK_ENDS["static"](session, num_rows=3, num_slots=SLOTS) as engine:
        assert not engine.has_cache
        for seed in range(4):
            ids = ids_of(14, seed)
            value_T = values_of(session, 1, ids)[:, 7]
            first = int((value_T > 0.05).nonzero()[0])
            assert first + 1 < len(ids)
            when = {"feature": 7, "autoencoder": "early", "above": 0.05}
            given = {"positions": list(range(first + 1, SLOTS))}
            both = [compiled(nameable, one) for one in ({**add, "when": when}, {**add, "where": given})]
            conditional, known = tokens_of(answered(engine, [Wish(ids, 12, edits) for edits in both]))
            assert conditional == known
            found.add(tuple(conditional))
    assert len(found) > 1


@pytest.mark.parametrize("family", sorted(CAUSAL))
def test_the_static_engine_gives_what_generate_gives_in_every_family(family: str) -> None:
    session = session_of(family, [])
    wishes = [Wish(ids_of(length, length), 22) for length in (5, 14, 1)]
    with BACK_ENDS["static"](session, num_rows=2, num_slots=SLOTS) as engine:
        found = tokens_of(answered(engine, wishes, 3))
    assert found == [generated(session.subject, wish.ids, wish.limit) for wish in wishes]


SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHER_PLACES: dict[str, tf.PreTrainedConfig] = {
    "chunks": tf.Llama4TextConfig(
        **SIZES, attention_chunk_size=16, num_local_experts=2, intermediate_size_mlp=48, use_qk_norm=False, head_dim=8
    ),
    "windows": tf.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=1),
    "one window": tf.MistralConfig(**SIZES, sliding_window=16),
    "turned otherwise from 40 on": tf.Phi3Config(
        **SIZES,
        original_max_position_embeddings=40,
        rope_scaling={
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [8.0] * 4,
            "original_max_position_embeddings": 40,
            "factor": 4.0,
        },
    ),
}


@pytest.mark.parametrize("kind", OTHER_PLACES)
def test_an_answer_beyond_what_layers_look_back_to_is_what_generate_gives(kind: str) -> None:
    session = Session(loud_subject(random_model(OTHER_PLACES[kind])))
    with BACK_ENDS["static"](session, num_rows=3, num_slots=120) as engine:
        assert engine.has_cache  # type: ignore[attr-defined]
        most = engine.num_slots
        wishes = [Wish(ids_of(length, length), min(30, most - length)) for length in (60, 5, 37) if length < most]
        found = tokens_of(answered(engine, wishes, 3))
    assert found == [generated(session.subject, wish.ids, wish.limit) for wish in wishes]


def values_of(session: Session, number: int, ids: Sequence[int]) -> torch.Tensor:
    """All latents of an autoencoder on tokens, without edits [T, F]."""
    placed = session.autoencoders[number]
    acts_TD = run_captured(session.subject, [placed.ends.read], torch.tensor([ids]))[placed.ends.read.point][0]
    return placed.sae.encode_chosen(acts_TD, torch.arange(placed.sae.width))
