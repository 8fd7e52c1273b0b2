"""The model that a step takes where none is named: the one that the activations were captured from."""

import subprocess
import sys
from pathlib import Path

import pytest

from mistudio import steps
from mistudio.artifacts import Artifact, Recipe, Store, open_artifact, open_store, produce
from mistudio.errors import ConfigError, InputError
from mistudio.steps.context import Context, activations_behind, named_source
from mistudio.tracking import Run
from tests.support.tiny import published_subject, tiny_corpus, tiny_llama

NEED_A_MODEL = ("evaluate", "probe", "find", "find_part", "explain", "score")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is logged, and asking for the demo subject is an error: it would be trained for minutes."""
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")

    def train(*_: object) -> None:
        pytest.fail("the demo subject was to be trained")

    monkeypatch.setattr("mistudio.demo.train_demo", train)


class Line:
    """A tokenised corpus, a capture and an autoencoder of a model, named as its place in the store or as a folder."""

    def __init__(self, folder: Path, store: Store, *, in_store: bool) -> None:
        source = tiny_llama(folder / "model")
        self.model = published_subject(store, source).uri if in_store else str(folder / "model")
        self.folder, self.store = str(folder / "model"), store
        self.corpus = tiny_corpus(store, source, folder / "text").uri
        self.options = {"device": "cpu", "store": store.url}
        activations = steps.run_step(
            "capture", corpus=self.corpus, model=self.model, hook="resid_post.1", **self.options
        ).artifact
        train = {"width": 64, "k": 4, "tokens": 2000, "store": store.url, "device": "cpu"}
        self.sae = steps.run_step("train", activations=activations.uri, **train).artifact


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Line]:
    """One of a model in the store, and one of the same model in a folder."""
    folder = tmp_path_factory.mktemp("captured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTUDIO_TRACKING", "off")
        return {
            kind: Line(folder / kind, open_store(str(folder / kind / "store")), in_store=kind == "stored")
            for kind in ("stored", "folder")
        }


@pytest.mark.parametrize("step", NEED_A_MODEL)
def test_no_step_that_starts_from_an_artifact_assumes_the_demo(step: str) -> None:
    (model,) = (option for option in steps.STEPS[step].options if option.name == "model")
    assert model.default is None


def test_from_evaluation_to_scores_no_model_has_to_be_named(lines: dict[str, Line]) -> None:
    line = lines["stored"]
    sae = line.sae.uri
    evaluated = steps.run_step("evaluate", sae=sae, **line.options)
    probed = steps.run_step("probe", sae=sae, corpus=line.corpus, labels="task", min_documents=2, **line.options)
    tried = {"ablation_contexts": 0, "attribution_contexts": 0}
    part = steps.run_step("find_part", sae=sae, contexts=3, **line.options)
    found = steps.run_step("find", sae=sae, parts=part.artifact.uri, contexts=3, **tried, **line.options)
    explained = steps.run_step("explain", features=found.artifact.uri, max_tokens=1000, **line.options)
    scored = steps.run_step("score", explanations=explained.artifact.uri, max_tokens=1000, resamples=20, **line.options)
    again = steps.run_step("evaluate", sae=sae, model=line.model, **line.options)
    assert (evaluated.found, again.found) == (False, True)
    assert again.artifact.uri == evaluated.artifact.uri
    assert probed.artifact.manifest.inputs["subject"].uri == line.model
    for done in (found, explained, scored):
        assert activations_behind(line.store, done.artifact).manifest.inputs["subject"].uri == line.model


def test_finding_what_is_there_looks_for_the_model_without_importing_torch(lines: dict[str, Line]) -> None:
    line = lines["stored"]
    published = steps.run_step("evaluate", sae=line.sae.uri, ce_tokens=1000, **line.options).artifact.uri
    code = (
        "import sys\nfrom mistudio import steps\n"
        f"given = { {'sae': line.sae.uri, 'ce_tokens': 1000, 'device': 'cpu', 'store': line.store.url}!r}\n"
        "done = steps.run_step('evaluate', **given)\n"
        "print(done.artifact.uri, done.found, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{published} True False"


def asked(step: str, line: Line, model: str, revision: str = "") -> None:
    more = {"corpus": line.corpus} if step == "probe" else {}
    steps.run_step(step, sae=line.sae.uri, model=model, revision=revision, **more, **line.options)


@pytest.mark.parametrize("step", ["evaluate", "probe", "find", "find_part"])
def test_the_demo_is_refused_before_it_is_trained_where_another_model_was_captured(
    step: str, lines: dict[str, Line]
) -> None:
    with pytest.raises(InputError, match=r"was captured from folder:model, and model demo is subject/\w+: leave model"):
        asked(step, lines["folder"], "demo")


def test_capture_takes_the_model_that_the_corpus_was_tokenised_for(lines: dict[str, Line]) -> None:
    line = lines["stored"]
    text = str(Path(line.folder).parent / "text")
    corpus = steps.run_step("ingest", corpus=text, model=line.model, context_length=32, store=line.store.url).artifact
    made = steps.run_step("capture", corpus=corpus.uri, hook="resid_post.1", **line.options)
    assert made.artifact.manifest.inputs["subject"].uri == line.model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, r"was tokenised for folder:model, and where the model folder model lies is not known: give it as model"),
        ("demo", r"was tokenised for folder:model, and model demo is subject/\w+: leave model out"),
    ],
)
def test_capture_never_trains_the_demo_for_the_corpus_of_another_model(
    model: str | None, message: str, lines: dict[str, Line]
) -> None:
    line = lines["folder"]
    with pytest.raises(InputError, match=message):
        steps.run_step("capture", corpus=line.corpus, model=model, **line.options)


def test_a_model_in_a_folder_has_to_be_named_for_nobody_knows_where_it_lies(lines: dict[str, Line]) -> None:
    line = lines["folder"]
    with pytest.raises(InputError, match=r"give it as model .--model FOLDER; for mistudio serve: --subject"):
        asked("evaluate", line, "")
    assert not steps.run_step("evaluate", sae=line.sae.uri, model=line.folder, **line.options).found


def test_another_model_than_the_one_captured_is_refused_before_it_is_loaded(
    lines: dict[str, Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        pytest.fail("the model was to be loaded")

    monkeypatch.setattr("mistudio.subject.load.load_subject", load)
    tiny_llama(tmp_path / "other", seed=1)
    for step in ("evaluate", "probe", "find", "find_part"):
        with pytest.raises(InputError, match=r"was captured from subject/\w+, but folder:other has other content"):
            asked(step, lines["stored"], str(tmp_path / "other"))


def test_a_revision_of_no_model_is_refused(lines: dict[str, Line]) -> None:
    with pytest.raises(ConfigError, match="revision main is of no model: name the model too"):
        asked("evaluate", lines["stored"], "", revision="main")


def test_an_autoencoder_that_names_no_activations_needs_a_model(lines: dict[str, Line]) -> None:
    line = lines["stored"]
    with pytest.raises(InputError, match=r"subject/\w+ does not say which model .* name it as model"):
        named_source(line.store, "", "", open_artifact(line.store, line.model, "subject"))


def behind(store: Store, **captured: str) -> Artifact:
    """Explanations at the end of a line that begins with a capture which was made so."""
    made: Artifact | None = None
    for kind in ("activations", "sae", "features", "explanations"):
        inputs = {made.manifest.short_kind: made.ref} if made is not None else {}
        config = captured if made is None else {}
        made = produce(store, Recipe(kind=kind, config=config, inputs=inputs), "test", lambda _draft: {}).artifact
    return made


def context_of(step: str, store: Store, **loading: object) -> Context:
    return Context(steps.STEPS[step], store.url, Run(step, store.url), {}, loading, {})


@pytest.mark.parametrize("step", ["explain", "score", "find", "evaluate"])
def test_a_model_is_loaded_as_it_was_captured_wherever_it_is_read_again(step: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    explanations = behind(store, subject_dtype="bfloat16", quantization="nf4")
    subject = context_of(step, store, device="cpu").subject(explanations)
    assert (subject.dtype, subject.quantization, subject.device) == ("bfloat16", "nf4", "cpu")


def test_what_is_given_of_how_a_model_is_loaded_wins_over_the_capture(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    explanations = behind(store, subject_dtype="bfloat16", quantization="nf4")
    subject = context_of("score", store, quantization="int8").subject(explanations)
    assert (subject.dtype, subject.quantization) == ("bfloat16", "int8")


def test_the_steps_that_load_a_model_all_offer_how() -> None:
    for step in NEED_A_MODEL:
        offered = {option.name for option in steps.STEPS[step].options}
        assert {"dtype", "quantization", "model_settings", "trust_remote_code", "device"} <= offered, step
