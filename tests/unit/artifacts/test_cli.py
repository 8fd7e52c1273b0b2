"""mistudio artifacts list, latest, show, name, refs, verify and remove."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from mistudio.artifacts import InputRef, Recipe, Store, produce
from mistudio.cli.artifacts import register
from mistudio.errors import DamagedArtifact, InputError, NotFound
from tests.unit.artifacts.conftest import Publish

Run = Callable[..., Result]


@pytest.fixture
def run(store: Store) -> Run:
    app = typer.Typer()
    register(app)

    def invoke(*arguments: str, answer: str | None = None) -> Result:
        command = ["artifacts", *arguments, "--store", store.url]
        return CliRunner().invoke(app, command, input=answer, env={"COLUMNS": "160"})

    return invoke


def break_manifest(store: Store, uri: str) -> None:
    store.fetch(f"{uri}/manifest.json").write_bytes(b"broken")


def test_list_shows_each_artifact_with_a_few_figures(run: Run, publish: Publish) -> None:
    sae, corpus = publish("sae"), publish("corpus", files={"a": bytes(1_500_000)})
    lines = run("list").stdout.splitlines()
    (sae_line,) = (line for line in lines if sae.uri in line)
    (corpus_line,) = (line for line in lines if corpus.uri in line)
    assert sae_line.split()[:5] == [sae.uri, sae.manifest.created_at[:10], "13", "bytes", "files"]
    assert "loss 0.5" in sae_line
    assert "1.5 MB" in corpus_line


def test_list_shows_the_figures_that_tell_artifacts_apart(run: Run, store: Store) -> None:
    measured = {"ce_clean": 1.5, "ce_filtered_tokens": 0, "fvu": 0.25, "l0": 16, "ce_recovered": 0.9}
    produce(store, Recipe(kind="evaluation", config={}, inputs={}), "test", lambda _draft: measured)
    assert run("list").stdout.rstrip().endswith("  ce recovered 0.9, l0 16, ce clean 1.5")


def test_list_can_be_narrowed_to_a_kind_and_printed_as_json(run: Run, publish: Publish) -> None:
    sae, _ = publish("sae"), publish("corpus")
    (row,) = json.loads(run("list", "--kind", "sae", "--json").stdout)
    assert (row["uri"], row["kind"], row["digest"], row["bytes"]) == (sae.uri, "sae", sae.digest, 13)
    assert row["summary"] == {"files": 2, "loss": 0.5, "name": "sae"}
    assert len(json.loads(run("list", "--json").stdout)) == 2
    assert json.loads(run("list", "--kind", "nothing", "--json").stdout) == []


def test_list_shows_a_damaged_manifest_beside_the_others(run: Run, store: Store, publish: Publish) -> None:
    broken, whole = publish(k=1), publish(k=2)
    break_manifest(store, broken.uri)
    rows = {row["uri"]: row for row in json.loads(run("list", "--json").stdout)}
    assert "not a valid manifest" in rows[broken.uri]["damage"]
    assert rows[whole.uri]["damage"] is None
    assert "not a valid" in run("list").stdout


def test_show_prints_the_manifest_the_lineage_and_the_files(run: Run, publish: Publish) -> None:
    outside = InputRef(uri="file:stories.jsonl", digest="d" * 64)
    corpus = publish("corpus", inputs={"source": outside}, context_length=128)
    sae = publish("sae", inputs={"corpus": corpus.ref}, hooks=["resid_post.3"])
    shown = run("show", sae.uri).stdout
    for part in (sae.digest, "mistudio.sae/3", "['resid_post.3']", "0.5", "13 bytes in 2 files", "deep/table"):
        assert part in shown
    assert shown.index(f"corpus: {corpus.uri}  {corpus.digest[:12]}  in the store") < shown.index(
        f"source: {outside.uri}  {outside.digest[:12]}  outside the store"
    )


def test_show_prints_everything_as_json(run: Run, publish: Publish) -> None:
    corpus = publish("corpus", inputs={"source": InputRef(uri="file:x", digest="d" * 64)})
    sae = publish("sae", inputs={"corpus": corpus.ref})
    shown = json.loads(run("show", sae.uri, "--json").stdout)
    assert (shown["uri"], shown["digest"], shown["kind"]) == (sae.uri, sae.digest, "mistudio.sae/3")
    assert [entry["path"] for entry in shown["files"]] == sae.paths()
    node = shown["lineage"]["corpus"]
    assert (node["uri"], node["digest"], node["state"]) == (corpus.uri, corpus.digest, "in the store")
    assert node["inputs"]["source"]["state"] == "outside the store"


def test_show_says_what_became_of_an_input(run: Run, store: Store, publish: Publish) -> None:
    gone = InputRef(uri="corpus/gone", digest="d" * 64)
    broken, other = publish("broken"), publish("other")
    replaced = InputRef(uri=other.uri, digest="e" * 64)
    sae = publish("sae", inputs={"gone": gone, "broken": broken.ref, "replaced": replaced})
    break_manifest(store, broken.uri)
    lineage = json.loads(run("show", sae.uri, "--json").stdout)["lineage"]
    assert {name: node["state"] for name, node in lineage.items()} == {
        "gone": "no longer in the store",
        "broken": "damaged",
        "replaced": "replaced by another",
    }


def test_show_cuts_a_long_list_of_files_short(run: Run, publish: Publish) -> None:
    artifact = publish(files={f"shard-{n:03d}": b"" for n in range(33)})
    shown = run("show", artifact.uri).stdout
    assert "shard-029" in shown
    assert "shard-030" not in shown
    assert "and 3 more" in shown


def test_show_knows_no_artifact_of_another_name(run: Run) -> None:
    assert isinstance(run("show", "sae/nothing").exception, NotFound)
    assert isinstance(run("show", "../x").exception, InputError)


def test_verify_finds_nothing_wrong_with_what_is_whole(run: Run, publish: Publish) -> None:
    uris = sorted(publish(k=k).uri for k in range(3))
    result = run("verify")
    assert result.exit_code == 0
    *lines, whole, unproved = result.stdout.splitlines()
    assert lines == [f"ok       {uri}" for uri in uris]
    assert whole == "All 3 artifacts are whole: files, prefixes and digests fit together."
    assert unproved.startswith("Of 3 nothing proves that the figures are those that were published")
    assert unproved.endswith(f": {', '.join(uris)}.")
    assert run("verify", uris[1]).stdout.startswith(f"ok       {uris[1]}\nAll 1 artifacts")


def test_verify_says_nothing_of_proofs_where_others_name_what_was_made(run: Run, publish: Publish) -> None:
    corpus = publish("corpus")
    sae = publish("sae", inputs={"corpus": corpus.ref})
    run("name", sae.uri, "champion", "--author", "ada")
    assert "nothing proves" not in run("verify").stdout


def test_sign_signs_what_no_step_signed_and_verify_wants_it(
    run: Run, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish()
    monkeypatch.setenv("MISTUDIO_SIGNING_KEY", "0123456789abcdef")
    refused = run("verify")
    assert "1 of 1 artifacts are not signed" in str(refused.exception)
    assert refused.stdout == f"unsigned {artifact.uri}\n"
    assert run("sign", artifact.uri).stdout == f"signed   {artifact.uri}\n"
    verified = run("verify")
    assert verified.exit_code == 0
    assert "nothing proves" not in verified.stdout


def test_clean_drops_what_killed_processes_left(run: Run, store: Store, publish: Publish) -> None:
    artifact = publish()
    for name in (f"{artifact.uri}/work/checkpoint", "sae/unfinished/work/checkpoint"):
        assert store.create(name, b"")
    assert run("clean").stdout == "Removed 1 file that nothing needs.\n"
    assert list(store.list("sae/unfinished")) == ["sae/unfinished/work/checkpoint"]
    assert list(artifact.problems()) == []
    assert run("clean").stdout == "Removed 0 files that nothing needs.\n"


def test_verify_names_every_damaged_file_and_goes_on_to_the_end(run: Run, store: Store, publish: Publish) -> None:
    names = ["a", "b", "c"]
    artifacts = [publish(files=dict.fromkeys(names, b"0123456789"), k=k) for k in range(4)]
    flipped, missing, broken, whole = artifacts
    store.fetch(f"{flipped.uri}/b").write_bytes(b"0123456780")
    store.remove(f"{missing.uri}/a")
    store.fetch(f"{missing.uri}/c").write_bytes(b"")
    break_manifest(store, broken.uri)
    result = run("verify")
    error = result.exception
    assert isinstance(error, DamagedArtifact)
    assert error.exit_code == 2
    message = str(error)
    assert message.startswith("3 of 4 artifacts are damaged:")
    for part in (
        f"{flipped.uri}/b has other content",
        f"{missing.uri}/a is missing",
        f"{missing.uri}/c has 0 bytes instead of 10",
        f"{broken.uri}/manifest.json is not a valid manifest",
    ):
        assert message.count(part) == 1
    assert whole.uri not in message
    assert f"ok       {whole.uri}" in result.stdout
    assert f"damaged  {broken.uri}" in result.stdout
    assert run("verify", whole.uri).exit_code == 0


def test_verify_refuses_a_name_that_is_no_artifact(run: Run, publish: Publish) -> None:
    assert isinstance(run("verify", publish().uri, "sae/nothing").exception, NotFound)


def test_remove_asks_first(run: Run, store: Store, publish: Publish) -> None:
    artifact = publish()
    assert run("remove", artifact.uri, answer="n\n").exit_code == 1
    assert run("remove", artifact.uri).exit_code == 1
    assert list(artifact.problems()) == []
    result = run("remove", artifact.uri, answer="y\n")
    assert f"Remove {artifact.uri} (13 bytes)?" in result.stdout
    assert list(store.list("sae")) == []


def test_remove_does_not_ask_when_told_so(run: Run, store: Store, publish: Publish) -> None:
    artifact = publish()
    assert run("remove", artifact.uri, "--yes").stdout == f"Removed {artifact.uri} (13 bytes).\n"
    assert list(store.list("sae")) == []
    assert isinstance(run("remove", artifact.uri, "--yes").exception, NotFound)


def test_remove_refuses_an_input_of_another_artifact_unless_forced(run: Run, store: Store, publish: Publish) -> None:
    corpus = publish("corpus")
    sae = publish("sae", inputs={"corpus": corpus.ref})
    result = run("remove", f"{corpus.uri}/", "--yes")
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == f"{corpus.uri} is an input of {sae.uri}. Remove those first, or add --force."
    assert list(corpus.problems()) == []
    assert run("remove", corpus.uri, "--yes", "--force").exit_code == 0
    assert list(store.list("corpus")) == []


def test_remove_takes_a_damaged_artifact(run: Run, store: Store, publish: Publish) -> None:
    artifact = publish()
    break_manifest(store, artifact.uri)
    assert run("remove", artifact.uri, "--yes").stdout == f"Removed {artifact.uri} (damaged).\n"
    assert list(store.list("sae")) == []


def test_latest_prints_the_prefix_to_go_on_with(run: Run, publish: Publish) -> None:
    publish("sae")
    artifact = publish("corpus")
    assert run("latest", "corpus").stdout == f"{artifact.uri}\n"
    assert json.loads(run("latest", "corpus", "--json").stdout)["digest"] == artifact.digest
    assert isinstance(run("latest", "features").exception, NotFound)


def test_latest_can_say_where_the_artifact_lies(run: Run, store: Store, publish: Publish) -> None:
    artifact = publish("report", files={"dashboard.html": b"page"})
    folder = Path(run("latest", "report", "--path").stdout.rstrip("\n"))
    assert folder == Path(store.url) / artifact.uri
    assert (folder / "dashboard.html").read_bytes() == b"page"


def test_latest_of_no_kind_says_which_kinds_there_are(run: Run, publish: Publish) -> None:
    publish("foo")
    assert run("latest", "foo").exit_code == 0  # another package may have its own
    refused = str(run("latest", "bar").exception)
    assert refused.startswith("There is no kind 'bar'; there is activations, ")
    assert "scores" in refused


def test_a_name_is_given_and_listed(run: Run, publish: Publish) -> None:
    first, second = publish("sae", k=1), publish("sae", k=2)
    assert run("name", first.uri, "champion", "--author", "ada").stdout == f"sae champion is {first.uri} (1).\n"
    assert run("name", second.uri, "champion", "--author", "grace").stdout == f"sae champion is {second.uri} (2).\n"
    (line,) = run("refs").stdout.splitlines()
    assert line.split()[:3] == ["sae", "champion", second.uri]
    assert line.endswith("grace")
    (row,) = json.loads(run("refs", "--kind", "sae", "--json").stdout)
    assert (row["number"], row["digest"], row["author"]) == (2, second.digest, "grace")
    assert run("refs", "--kind", "preset").stdout == ""
    assert isinstance(run("name", "sae/nothing", "champion").exception, NotFound)
