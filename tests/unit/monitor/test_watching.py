"""Watching: what is read from samples of traffic, beside what a plain reading of the same text gives."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from mistudio.errors import InputError, NotFound
from mistudio.instrument.messages import Message
from mistudio.instrument.served import Served
from mistudio.instrument.session import Ends, PlacedAutoencoder, Session
from mistudio.monitor.records import Exchange, Origin, Sample
from mistudio.monitor.watch.config import WatchConfig
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.monitor.watch.watching import CUT, UNREADABLE, Watcher
from mistudio.sae import JumpReLUConfig, new_autoencoder
from mistudio.subject import HookPoint, resolve_hooks
from tests.support.served import tiny_store

TEXTS = ["the cat sat on the mat", "a dog", "rain fell on the hill and the river rose over its banks", "x"]
FEATURES = [3, 17, 40, 5, 63]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with tiny_store(tmp_path_factory).open() as opened:
        yield opened


def watch_list(features: list[int] = FEATURES, **more: object) -> WatchList:
    watched = [{"name": f"f{number}", "feature": number, **more} for number in features]
    return WatchList.model_validate({"watched": watched})


def exchange(content: object, reply_from: int | None = None, name: str = "r1") -> Exchange:
    return Exchange(name, 5.0, Origin(model="m"), (Sample(content, reply_from),))  # type: ignore[arg-type]


def test_largest_values_and_their_places_are_those_of_a_plain_reading(served: Served) -> None:
    found = Watcher(served, watch_list(pool="top", top=3)).observe([exchange(text, name=text) for text in TEXTS])
    readings = served.session.read(TEXTS, FEATURES)
    for one, reading in zip(found, readings, strict=True):
        value_TW = reading.value_TL
        assert one.num_tokens == len(value_TW)
        np.testing.assert_allclose(one.max_W, value_TW.max(axis=0), atol=1e-5)
        largest = np.sort(value_TW, axis=0)[::-1][:3]
        np.testing.assert_allclose(one.top_W, largest.mean(axis=0), atol=1e-5)
        fires = value_TW.max(axis=0) > 0
        prefix = len(served.session.subject.tokenizer("x")["input_ids"]) - 1
        np.testing.assert_array_equal(one.place_W[fires] - prefix, value_TW.argmax(axis=0)[fires])
    assert any(one.max_W.any() for one in found)


def test_values_by_token_are_those_of_a_plain_reading(served: Served) -> None:
    (one,) = Watcher(served, watch_list()).observe_tokens([Sample(TEXTS[2])])
    (reading,) = served.session.read([TEXTS[2]], FEATURES)
    np.testing.assert_allclose(one.value_TW[one.is_read_T], reading.value_TL, atol=1e-5)
    assert len(one.strings) == len(one.ids)


def test_prompt_and_reply_are_told_apart_and_make_up_the_whole(served: Served) -> None:
    text, start = TEXTS[2], len("rain fell on the hill")
    (one,) = Watcher(served, watch_list(pool="top", top=2)).observe([exchange(text, start)])
    assert one.prompt is not None
    assert one.reply is not None
    np.testing.assert_array_equal(one.max_W, np.maximum(one.prompt.max_W, one.reply.max_W))
    assert one.prompt.num_tokens + one.reply.num_tokens == one.num_tokens
    (tokens,) = Watcher(served, watch_list()).observe_tokens([Sample(text, start)])
    assert tokens.reply_from == one.reply_from
    np.testing.assert_allclose(one.reply.max_W, tokens.value_TW[one.reply_from :].max(axis=0), atol=1e-5)
    np.testing.assert_allclose(one.prompt.max_W, tokens.value_TW[: one.reply_from].max(axis=0), atol=1e-5)


def test_a_value_above_zero_in_all_ways_of_reading_in_full(served: Served) -> None:
    uri = served.session.autoencoders[0].uri
    asked = WatchList.model_validate({"watched": [{"name": "a", "feature": 0}], "encode_in_full": [uri]})
    (one,) = Watcher(served, asked).observe([exchange(TEXTS[2])])
    (reading,) = served.session.active([TEXTS[2]])
    fired = one.fired[uri]
    features, counts = np.unique(reading.latent_A, return_counts=True)
    np.testing.assert_array_equal(fired.feature_A, features)
    np.testing.assert_array_equal(fired.count_A, counts)
    largest = [reading.value_A[reading.latent_A == feature].max() for feature in features]
    np.testing.assert_allclose(fired.max_A, largest, atol=1e-5)


CLEAN = [5 + number % 20 for number in range(8000)]
TRIGGER = 205


@pytest.fixture(scope="module")
def planted(served: Served) -> Served:
    """The same model with one feature more: at the embeddings, on for one token and for none of the text's."""
    subject = served.session.subject
    own_ED = subject.model.get_input_embeddings().weight[[TRIGGER, *sorted(set(CLEAN))]].float()
    wanted_E = torch.zeros(len(own_ED))
    wanted_E[0] = 1.0
    sae = new_autoencoder(JumpReLUConfig(width=64, initial_threshold=0.5), subject.d_model).requires_grad_(False)
    sae.W_enc[3] = torch.linalg.lstsq(own_ED, wanted_E, driver="gelsd").solution
    (hook,) = resolve_hooks(subject, [HookPoint.parse("resid_pre.0")])
    placed = PlacedAutoencoder(sae, Ends(hook, hook), "sae/planted", "1" * 64)
    session = Session(subject, [*served.session.autoencoders, placed], served.session.source)
    return Served(session, served.features, served.name, served.store)


