"""The Markdown page on what a step published: everything of it, and nothing of it as markup."""

from pathlib import Path

from mistudio.artifacts import Artifact, Draft, InputRef, Recipe, Summary, open_store, produce
from mistudio.steps import StepOutput
from mistudio.steps.summary_page import summary_page

HOSTILE = "<script>alert(1)</script> | [x](javascript:x) `code`"


def published(folder: Path) -> Artifact:
    def build(draft: Draft) -> Summary:
        draft.write("text.txt", b"text")
        return {"documents": 1234, "explained_variance": 0.123456789, HOSTILE: HOSTILE}

    inputs = {"source": InputRef(uri=f"file:{HOSTILE}", digest="d" * 64)}
    config = {"k": 4, "name": HOSTILE, "nested": {"rate": 0.5, "none": None}}
    recipe = Recipe(kind="corpus", config=config, inputs=inputs, seed=3)
    return produce(open_store(str(folder)), recipe, "ingest", build).artifact


def test_it_has_figures_inputs_and_settings(tmp_path: Path) -> None:
    artifact = published(tmp_path)
    page = summary_page("ingest", artifact, found=False, seconds=1234.56)
    assert page.startswith(f"# ingest: {artifact.uri}\n\nMade in 1,234.6 s, digest `{artifact.digest[:12]}`.")
    assert "| documents | 1234 |" in page
    assert "| explained\\_variance | 0.123457 |" in page
    assert "(dddddddddddd) |" in page
    assert "| nested.rate | 0.5 |" in page
    assert "none" not in page
    assert "| seed | 3 |" in page
    assert summary_page("ingest", artifact, found=True, seconds=0.1).splitlines()[2].startswith("Found published")


def test_nothing_of_what_others_wrote_is_markup(tmp_path: Path) -> None:
    page = summary_page("ingest", published(tmp_path), found=False, seconds=1)
    assert "<script>" not in page.replace("\\<", "")
    rows = [line for line in page.splitlines() if "script" in line]
    assert len(rows) == 3
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows)
    assert all("\\[x\\](javascript:x) \\`code\\`" in line for line in rows)


def test_a_component_writes_it_where_kubeflow_says(tmp_path: Path) -> None:
    class KfpArtifact:
        path = str(tmp_path / "page")

    artifact = published(tmp_path / "store")
    StepOutput("ingest", artifact, True, 0.1).write_summary_to(KfpArtifact)
    assert (tmp_path / "page").read_text(encoding="utf-8").startswith("# ingest")
