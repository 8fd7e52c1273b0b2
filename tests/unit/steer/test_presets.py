"""Presets: they state all that they mean something with, and are used with the very things that they are of."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from mistudio.artifacts import Artifact, Catalog, Store, add_reference, open_artifact, open_store
from mistudio.cli import app
from mistudio.directions.artifact import find_direction
from mistudio.directions.config import DirectionConfig
from mistudio.directions.example_files import Files
from mistudio.directions.step import direction
from mistudio.errors import ConfigError, InputError, NotFound
from mistudio.instrument import open_session
from mistudio.instrument.compiled import Nameable, NamedDirection, compile_edits
from mistudio.instrument.edits import Edits
from mistudio.sae import TopKConfig
from mistudio.steer.bounds import SteerLimits, canonical_in, check
from mistudio.steer.preset_store import (
    KIND,
    list_presets,
    open_preset,
    preset_history,
    remove_preset,
    save_preset,
)
from mistudio.steer.preset_use import Part, Parts, edits_of_preset, make_preset, parts_in_store, parts_of
from mistudio.steer.presets import Preset, checked_preset, read_preset
from mistudio.subject import resolve_hooks
from tests.support.directions import random_directions
from tests.support.labelled_texts import labelled, write_lines
from tests.support.tiny import WIDTH
from tests.support.tiny_run import CPU, HOOK, TinyRun, llama_run, publish_sae

DIGEST = "0123456789abcdef" * 4
OTHER = "f" * 64
EDITS: list[dict[str, Any]] = [
    {"hook": "resid_post.1", "op": "add", "feature": 5, "autoencoder": "sae/a", "strength": 2.0, "unit": "absolute"},
    {"hook": "resid_post.1", "op": "ablate", "features": [3, 7], "autoencoder": "sae/a"},
    {"hook": "mlp_out.0", "op": "cap", "direction": "sea", "value": 1.0, "unit": "absolute"},
]


def content(**changed: Any) -> dict[str, Any]:
    whole = {
        "name": "calm",
        "author": "me",
        "subject": DIGEST,
        "autoencoders": {"sae/a": DIGEST},
        "directions": {"sea": OTHER},
        "edits": EDITS,
    }
    return {name: value for name, value in {**whole, **changed}.items() if value is not None}


def without(number: int, name: str) -> list[dict[str, Any]]:
    """The edits, one of which lacks something."""
    return [
        {key: value for key, value in edit.items() if (place, key) != (number, name)}
        for place, edit in enumerate(EDITS)
    ]


def test_a_preset_reads_as_it_is_written() -> None:
    preset = checked_preset(content(notes="quiet", ship_range=(0.5, 1.5)), "calm.json")
    again = read_preset(json.dumps(preset.content()), "again")
    assert again == preset
    assert [edit["hook"] for edit in preset.content()["edits"]] == ["resid_post.1", "resid_post.1", "mlp_out.0"]
    assert preset.content()["edits"][0]["op"] == "add"
    plain = [{name: value for name, value in edit.items() if name != "hook"} for edit in EDITS]
    assert preset.edits == Edits.model_validate({"edits": plain})
    assert preset.edits.model_dump() == Edits.model_validate({"edits": plain}).model_dump()


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        ({"edits": without(1, "hook")}, r"edits\[1\]\.hook: field required"),
        ({"edits": without(1, "op")}, r"edits\[1\]: unable to extract tag.*'op'"),
        ({"edits": without(0, "unit")}, r"edits\[0\]\.unit: state it"),
        ({"edits": without(2, "unit")}, r"edits\[2\]\.unit: state it"),
        ({"edits": without(0, "strength")}, r"edits\[0\]\.strength: field required"),
        ({"edits": without(0, "autoencoder")}, r"edits\[0\]\.autoencoder: name it, and state its digest"),
        ({"autoencoders": {}}, r"autoencoders: the digest of 'sae/a' is missing, which edits\[0\] names"),
        ({"directions": {}}, r"directions: the digest of 'sea' is missing, which edits\[2\] names"),
        ({"autoencoders": {"sae/a": "0123"}}, r"autoencoders\.sae/a: string should match pattern.*not '0123'"),
        ({"subject": None}, "subject: field required"),
        ({"author": None}, "author: field required"),
        ({"edits": []}, "edits: there are none"),
        ({"ship_range": (2.0, 1.0)}, r"ship_range: \[2\.0, 1\.0\] is no range"),
        ({"edits": [{**EDITS[0], "where": {"tokens": "none"}}]}, r"edits\[0\]\.where\.tokens: .*, not 'none'\.$"),
        ({"evaluation": {"digest": "x"}}, r"evaluation\.digest: .*, not 'x'\.$"),
        ({"colour": "blue"}, "colour: extra inputs are not permitted"),
        ({"stop_when": [{"feature": 1}]}, r"stop_when\[0\]\.autoencoder: name it"),
        ({"edits": [{**EDITS[0], "when": {"feature": 1}}]}, r"edits\[0\]\.when\.autoencoder: name it"),
        ({"edits": [{**EDITS[0], "hook": "middle"}]}, r"edits\[0\]\.hook: string should match pattern.*not 'middle'"),
        (
            {"edits": [{**EDITS[0], "direction": "sea"}]},
            r"edits\[0\]: add needs one of .* given: feature, direction\.$",
        ),
    ],
)
def test_what_a_preset_lacks_is_named_by_its_field(lacking: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"^calm\.json: .*{reason}"):
        checked_preset(content(**lacking), "calm.json")


def test_what_is_no_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="x is no JSON"):
        read_preset("{", "x")
    with pytest.raises(ConfigError, match="x: "):
        read_preset("[]", "x")


def test_a_name_is_only_ever_added_to_and_saving_again_changes_nothing(store: Store) -> None:
    first = save_preset(store, checked_preset(content(), "x"))
    again = save_preset(store, checked_preset(content(), "x"))
    assert (first.is_new, again.is_new) == (True, False)
    assert (first.reference, first.artifact.uri) == (again.reference, again.artifact.uri)
    second = save_preset(store, checked_preset(content(notes="more"), "x"))
    assert (second.reference.number, second.is_new) == (2, True)
    assert open_preset(store, "calm").notes == "more"
    assert open_preset(store, first.artifact.uri).notes == ""
    back = save_preset(store, checked_preset(content(), "x"))
    assert (back.reference.number, back.artifact.uri) == (3, first.artifact.uri)
    uris = [first.artifact.uri, second.artifact.uri, first.artifact.uri]
    assert [each.target.uri for each in preset_history(store, "calm")] == uris


def test_a_removed_name_stands_for_nothing_and_its_history_stays(store: Store) -> None:
    saved = save_preset(store, checked_preset(content(), "x"))
    assert remove_preset(store, "calm", "you").number == 2
    with pytest.raises(NotFound, match="no preset called 'calm'"):
        open_preset(store, "calm")
    assert list(list_presets(store)) == []
    assert [(each.target.uri, each.target.author) for each in preset_history(store, "calm")] == [
        (saved.artifact.uri, "me"),
        (None, "you"),
    ]
    with pytest.raises(NotFound):
        remove_preset(store, "calm", "you")
    with pytest.raises(NotFound):
        preset_history(store, "never")
    assert save_preset(store, checked_preset(content(), "x")).reference.number == 3


def test_presets_are_listed_by_name(store: Store) -> None:
    for name in ("b", "a"):
        save_preset(store, checked_preset(content(name=name), "x"))
    assert [each.preset.name for each in list_presets(store)] == ["a", "b"]


@pytest.mark.parametrize("name", ["preset/0123456789abcdef", "a/b", ".hidden", "with space"])
def test_a_name_that_cannot_be_one_is_refused_before_anything_is_published(name: str, store: Store) -> None:
    with pytest.raises(InputError):
        save_preset(store, checked_preset(content(name=name), "x"))
    assert list(store.list(KIND)) == []


class Line(NamedTuple):
    """A model with an autoencoder and a direction, in a store."""

    run: TinyRun
    sae: Artifact
    other: Artifact
    nameable: Nameable

    @property
    def store(self) -> Store:
        return self.run.store

    @property
    def parts(self) -> Parts:
        return parts_of(self.nameable, ["sea"])


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("line")
    run = llama_run(tmp_path_factory)
    saes = [
        publish_sae(run.store, random_directions(TopKConfig(width=64, k=6), WIDTH, seed=seed), run.activations, hook)
        for seed, hook in ((3, HOOK), (4, "resid_mid.1"))
    ]
    files = Files.read(write_lines(folder / "e.jsonl", labelled(8)))
    made = direction(run.store, files, run.source, CPU, DirectionConfig(hook="mlp_out.1")).artifact
    add_reference(run.store, "direction", "sea", made, "me")
    sea = find_direction(run.store, "sea")
    with open_session(saes, run.source, CPU) as session:
        (hook,) = resolve_hooks(session.subject, [sea.hook])
        directions = {"sea": NamedDirection(hook, sea.vector_D, sea.digest)}
        yield Line(run, saes[0], saes[1], Nameable(session, ["own", "other"], directions=directions.__getitem__))


ASKED = Edits.model_validate(
    {
        "edits": [
            {"op": "add", "feature": 5, "strength": 2.0, "where": "generated"},
            {"op": "clamp", "feature": 6, "value": 1.0, "autoencoder": "resid_mid.1", "when": {"feature": 4}},
            {"op": "add", "direction": "sea", "strength": 0.1, "unit": "relative"},
        ],
        "stop_when": [{"feature": 9, "autoencoder": "own"}],
    }
)


def test_a_request_becomes_a_preset_that_states_what_it_left_open_and_does_the_same(line: Line) -> None:
    preset = make_preset("calm", "me", ASKED, line.parts, notes="quiet")
    assert preset.subject == line.run.source.digest
    assert preset.autoencoders == {line.sae.uri: line.sae.digest, line.other.uri: line.other.digest}
    assert preset.directions == {"sea": find_direction(line.store, "sea").digest}
    assert [each.hook for each in preset.placed] == [HOOK, "resid_mid.1", "mlp_out.1"]
    assert {getattr(each.edit, "unit", "") for each in preset.placed} == {"absolute", "relative"}
    used = edits_of_preset(preset, line.parts)
    assert used == preset.edits
    for own, other in zip(
        compile_edits(used, line.nameable).terms, compile_edits(ASKED, line.nameable).terms, strict=True
    ):
        assert (own.hook.point, own.amount, own.where, own.latch) == (
            other.hook.point,
            other.amount,
            other.where,
            other.latch,
        )
        assert own.vector_D.equal(other.vector_D)


def test_only_what_edits_name_is_stated(line: Line) -> None:
    edits = Edits.model_validate({"edits": [{"op": "ablate", "feature": 5, "autoencoder": "other"}]})
    preset = make_preset("calm", "me", edits, line.parts)
    assert preset.autoencoders == {line.other.uri: line.other.digest}
    assert preset.directions == {}


def test_a_preset_follows_digests_and_not_names(line: Line) -> None:
    """Where a name stands for something else by now, what is loaded under the digest is meant."""
    preset = make_preset("calm", "me", ASKED, line.parts)
    moved = json.loads(json.dumps(preset.content()).replace(line.sae.uri, "own").replace('"sea"', '"swapped"'))
    parts = line.parts
    swapped = parts._replace(
        autoencoders=[one._replace(aliases=("other",)) for one in reversed(parts.autoencoders)],
        directions=[Part("swapped", OTHER, ("mlp_out.1",)), *parts.directions],
    )
    assert edits_of_preset(checked_preset(moved, "x"), swapped) == preset.edits


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"subject": OTHER}, "Preset calm is of another model"),
        ({"autoencoders": "other"}, "with the digest ffffffffffff, which is not loaded"),
        ({"directions": {"sea": OTHER}}, "Preset calm is of 'sea' with the digest ffffffffffff, which is not loaded"),
        ({"edits": "hook"}, r"edits\[0\]\.hook: it states mlp_out\.1, and sae/.* acts at resid_post\.1"),
    ],
)
def test_a_preset_of_what_is_not_loaded_or_elsewhere_is_refused(
    changed: dict[str, Any], reason: str, line: Line
) -> None:
    whole = make_preset("calm", "me", ASKED, line.parts).content()
    if changed.get("autoencoders"):
        changed = {"autoencoders": {**whole["autoencoders"], line.sae.uri: OTHER}}
    if changed.get("edits"):
        changed = {"edits": [{**whole["edits"][0], "hook": "mlp_out.1"}, *whole["edits"][1:]]}
    with pytest.raises(InputError, match=reason):
        edits_of_preset(checked_preset({**whole, **changed}, "x"), line.parts)


def test_what_a_request_names_and_is_not_there_makes_no_preset(line: Line) -> None:
    for edit, reason in (
        ({"op": "ablate", "feature": 5, "autoencoder": "sae/none"}, "There is no autoencoder 'sae/none' here"),
        ({"op": "add", "direction": "up", "strength": 1}, "There is no direction 'up' here; there is sea"),
    ):
        with pytest.raises(NotFound, match=reason):
            make_preset("calm", "me", Edits.model_validate({"edits": [edit]}), line.parts)
    with pytest.raises(ConfigError, match="preset calm: edits: there are none"):
        make_preset("calm", "me", Edits(), line.parts)


def test_parts_in_a_store_are_those_of_the_session(line: Line) -> None:
    found = parts_in_store([line.sae, line.other], [find_direction(line.store, "sea")])
    loaded = line.parts
    assert found.subject == loaded.subject
    assert [one._replace(aliases=()) for one in loaded.autoencoders] == list(found.autoencoders)
    assert list(found.directions) == list(loaded.directions)
    with pytest.raises(InputError, match="A preset is of one model: what is given is of 0"):
        parts_in_store([], [])


def test_a_saved_preset_names_what_it_is_of_as_its_inputs(line: Line) -> None:
    saved = save_preset(line.store, make_preset("calm", "me", ASKED, line.parts))
    inputs = saved.artifact.manifest.inputs
    assert {ref.uri for role, ref in inputs.items() if role.startswith("autoencoder")} == {line.sae.uri, line.other.uri}
    assert inputs["direction.0"].uri.startswith("direction/")
    assert inputs["subject"].uri == f"subject:{line.run.source.digest[:16]}"
    with Catalog(line.store) as catalog:
        assert saved.artifact.uri in catalog.dependents(line.sae.uri)


def test_limits_mean_the_autoencoders_of_the_session(line: Line) -> None:
    canonical = canonical_in(line.nameable)
    limits = SteerLimits(deny={"own": (5,), "never-served": (1,)})
    for written in (None, "own", HOOK, line.sae.uri):
        edits = Edits.model_validate({"edits": [{"op": "ablate", "feature": 5, "autoencoder": written}]})
        with pytest.raises(ConfigError, match="feature 5 of sae/"):
            check(edits, limits, canonical)
    check(Edits.model_validate({"edits": [{"op": "ablate", "feature": 5, "autoencoder": "other"}]}), limits, canonical)


def run(*command: str) -> Any:
    return CliRunner().invoke(app, list(command))


def test_commands_save_list_show_and_remove(line: Line, tmp_path: Path) -> None:
    store = ["--store", open_store(str(tmp_path / "store")).url]
    file = tmp_path / "calm.json"
    file.write_text(json.dumps(content()))
    assert run("preset", "save", str(file), *store).stdout.startswith("preset calm is preset/")
    assert "was already" in run("preset", "save", str(file), *store).stdout
    assert "(1)" in run("preset", "save", str(file), "--name", "quiet", "--author", "you", *store).stdout
    rows = json.loads(run("preset", "list", "--json", *store).stdout)
    assert [(row["name"], row["author"], row["edits"], row["hooks"]) for row in rows] == [
        ("calm", "me", 3, ["resid_post.1", "mlp_out.0"]),
        ("quiet", "you", 3, ["resid_post.1", "mlp_out.0"]),
    ]
    assert run("preset", "list", *store).stdout.count("3 edits at resid_post.1, mlp_out.0") == 2
    shown = json.loads(run("preset", "show", "quiet", *store).stdout)
    assert checked_preset(shown, "x") == checked_preset(content(name="quiet", author="you"), "x")
    assert "stands for nothing any more (2)" in run("preset", "remove", "quiet", "--author", "me", *store).stdout
    assert [line.split()[-1] for line in run("preset", "history", "quiet", *store).stdout.splitlines()][1] == "removed"
    numbers = [row["number"] for row in json.loads(run("preset", "history", "quiet", "--json", *store).stdout)]
    assert numbers == [1, 2]
    assert isinstance(run("preset", "show", "quiet", *store).exception, NotFound)


def test_the_steering_part_of_a_request_is_saved_with_what_it_needs(line: Line, tmp_path: Path) -> None:
    file = tmp_path / "quiet.json"
    file.write_text(json.dumps({**ASKED.model_dump(mode="json"), "watch": [1]}).replace('"own"', f'"{line.sae.uri}"'))
    given = ["--sae", line.sae.uri, "--sae", line.other.uri, "--direction", "sea", "--store", line.store.url]
    done = run("preset", "save", str(file), *given, "--notes", "less")
    assert done.exit_code == 0, done.exception
    saved = open_preset(line.store, "quiet")
    assert saved.notes == "less"
    assert edits_of_preset(saved, line.parts).stop_when == make_preset("x", "me", ASKED, line.parts).stop_when
    file.write_text(json.dumps({"preset": "calm"}))
    refused = run("preset", "save", str(file), *given)
    assert "no preset stands on another" in str(refused.exception)


@pytest.mark.parametrize(("text", "reason"), [("{", "cannot be read as JSON"), ("[]", "holds no object")])
def test_a_file_that_holds_no_preset_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "calm.json"
    file.write_text(text)
    assert reason in str(run("preset", "save", str(file), "--store", str(tmp_path / "s")).exception)
    missing = run("preset", "save", str(tmp_path / "none.json"), "--store", str(tmp_path / "s"))
    assert "There is no file" in str(missing.exception)


def test_the_artifact_of_a_preset_holds_its_file(store: Store) -> None:
    saved = save_preset(store, checked_preset(content(), "x"))
    artifact = open_artifact(store, saved.artifact.uri, KIND)
    written = json.loads(artifact.file("preset.json").read_bytes())
    assert Preset.model_validate(written) == saved.preset
    assert artifact.manifest.summary["hooks"] == "resid_post.1, mlp_out.0"
