"""mistudio steer text: an answer under edits beside the one without."""

import json

import pytest
from typer.testing import CliRunner

from mistudio.cli import app
from mistudio.errors import ConfigError, InputError
from tests.support.served import TinyStore, tiny_store

runner = CliRunner()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


def run(tiny: TinyStore, *arguments: str) -> str:
    given = ["steer", "text", "the cat", *arguments, "--max-tokens", "8", "--store", tiny.store.url]
    done = runner.invoke(app, [*given, "--model", tiny.source.path], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_an_edit_is_shown_beside_the_answer_without_it(tiny: TinyStore) -> None:
    edit = json.dumps({"op": "add", "feature": 3, "strength": 1.5, "unit": "relative"})
    found = json.loads(run(tiny, "--edit", edit, "--ablate", "5,6", "--json"))
    assert found["comparison"]["plain_text"] != found["text"]
    assert found["comparison"]["dose"]["resid_post.1"] > 1
    shown = run(tiny, "--edit", edit)
    assert "as it is" in shown
    assert "dose" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--add", "12"], "write FEATURE=STRENGTH"),
        (["--add", "12=much"], "'much' is no number"),
        (["--ablate", "a"], "'a' is no number"),
        (["--edit", "{"], "is no JSON"),
        (["--edit", "[]"], "write an object"),
        (["--edit", '{"op": "add", "feature": 1}'], "strength: field required"),
    ],
)
def test_what_cannot_be_read_is_said_before_anything_is_loaded(
    tiny: TinyStore, arguments: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(tiny, *arguments)


def test_a_maximum_that_nobody_found_is_an_error(tiny: TinyStore) -> None:
    with pytest.raises(InputError, match="absolute or relative"):
        run(tiny, "--add", "3=1")
