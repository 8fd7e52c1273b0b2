"""A step whose settings were changed, any of them and at any depth, does not find what it made with others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from mistudio.activations import CaptureConfig, capture
from mistudio.artifacts import Artifact, InputRef, Produced, Store
from mistudio.artifacts.local import LocalStore
from mistudio.corpus.ingest import IngestConfig, ingest_with
from mistudio.corpus.sources import open_source
from mistudio.correlate.index.config import IndexConfig
from mistudio.correlate.index.step import index
from mistudio.demo import DemoConfig, train_demo
from mistudio.directions.config import DirectionConfig
from mistudio.directions.example_files import Files
from mistudio.directions.step import direction
from mistudio.evaluate import EvaluateConfig, evaluate
from mistudio.evaluate.probing import ProbeConfig, probe
from mistudio.evaluate.stability import StabilityConfig, stability
from mistudio.explain import ExplainConfig, JudgeSource, explain
from mistudio.explain import registry as registry_module
from mistudio.find import FindConfig, find_features
from mistudio.find.config import MoreConfig, PassConfig
from mistudio.find.more import find_more
from mistudio.find.step import find_part
from mistudio.monitor.calibrate.config import CalibrateConfig
from mistudio.monitor.calibrate.step import calibrate
from mistudio.monitor.calibrate.texts import Reference
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.report.compare import CompareConfig, compare
from mistudio.report.step import ReportConfig, report
from mistudio.sae import BatchTopKConfig, GatedConfig, JumpReLUConfig, MatryoshkaConfig, StandardConfig, TopKConfig
from mistudio.score import ScoreConfig, score
from mistudio.steer.evaluate.config import SteerEvaluateConfig
from mistudio.steer.evaluate.step import steer_evaluate
from mistudio.steps.registry import STEPS
from mistudio.subject import SubjectConfig
from mistudio.train import TrainConfig, train
from mistudio.train.config import TogetherConfig
from tests.support.settings import changed
from tests.support.tiny_run import CPU, HOOK, TinyRun, llama_run

OTHER_HOOK = "resid_mid.1"
SHORT = TrainConfig(hook=HOOK, sae=TopKConfig(width=64, k=4), tokens=2000, batch_size=256, buffer_rows=1024)
EXPLAINERS = ("program", "max-activating", "contrastive", "token-activation-pairs", "plugin")
SCORERS = (
    "program",
    "detection",
    "fuzzing",
    "simulation",
    "surprisal",
    "embedding",
    "intruder",
    "intervention",
    "plugin",
)
# Values that cannot be guessed, by the name of the setting.
OTHERS: dict[str, Any] = {
    "hook": OTHER_HOOK,
    "hooks": (OTHER_HOOK,),
    "target_hook": OTHER_HOOK,
    "prefixes": (16, 64),
    "plugins": {"plugin": {"size": 2}},
    "only": "0-63",
    "roles": ("user",),
    "factors": (0.5, 1.0),
    "target_kl": 0.5,
    "bits": 4,
    "piece_tokens": 256,
}
SEARCHED = FindConfig(map=False, contexts=2, lens_tokens=2, attribution_contexts=2, causal_tflop=1e-4)
STEERED = ScoreConfig(scorers=("intervention",))  # the only scorer that runs the model
JUDGE = JudgeSource(settings={}, open=nullcontext)  # type: ignore[arg-type] -- nothing is asked


class Line(NamedTuple):
    """One artifact of each kind, and what else the steps read."""

    run: TinyRun
    folder: Path
    saes: tuple[Artifact, Artifact]
    evaluation: Artifact
    features: Artifact
    explanations: Artifact
    scores: Artifact


class PluginConfig(BaseModel):
    """Settings of an explainer and scorer of another package."""

    size: int = 1


class Plugin:
    """What that package registers, as an explainer and as a scorer."""

    name, config_class = "plugin", PluginConfig

    def load(self) -> type["Plugin"]:
        """Itself: it is never made here."""
        return Plugin


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [Plugin()])


class Planned(Exception):
    """A step would have made this."""


class PlanningStore(LocalStore):
    """The same store, except that nothing is made in it."""

    @contextmanager
    def lease(self, prefix: str) -> Iterator[None]:
        """Refuse the step that is about to begin."""
        raise Planned(prefix)
        yield


Call = Callable[[Store, Line, Any], Produced]


def ingest_text(store: Store, line: Line, config: IngestConfig) -> Produced:
    text = line.folder / "text.jsonl"
    text.write_text('{"text": "cats sit"}\n')
    return ingest_with(store, open_source(str(text), store), dict, InputRef(uri="tokenizer:a", digest="a"), config)


def train_small_demo(store: Store, line: Line, config: DemoConfig) -> Produced:
    (line.folder / "module.py").write_text('"""A module."""\n')
    return train_demo(store, config, stdlib=line.folder)


def examples(line: Line) -> Files:
    path = line.folder / "examples.jsonl"
    path.write_text('{"text": "cats sit", "label": 1}\n')
    return Files.read(str(path))


CALLS: dict[str, tuple[BaseModel, Call]] = {
    "demo": (DemoConfig(), train_small_demo),
    "ingest": (IngestConfig(), ingest_text),
    "capture": (
        CaptureConfig(hooks=(HOOK,)),
        lambda store, line, config: capture(store, line.run.corpus, line.run.source, CPU, config),
    ),
    **{
        f"train {sae.architecture}": (
            TrainConfig(hook=HOOK, sae=sae),
            lambda store, line, config: train(store, line.run.activations, config),
        )
        for sae in (
            TopKConfig(width=64, k=4),
            BatchTopKConfig(width=64, k=4),
            MatryoshkaConfig(width=64, k=4),
            StandardConfig(width=64),
            GatedConfig(width=64),
            JumpReLUConfig(width=64),
        )
    },
    "evaluate": (
        EvaluateConfig(),
        lambda store, line, config: evaluate(store, line.saes[0], line.run.source, CPU, config),
    ),
    "stability": (StabilityConfig(), lambda store, line, config: stability(store, line.saes, config)),
    "probe": (
        ProbeConfig(),
        lambda store, line, config: probe(store, line.saes[0], line.run.corpus, line.run.source, CPU, config),
    ),
    "direction": (
        DirectionConfig(hook=HOOK),
        lambda store, line, config: direction(store, examples(line), line.run.source, CPU, config),
    ),
    "index": (IndexConfig(), lambda store, line, config: index(store, line.saes[0], config)),
    "steer_evaluate": (
        SteerEvaluateConfig(),
        lambda store, line, config: steer_evaluate(store, line.features, line.run.source, CPU, config),
    ),
    "find_part": (
        PassConfig(),
        lambda store, line, config: find_part(store, line.saes[0], line.run.source, CPU, config, part=0, num_parts=2),
    ),
    "find": (
        FindConfig(),
        lambda store, line, config: find_features(store, line.saes[0], line.run.source, CPU, config),
    ),
    "find_more": (
        MoreConfig(),
        lambda store, line, config: find_more(store, line.features, line.run.source, CPU, config),
    ),
    "explain": (
        ExplainConfig(explainers=EXPLAINERS),
        lambda store, line, config: explain(store, line.features, line.run.source, CPU, config, judge=JUDGE),
    ),
    "score": (
        ScoreConfig(scorers=SCORERS),
        lambda store, line, config: score(store, line.explanations, line.run.source, CPU, config, judge=JUDGE),
    ),
    "report": (
        ReportConfig(),
        lambda store, line, config: report(store, line.features, line.evaluation, config, line.scores),
    ),
    "calibrate": (
        CalibrateConfig(),
        lambda store, line, config: calibrate(
            store,
            WatchList.model_validate({"watched": [{"name": "a", "feature": 1}]}),
            [line.saes[0]],
            Reference(line.run.corpus, config.split),
            line.run.source,
            CPU,
            config,
        ),
    ),
    "compare": (CompareConfig(), lambda store, line, config: compare(store, [line.evaluation], config)),
}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    folder = tmp_path_factory.mktemp("line")
    run = llama_run(tmp_path_factory)
    own = run.store
    sae, other = (train(own, run.activations, SHORT, seed).artifact for seed in range(2))
    features = find_features(own, sae, run.source, CPU, SEARCHED).artifact
    evaluation = evaluate(own, sae, run.source, CPU, EvaluateConfig(max_tokens=500, ce_tokens=500)).artifact
    explanations = explain(own, features, run.source, CPU, ExplainConfig(max_tokens=2000)).artifact
    scores = score(own, explanations, run.source, CPU, ScoreConfig(max_tokens=2000, resamples=20)).artifact
    return Line(run, folder, (sae, other), evaluation, features, explanations, scores)


def planned(line: Line, call: Call, config: BaseModel) -> str:
    """Where the step would publish."""
    store = PlanningStore(line.run.store.root)
    with pytest.raises(Planned) as refused:
        call(store, line, config)
    return str(refused.value)


def test_every_step_that_publishes_is_tried_here() -> None:
    configs = {step.config_class for step in STEPS.values() if step.config_class and step.output}
    configs -= {TogetherConfig}  # it stands for several TrainConfigs
    assert configs - {type(config) for config, _ in CALLS.values()} == set()


@pytest.mark.parametrize("step", CALLS)
def test_each_setting_is_in_the_recipe(step: str, line: Line) -> None:
    config, call = CALLS[step]
    settings = dict(changed(config, OTHERS, without=("plugins",)))  # those are of other packages
    prefixes = {name: planned(line, call, other) for name, other in settings.items()}
    own = planned(line, call, config)
    assert own == planned(line, call, config)
    assert [name for name, prefix in prefixes.items() if prefix == own] == []
    assert len(set(prefixes.values())) == len(settings) > 0


def test_how_the_model_computes_is_in_the_recipe_of_each_step_that_runs_it(line: Line) -> None:
    run, (sae, _) = line.run, line.saes
    half = SubjectConfig(device="cpu", dtype="bfloat16")
    steps: dict[str, Callable[[Store, SubjectConfig], Produced]] = {
        "capture": lambda store, how: capture(store, run.corpus, run.source, how, CaptureConfig(hooks=(OTHER_HOOK,))),
        "evaluate": lambda store, how: evaluate(store, sae, run.source, how),
        "probe": lambda store, how: probe(store, sae, run.corpus, run.source, how),
        "direction": lambda store, how: direction(store, examples(line), run.source, how, DirectionConfig(hook=HOOK)),
        "steer_evaluate": lambda store, how: steer_evaluate(store, line.features, run.source, how),
        "find": lambda store, how: find_features(store, sae, run.source, how),
        "score": lambda store, how: score(store, line.explanations, run.source, how, STEERED, judge=JUDGE),
    }
    for step, call in steps.items():
        one, other = (planned(line, lambda store, _, how: call(store, how), how) for how in (CPU, half))  # noqa: B023
        assert one != other, step