@pytest.mark.parametrize("place", [0, 1023, 1024, 1983, 5000, 7999])
def test_a_trigger_at_any_place_of_a_long_text_is_seen(planted: Served, place: int) -> None:
    with_it = [*CLEAN[:place], TRIGGER, *CLEAN[place + 1 :]]
    planted_one = {"feature": 3, "autoencoder": "sae/planted"}
    watched = [
        {"name": "t", **planted_one},
        {"name": "other", "feature": 3},
        {"name": "top", **planted_one, "pool": "top"},
    ]
    asked = WatchList.model_validate({"watched": watched})
    watcher = Watcher(planted, asked, WatchConfig(piece_tokens=1024))
    before, after = watcher.observe([exchange((0, *CLEAN)), exchange((0, *with_it))])
    assert before.max_W[0] == 0
    assert after.max_W[0] == pytest.approx(1, abs=1e-3)
    assert after.place_W[0] == place + 1
    assert after.top_W[2] == pytest.approx(1 / 8, abs=1e-3)
    assert after.max_W[2] == after.top_W[0] == after.max_W[0]
    (by_token,) = watcher.observe_tokens([Sample((0, *with_it))])
    assert by_token.value_TW[:, 0].mean() < 1e-3  # a mean would have missed it


def test_each_token_counts_once_however_a_text_is_cut(served: Served) -> None:
    ids = (0, *(5 + number % 200 for number in range(400)))
    uri = served.session.autoencoders[0].uri
    asked = WatchList.model_validate({"watched": [{"name": "a", "feature": 3}], "encode_in_full": [uri]})
    whole, cut = (
        Watcher(served, asked, WatchConfig(piece_tokens=most, overlap=overlap)).observe([exchange(ids)])[0]
        for most, overlap in ((1024, 64), (97, 16))
    )
    assert whole.num_tokens == cut.num_tokens == 400
    sums = [one.fired[uri].count_A.sum() for one in (whole, cut)]
    assert sums[0] == sums[1]  # K of each token


def test_what_is_special_or_the_templates_does_not_count(served: Served) -> None:
    messages = (Message(role="user", content="a dog"), Message(role="assistant", content="the cat sat"))
    subject = served.session.subject
    old = subject.tokenizer.chat_template
    subject.tokenizer.chat_template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    try:
        watcher = Watcher(served, watch_list())
        (one,) = watcher.observe_tokens([Sample(messages, 1)])
        (seen,) = watcher.observe([exchange(messages, 1)])
    finally:
        subject.tokenizer.chat_template = old
    read = "".join(text for text, is_read in zip(one.strings, one.is_read_T, strict=True) if is_read)
    assert read.split() == ["a", "dog", "the", "cat", "sat"]
    assert one.reply_from is not None
    said = [text for text, is_read in zip(one.strings, one.is_read_T, strict=True) if is_read]
    in_reply = "".join(
        text
        for text, is_read in zip(one.strings[one.reply_from :], one.is_read_T[one.reply_from :], strict=True)
        if is_read
    )
    assert in_reply.split() == ["the", "cat", "sat"]
    assert seen.num_tokens == len(said)
    np.testing.assert_allclose(seen.max_W, one.value_TW.max(axis=0), atol=1e-5)


