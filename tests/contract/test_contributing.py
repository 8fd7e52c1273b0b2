"""What the page on contributing tells a newcomer to do is done to a copy of the tree, and used."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "contributing.md"
_BLOCK = re.compile(
    r"^`(?P<file>[\w/.]+)`(?:, (?P<where>before|after) `(?P<line>[^\n]*)`)?:\n\n```python\n(?P<text>.*?)^```\n",
    re.MULTILINE | re.DOTALL,
)
MOST_FILES = {"An option of `train`": 1, "A step": 4, "A scorer": 2, "An architecture": 4, "A corpus format": 1}


class Block(NamedTuple):
    """What the page says to write, and where."""

    file: str
    where: str | None
    line: str | None
    text: str


def blocks_of(heading: str) -> list[Block]:
    (section,) = (part for part in PAGE.read_text(encoding="utf-8").split("\n## ") if part.startswith(heading))
    return [Block(*found.group("file", "where", "line", "text")) for found in _BLOCK.finditer(section)]


def follow(heading: str, tree: Path) -> None:
    """Do to ``tree`` what the page says."""
    for block in blocks_of(heading):
        path = tree / block.file
        if block.where is None:
            assert not path.exists(), f"{block.file} is there already"
            path.write_text(block.text, encoding="utf-8")
            continue
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        place = next((number for number, line in enumerate(lines) if line.startswith(str(block.line))), None)
        assert place is not None, f"{block.file} has no line that begins with {block.line!r}"
        lines.insert(place + (block.where == "after"), block.text)
        path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in ("src/mistudio", "components", "pipelines", "images"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def python(tree: Path, code: str) -> str:
    """What a program prints that runs on the copy."""
    environment = {**os.environ, "PYTHONPATH": f"{tree / 'src'}:{tree}", "MISTUDIO_TRACKING": "off"}
    environment |= {"OMP_NUM_THREADS": "1", "MISTUDIO_CHECKOUT": str(tree), "MISTUDIO_STORE": str(tree / "store")}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("heading", MOST_FILES)
def test_few_files_are_edited(heading: str) -> None:
    files = {block.file for block in blocks_of(heading)}
    assert 1 <= len(files) <= MOST_FILES[heading]


def test_an_option_of_train_reaches_command_component_and_pipeline(tree: Path) -> None:
    follow("An option of `train`", tree)
    code = """
from components.generate import write_all; write_all()
import inspect, sys, json
from components.train.component import train
from pipelines.interpret import interpret
from typer.testing import CliRunner
from mistudio.cli import app
from mistudio.steps import STEPS, check_together
from mistudio.steps.given import check
from pipelines.interpret import TAKES
shown = CliRunner().invoke(app, ["train", "--help"]).output
refused = ""
try:
    check_together(TAKES, {"clip_after": -3})
except Exception as error:
    refused = str(error)
print(json.dumps({
    "command": "--clip-after" in shown,
    "component": inspect.signature(train.python_func).parameters["clip_after"].default,
    "pipeline": inspect.signature(interpret.pipeline_func).parameters["clip_after"].default,
    "handed_on": "clip_after=clip_after" in inspect.getsource(train.python_func),
    "config": check(STEPS["train"], {"clip_after": 5}).config.clip_after,
    "refused": refused,
}))
"""
    assert json.loads(python(tree, code)) == {
        "command": True,
        "component": 10,
        "pipeline": 10,
        "handed_on": True,
        "config": 5,
        "refused": "clip_after: input should be greater than or equal to 0, not -3.",
    }


def test_a_step_has_a_command_and_a_component_that_run(tree: Path) -> None:
    follow("A step", tree)
    code = """
from components.generate import write_all; write_all()
import json
from typer.testing import CliRunner
from mistudio.artifacts import Recipe, open_store, produce
from mistudio.cli import app
from mistudio.sae import TopKConfig, new_autoencoder
from mistudio.sae.files import CONFIG_NAME, WEIGHTS_NAME, config_json, save_weights
store = open_store("store")
sae = new_autoencoder(TopKConfig(width=64, k=4), 8)
sae.W_dec.data.fill_(0.5)
def build(draft):
    with draft.stage(WEIGHTS_NAME) as path:
        save_weights(sae, path)
    draft.write(CONFIG_NAME, config_json(sae, "resid_post.0", 1.0))
    return {}
made = produce(store, Recipe(kind="sae", config={}), "train", build).artifact
command = ["lengths", "--sae", made.uri, "--quantile", "0.9", "--store", "store", "--json"]
done = CliRunner().invoke(app, command)
assert done.exit_code == 0, done.output + repr(done.exception)
from components.lengths.component import lengths
print(json.dumps([json.loads(done.stdout)["length"], sorted(lengths.component_spec.inputs)]))
"""
    length, inputs = json.loads(python(tree, code))
    assert length == pytest.approx((8 * 0.25) ** 0.5)
    assert inputs == ["quantile", "sae", "store"]


def test_a_scorer_is_offered_checked_and_scores_with_its_settings(tree: Path) -> None:
    follow("A scorer", tree)
    code = """
import json
from mistudio.explain.records import Explanation
from mistudio.score.config import SCORERS
from mistudio.score.records import Case
from mistudio.steps import STEPS
from mistudio.steps.given import check
asked = check(STEPS["score"], {"scorer": "brevity", "score_settings": {"brevity": {"free_words": 1}}}).config
scorer = SCORERS.new("brevity", asked, None, 0, None)
case = Case(Explanation(feature=3, explainer="person", text="words of three", label="x"), ())
other = check(STEPS["score"], {"scorer": "brevity"}).config
first, second = (SCORERS.recipe(("brevity",), each, []) for each in (asked, other))
print(json.dumps([next(iter(scorer.score([case]))).value, "brevity" in SCORERS.names(), first != second]))
"""
    assert json.loads(python(tree, code)) == [0.5, True, True]


def test_an_architecture_is_offered_encodes_and_trains(tree: Path) -> None:
    follow("An architecture", tree)
    code = """
import json, torch
from mistudio.sae import new_autoencoder
from mistudio.steps import STEPS
from mistudio.steps.given import check
given = {"architecture": "capped", "width": 64, "k": 4, "train_settings": {"cap": 2.0}}
config = check(STEPS["train"], given).config.sae
sae = new_autoencoder(config, 8)
torch.nn.init.normal_(sae.W_enc, std=10.0)
acts_TF = sae.encode(torch.randn(32, 8))
from mistudio import steps
point = steps.call("grid", architectures="capped", sparsities="4", widths="64")[0]
most = int((acts_TF > 0).sum(1).max())
print(json.dumps([float(acts_TF.max()), most, type(sae.for_training()).__name__, point["k"]]))
"""
    assert json.loads(python(tree, code)) == [2.0, 4, "TopKTraining", 4]


def test_a_corpus_format_is_read(tree: Path) -> None:
    follow("A corpus format", tree)
    (tree / "text.tsv").write_text("label\ttext\na\tone two\nb\tthree\n", encoding="utf-8")
    code = """
import json
from mistudio.corpus.sources import open_source
from mistudio.artifacts import open_store
source = open_source("text.tsv", open_store("store"))
print(json.dumps([[document.text, document.label] for document in source.documents()]))
"""
    assert json.loads(python(tree, code)) == [["one two", "a"], ["three", "b"]]
