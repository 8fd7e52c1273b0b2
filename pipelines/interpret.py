"""The main job: from text to features, with one command and no setting changed."""

from typing import Any

from kfp import dsl

from components.capture.component import capture
from components.deploy.component import deploy
from components.evaluate.component import evaluate
from components.explain.component import explain
from components.fail_gate.component import fail_gate
from components.find.component import find
from components.find_part.component import find_part
from components.gate.component import gate
from components.ingest.component import ingest
from components.register.component import register
from components.report.component import report
from components.score.component import score
from components.train.component import train
from pipelines._parameters import every, only, pipeline
from pipelines._placing import Loops

_TEXT = ("model", "corpus", "text_column", "context_length", "max_tokens", "ingest_settings")
_JUDGE = ("judge_url", "judge_model", "judge_tokens", "judge_settings")
_FIND = ("model", "contexts", "find_settings", "model_settings", "seed", "store")

TAKES = {
    "ingest": only(*_TEXT, "store"),
    "capture": only(
        *("model", "hook", "layer", "dtype", "quantization", "model_settings", "capture_settings", "store")
    ),
    "train": every("train", without=("model", "hook", "target_hook", "allow_wide"), tokens="train_tokens"),
    "evaluate": only("model", "evaluate_settings", "model_settings", "store"),
    "find_part": only(*_FIND),
    "find": only(*_FIND),
    "explain": only(
        *("model", "explainer", "explain_settings", *_JUDGE, "model_settings", "seed", "store"), only="explain_only"
    ),
    "score": only("model", "scorer", "score_settings", *_JUDGE, "model_settings", "seed", "store"),
    "report": only("report_settings", "store"),
    "gate": every("gate"),
    "register": only("store", name="register_as"),
    "deploy": only("deploy_to", "canary_percent", "deploy_settings", "store"),
}


@pipeline(
    "Read a corpus, capture a model's activations, train a sparse autoencoder on them, measure it, find what "
    "activates its features, explain and score them, and write a dashboard.",
    TAKES,
)
def interpret(given: dict[str, dict[str, Any]], loops: Loops) -> None:
    """From text to a feature dashboard."""
    ingested = ingest(**given["ingest"])
    captured = capture(corpus=ingested.outputs["tokenised_corpus"], **given["capture"])
    trained = train(activations=captured.outputs["activations"], **given["train"])
    evaluated = evaluate(sae=trained.outputs["sae"], **given["evaluate"])
    with dsl.ParallelFor(list(range(loops.find_parts)), name="parts", parallelism=loops.at_once) as part:
        parts = find_part(sae=trained.outputs["sae"], part=part, num_parts=loops.find_parts, **given["find_part"])
    found = find(sae=trained.outputs["sae"], parts=dsl.Collected(parts.outputs["features_part"]), **given["find"])
    explained = explain(features=found.outputs["features"], **given["explain"])
    scored = score(explanations=explained.outputs["explanations"], **given["score"])
    reported = report(
        features=found.outputs["features"],
        evaluation=evaluated.outputs["evaluation"],
        scores=scored.outputs["scores"],
        **given["report"],
    )
    verdict = gate(evaluation=evaluated.outputs["evaluation"], scores=scored.outputs["scores"], **given["gate"]).after(
        reported
    )
    with dsl.If(verdict.output != "", name="falls short"):
        fail_gate(missed=verdict.output)
    with dsl.If(verdict.output == "", name="gate passed"):
        with dsl.If(given["register"]["name"] != "", name="register"):
            register(
                sae=trained.outputs["sae"],
                evaluation=evaluated.outputs["evaluation"],
                scores=scored.outputs["scores"],
                **given["register"],
            )
        with dsl.If(given["deploy"]["deploy_to"] != "", name="deploy"):
            deploy(
                sae=trained.outputs["sae"],
                evaluation=evaluated.outputs["evaluation"],
                scores=scored.outputs["scores"],
                **given["deploy"],
            )