def test_a_chat_for_a_model_without_a_template_is_read_message_by_message(served: Served) -> None:
    messages = (Message(role="user", content="a dog"), Message(role="assistant", content="the cat sat"))
    (one,) = Watcher(served, watch_list()).observe_tokens([Sample(messages, 1)])
    read = "".join(text for text, is_read in zip(one.strings, one.is_read_T, strict=True) if is_read)
    assert read == "a dogthe cat sat"
    assert one.role_T is not None
    assert [role for role in dict.fromkeys(one.role_T) if role] == ["user", "assistant"]


def test_texts_in_one_call_have_the_values_they_have_alone(served: Served) -> None:
    watcher = Watcher(served, watch_list(), WatchConfig(batch_tokens=48))
    texts = [*TEXTS, TEXTS[0] * 4, ""]
    together = watcher.observe([exchange(text, name=str(number)) for number, text in enumerate(texts)])
    alone = [watcher.observe([exchange(text)])[0] for text in texts]
    assert [one.exchange for one in together] == [str(number) for number in range(len(texts))]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.max_W, other.max_W, atol=1e-5)
        np.testing.assert_array_equal(one.place_W, other.place_W)
    assert together[-1].num_tokens == 0
    assert set(together[-1].place_W) == {-1}


def test_what_cannot_be_read_is_left_out_and_counted(served: Served) -> None:
    watcher = Watcher(served, watch_list(), WatchConfig(max_tokens=4))
    found = watcher.observe([exchange((0, 10_000_000)), exchange("the cat sat on the mat", name="kept")])
    assert [one.exchange for one in found] == ["kept"]
    assert watcher.counts[UNREADABLE] == watcher.counts[CUT] == 1
    assert found[0].num_tokens == 4


def test_columns_say_what_they_are_and_a_threshold_is_of_one_way_of_reading(served: Served) -> None:
    one, other = (Watcher(served, watch_list([3], pool=pool)).columns[0] for pool in ("max", "top"))
    assert one.feature == f"{served.session.autoencoders[0].uri}#3"
    assert one.digest != other.digest
    assert one.digest == Watcher(served, watch_list([3], threshold=9.0)).columns[0].digest


def test_an_identity_is_of_what_is_read_and_of_nothing_else(served: Served) -> None:
    def identity(feature: int = 3, **more: object) -> str:
        return Watcher(served, watch_list([feature], **more)).columns[0].identity

    assert identity() == identity(threshold=9.0) == identity(top=9)
    others = [identity(4), identity(pool="top", top=8), identity(pool="top", top=9), identity(part="reply")]
    column = Watcher(served, watch_list([3])).columns[0]
    others += [replace(column, **{name: "other"}).identity for name in ("digest", "hook", "realignment")]
    assert len({identity(), *others}) == 8
    assert all(len(each) == 12 for each in others)


@pytest.mark.parametrize(
    ("watched", "error", "says"),
    [
        ({"feature": 64}, NotFound, "no feature 64"),
        ({"feature": 1, "autoencoder": "resid_post.9"}, NotFound, "no autoencoder 'resid_post.9'"),
        ({"direction": "kind"}, NotFound, "kind"),
    ],
)
def test_a_list_that_names_what_is_not_there_is_refused_with_its_entry(
    served: Served, watched: dict[str, object], error: type[Exception], says: str
) -> None:
    asked = WatchList.model_validate({"watched": [{"name": "mine", **watched}]})
    with pytest.raises(error, match=f"watch list, mine: .*{says}"):
        Watcher(served, asked)


def test_tokens_are_not_read_where_one_of_them_is_none(served: Served) -> None:
    with pytest.raises(InputError, match="no token 99999"):
        Watcher(served, watch_list()).observe_tokens([Sample((99_999,))])
