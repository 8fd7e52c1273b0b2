"""The step register, promoting, and the list, with the store alone: they need no MLflow."""

import getpass
import json

import pytest
from typer.testing import CliRunner

from mistudio import steps
from mistudio.artifacts import Artifact, Store, actions, open_artifact, open_store
from mistudio.artifacts.models import model_aliases, model_versions
from mistudio.cli import app
from mistudio.errors import InputError, MistudioError
from mistudio.steps import STEPS, check_together
from tests.support.fake_sweep import publish_evaluation, topk


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    return open_store(str(tmp_path_factory.mktemp("registering") / "store"))


def measured(store: Store, k: int) -> tuple[Artifact, Artifact]:
    """An autoencoder and its evaluation."""
    evaluation = publish_evaluation(store, topk(k), ce_recovered=0.9 + k / 1000)
    return open_artifact(store, evaluation.manifest.inputs["sae"].uri), evaluation


def mistudio(store: Store, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--store", store.url], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_an_autoencoder_becomes_a_version_and_the_candidate_once(store: Store) -> None:
    for k, expected in ((8, "stories/1"), (16, "stories/2"), (8, "stories/1")):
        sae, evaluation = measured(store, k)
        given = {"sae": sae.uri, "evaluation": evaluation.uri, "store": store.url}
        assert steps.call("register", name="stories", **given) == expected
    assert len(model_versions(store, "stories")) == 2
    # The first was registered anew, which takes nothing away from the second.
    assert model_aliases(store, "stories")["candidate"].number == 2
    assert model_versions(store, "stories")[0].author == getpass.getuser()


def test_without_a_name_nothing_is_registered(store: Store) -> None:
    sae, _ = measured(store, 8)
    assert steps.call("register", sae=sae.uri, store=store.url) == ""
    assert list(store.list("refs")) == []


def test_figures_of_another_autoencoder_are_refused(store: Store) -> None:
    sae, _ = measured(store, 8)
    _, other = measured(store, 16)
    with pytest.raises(InputError, match="name those of one autoencoder"):
        steps.call("register", sae=sae.uri, evaluation=other.uri, name="stories", store=store.url)


def test_a_name_that_can_be_none_is_refused_before_a_pipeline_runs() -> None:
    with pytest.raises(MistudioError, match="is not a name in the store"):
        check_together({"register": {"name": "register_as"}}, {"register_as": "two words"})
    assert check_together({"register": {"name": "register_as"}}, {"register_as": ""})["register"].given == {}
    assert STEPS["register"].output is None


def test_promoting_shows_what_was_and_what_is_and_rolls_back(store: Store) -> None:
    for k in (8, 16):
        assert (
            mistudio(store, "register", "--sae", measured(store, k)[0].uri, "--name", "stories")
            == f"stories/{k // 8}\n"
        )
    first, second = (each.sae.uri for each in model_versions(store, "stories"))
    promote = ("promote", "stories", "--author", "ada")
    assert mistudio(store, *promote) == f"champion of stories is now version 2 ({second}); there was none.\n"
    assert mistudio(store, *promote) == f"champion of stories is version 2 ({second}) already.\n"
    back = mistudio(store, *promote, "--version", "1", "--to", "champion")
    assert back == f"champion of stories is now version 1 ({first}); it was version 2 ({second}).\n"
    listed = json.loads(mistudio(store, "models", "stories", "--json"))
    assert [(move["alias"], move["version"], move["author"]) for move in listed["history"]][-2:] == [
        ("champion", 2, "ada"),
        ("champion", 1, "ada"),
    ]
    assert [(each["version"], each["aliases"]) for each in listed["versions"]] == [
        (1, ["champion"]),
        (2, ["candidate"]),
    ]
    recorded = [(each.record["action"], each.record["detail"]) for each in actions(store)]
    assert [(action, detail["model"]) for action, detail in recorded if action in ("register", "promote")] == [
        ("register", "stories/1"),
        ("register", "stories/2"),
        ("promote", "stories/2"),
        ("promote", "stories/1"),
    ]


def test_the_list_has_the_figures_of_each_version(store: Store) -> None:
    mistudio(store, "register", "--sae", measured(store, 8)[0].uri, "--name", "stories")
    (row,) = json.loads(mistudio(store, "models", "--json"))
    assert row["figures"]["ce_recovered"] == 0.908
    shown = mistudio(store, "models", "stories")
    assert "stories/1" in shown
    assert "candidate is version 1, says" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("promote", "nothing"), "No autoencoder is registered as 'nothing'"),
        (("models", "nothing"), "No autoencoder is registered as 'nothing'"),
        (("promote", "stories", "--version", "9"), "stories has no version 9; it has 1."),
        (("promote", "stories", "--to", "best"), "no alias 'best'"),
    ],
)
def test_what_is_not_registered_is_refused(store: Store, arguments: tuple[str, ...], message: str) -> None:
    mistudio(store, "register", "--sae", measured(store, 8)[0].uri, "--name", "stories")
    with pytest.raises(MistudioError, match=message):
        CliRunner().invoke(app, [*arguments, "--store", store.url], catch_exceptions=False)
