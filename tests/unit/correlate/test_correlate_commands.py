"""mistudio correlate: what is given becomes a query, and the reply a table or JSON."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mistudio.cli import app
from mistudio.directions.artifact import find_direction
from mistudio.errors import ConfigError, InputError
from tests.support.labelled_texts import LANDS, SEAS, labelled, made_up, write_lines
from tests.support.looked_up import LATER_HOOK, PLANTED, LookedUp
from tests.support.tiny import WIDTH

runner = CliRunner()


def run(line: LookedUp, *arguments: str) -> str:
    lines = ["--line", line.scores.uri, "--line", line.later_sae.uri]
    done = runner.invoke(app, ["correlate", *arguments, *lines, "--store", line.store.url, "--model", line.source.path])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_text_is_looked_up(line: LookedUp) -> None:
    given = ["text", "the cat sat", "--top", "3"]
    found = json.loads(run(line, *given, "--by-token", "--json"))
    assert [len(hit["by_token"]) for hit in found["hits"]] == [len(found["tokens"])] * 3
    shown = run(line, *given, "--strongest", "2", "--pool", "difference")
    assert "above usual" in shown
    assert "' cat'" in shown
    assert f"{found['hits'][0]['page'].partition('#')[0]}#feature=NUMBER" in shown


def test_a_chat_is_looked_up_by_its_roles(line: LookedUp, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "once a dog"}]
    (tmp_path / "chat.json").write_text(json.dumps(chat))
    given = ["text", "--messages", str(tmp_path / "chat.json"), "--roles", "assistant", "--by-token", "--json"]
    tokens = json.loads(run(line, *given))["tokens"]
    assert "".join(each["text"] for each in tokens if "left_out" not in each) == "once a dog"


@pytest.mark.parametrize("token", ["289", " cat"])
def test_a_token_is_an_id_or_a_text(line: LookedUp, token: str) -> None:
    found = json.loads(run(line, "token", token, "--ways", "lens", "--top", "2", "--json"))
    assert found["tokens"] == [{"id": 289, "text": " cat", "strongest": []}]
    assert {hit["measure"] for hit in found["hits"]} == {"logit"}


def test_digits_are_a_text_where_that_is_said(line: LookedUp) -> None:
    assert json.loads(run(line, "token", "7", "--text", "--json"))["tokens"][0]["text"] == "7"


@pytest.mark.parametrize("token", ["9" * 5000, "\u0663"])
def test_digits_that_are_no_id_are_a_text(line: LookedUp, token: str) -> None:
    with pytest.raises(InputError, match=r"token: .* (is \d+ tokens|give its id)|token: give its id"):
        run(line, "token", token)


def test_a_feature_and_an_autoencoder_are_named(line: LookedUp) -> None:
    found = json.loads(run(line, "feature", "100", "--relations", "decoder", "--autoencoder", LATER_HOOK, "--json"))
    assert {hit["autoencoder"] for hit in found["hits"]} == {LATER_HOOK}
    assert "cosine" in run(line, "feature", "5", "--relations", "decoder")


def test_examples_are_looked_up_and_their_direction_is_kept(line: LookedUp, tmp_path: Path) -> None:
    sides = [
        write_lines(tmp_path / f"{name}.jsonl", made_up(words, 20, 1))
        for name, words in (("sea", SEAS), ("land", LANDS))
    ]
    given = ["examples", "--positive", sides[0], "--negative", sides[1], "--pool", "mean"]
    shown = run(line, *given, "--save-as", "tide", "--author", "Ada")
    assert "20 positive and 20 negative examples" in shown
    assert f"direction tide is {find_direction(line.store, 'tide').uri}" in shown
    found = json.loads(run(line, "vector", "--direction", "tide", "--top", "1", "--json"))
    assert found["hits"][0]["feature"] == PLANTED


def test_one_file_of_labelled_examples_does_as_well(line: LookedUp, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "both.jsonl", labelled(20))
    found = json.loads(run(line, "examples", "--examples", path, "--pool", "mean", "--json"))
    assert PLANTED in [hit["feature"] for hit in found["hits"]]
    assert found["separation"]["positive"] == found["separation"]["negative"] == 20


def test_a_vector_is_read_from_a_file(line: LookedUp, tmp_path: Path) -> None:
    (tmp_path / "vector.json").write_text(json.dumps([1.0] * WIDTH))
    path = str(tmp_path / "vector.json")
    found = json.loads(run(line, "vector", "--file", path, "--sides", "decoder,encoder", "--top", "2", "--json"))
    assert [hit["measure"] for hit in found["hits"]] == ["decoder", "decoder", "encoder", "encoder"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["text"], "give one of text, messages or ids"),
        (["text", "a", "--roles", "user"], "roles are of a chat"),
        (["text", "a", "--pool", "sum"], "pool"),
        (["text", "a", "--top", "0"], "top"),
        (["token", " cat", "--ways", "lens,luck"], "ways"),
        (["vector"], "give a vector or the name of a direction"),
        (["examples", "--positive", "sea.jsonl"], "positive and negative"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_loaded(
    line: LookedUp, arguments: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(line, *arguments)


def test_files_that_are_not_there_or_hold_something_else_are_refused(line: LookedUp, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        run(line, "vector", "--file", str(tmp_path / "none.json"))
    (tmp_path / "broken.json").write_text("[1, 2")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        run(line, "vector", "--file", str(tmp_path / "broken.json"))


def test_labels_are_whole_on_a_narrow_screen(line: LookedUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    given = ["text", "the cat sat", "--top", "5", "--pool", "standardised"]
    shown, found = run(line, *given), json.loads(run(line, *given, "--json"))
    assert all(len(each.rstrip()) <= 80 for each in shown.splitlines()[:-1])
    labels = ["".join((hit["label"] or "")[:60].split()) for hit in found["hits"]]
    assert any(labels)
    assert all(label in "".join(shown.split()) for label in labels)
    assert "\u2026" not in "".join(shown.split("\n")[2:4])


def test_a_concept_that_no_explanation_mentions_is_told_with_what_to_do(line: LookedUp) -> None:
    assert "--embed-with subject" in run(line, "concept", "xylophone", "--how", "lexical")
