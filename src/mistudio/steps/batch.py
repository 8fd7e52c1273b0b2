"""The batch steps of the main line as functions of plain values: what the command line and the KFP components call.

Each builds the step's configuration, fills in what it was asked to choose, and runs it. Heavy imports
happen inside, so that naming the steps and their parameters costs nothing.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, InputRef, Produced, Store, open_artifact
from mistudio.errors import SubjectError
from mistudio.steps.captured import captured_subject, check_demo
from mistudio.steps.defaults import (
    CHOOSE,
    choose_context_length,
    choose_layer,
    name_hooks,
    optional,
)
from mistudio.steps.running import StepOutput, run_step
from mistudio.steps.training import training_config
from mistudio.steps.validation import json_object, validated
from mistudio.tracking import Run

if TYPE_CHECKING:
    from mistudio.subject import SubjectConfig, SubjectSource
    from mistudio.subject.facts import ModelFacts


def ingest(
    model: str = "demo",
    corpus: str = "python-docs",
    context_length: int = CHOOSE,
    max_tokens: int = 1_500_000,
    held_out_fraction: float = 0.1,
    text_column: str = "",
    label_column: str = "",
    task_column: str = "",
    revision: str = "",
    trust_remote_code: bool = False,
    store: str = "",
) -> StepOutput:
    """Read a corpus, tokenise it for a model and split it by document.

    Args:
        model: Language model: demo, a folder, an id on the model hub (NAME@REVISION), or subject/... in the store.
        corpus: Corpus: python-docs, a file, a folder, hf:NAME, or the name of an added corpus.
        context_length: Tokens in a sequence, special tokens included; -1: as the model takes, at most 512.
        max_tokens: Stop after about this many tokens; -1: read the whole corpus.
        held_out_fraction: Share of documents held out for evaluation.
        text_column: Column that holds the text; empty: found by name.
        label_column: Column that holds a label; empty: found by name, or none.
        task_column: Column that names the task; empty: found by name, or the file's name.
        revision: Branch, tag or commit on the model hub.
        trust_remote_code: Run Python code that comes with the model.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.corpus.ingest import IngestConfig, ingest_with
    from mistudio.corpus.sources import open_source
    from mistudio.subject.tokens import load_tokenizer

    def work(opened: Store, _run: Run) -> Produced:
        source = subject_source(model, revision, opened)
        facts = model_facts(source, trust_remote_code, opened)
        settings = {
            "context_length": choose_context_length(context_length, facts.max_positions),
            "max_tokens": optional(max_tokens),
            "held_out_fraction": held_out_fraction,
        }
        config = validated(IngestConfig, settings)
        documents = open_source(
            corpus,
            opened,
            text_column=text_column or None,
            label_column=label_column or None,
            task_column=task_column or None,
        )
        reference = InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest)
        return ingest_with(opened, documents, lambda: load_tokenizer(source, trust_remote_code), reference, config)

    return run_step("ingest", store, work)


def capture(
    corpus: str,
    model: str = "demo",
    hook: str = "resid_post",
    layer: int = CHOOSE,
    max_tokens: int = CHOOSE,
    batch_size: int = 32,
    storage_dtype: str = "float16",
    stored: str = "all",
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    device: str = "auto",
    revision: str = "",
    trust_remote_code: bool = False,
    store: str = "",
) -> StepOutput:
    """Run the corpus through the model and keep the activations at a hook point.

    Args:
        corpus: Tokenised corpus (corpus/...).
        model: Language model: demo, a folder, an id on the model hub (NAME@REVISION), or subject/... in the store.
        hook: Hook point: resid_pre, resid_mid, resid_post, attn_out, mlp_in, mlp_out or mlp_act, at layer, or with
            a layer of its own, such as resid_post.3; several with commas.
        layer: Layer of hook points that name none, from 0; -1: the middle one.
        max_tokens: Keep at most about this many training tokens; -1: all.
        batch_size: Sequences of full length in one forward pass, 1 to 128.
        storage_dtype: Number format of the stored activations: float16 or bfloat16.
        stored: What to store: all, or heldout, where training computes its activations anew as it goes (live).
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        device: Where to compute: auto, cpu, cuda or cuda:N.
        revision: Branch, tag or commit on the model hub.
        trust_remote_code: Run Python code that comes with the model.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.activations import CaptureConfig
    from mistudio.activations import capture as capture_activations

    def work(opened: Store, _run: Run) -> Produced:
        source = subject_source(model, revision, opened)
        layers = model_facts(source, trust_remote_code, opened).num_layers
        if layers is None:
            message = f"The configuration of {source.name} does not say how many transformer blocks there are."
            raise SubjectError(message)
        hooks = [f"{kind}.{choose_layer(number, layers)}" for kind, number in name_hooks(hook, layer)]
        settings = {
            "hooks": hooks,
            "max_tokens": optional(max_tokens),
            "batch_size": batch_size,
            "storage_dtype": storage_dtype,
            "stored": stored,
        }
        config = validated(CaptureConfig, settings)
        subject = subject_settings(dtype, quantization, device, trust_remote_code, model_settings)
        return capture_activations(opened, open_artifact(opened, corpus, "corpus"), source, subject, config)

    return run_step("capture", store, work)


def train(
    activations: str,
    model: str = "",
    hook: str = "",
    architecture: str = "topk",
    width: int = CHOOSE,
    k: int = CHOOSE,
    target_l0: float = CHOOSE,
    l1_coefficient: float = 0.02,
    skip: str = "none",
    target_hook: str = "",
    allow_wide: bool = False,
    tokens: int = 3_000_000,
    max_epochs: int = 50,
    batch_size: int = 512,
    learning_rate: float = CHOOSE,
    normalisation: str = "centred",
    encoder_dtype: str = "float32",
    patience: int = 10,
    min_loss: float = 0.0,
    train_settings: str = "",
    checkpoint_every_steps: int = 500,
    model_settings: str = "",
    device: str = "auto",
    parallel: str = "data",
    seed: int = 0,
    store: str = "",
) -> StepOutput:
    """Train a sparse autoencoder on captured activations.

    Args:
        activations: Captured activations (activations/...).
        model: Model that activations come from live (captured with stored heldout); empty: where capture says.
        hook: Hook point with its layer, such as resid_post.3; empty: the only one captured.
        architecture: Kind of autoencoder: topk, batchtopk, matryoshka, standard, gated or jumprelu.
        width: Number of features, 64 to 32,768; -1: eight times the activations' width, at least 1,024.
        k: Active features a token (topk, batchtopk, matryoshka); -1: a quarter of the activations' width, 8 to 64.
        target_l0: Active features a token the penalty is steered to (standard, gated, jumprelu); -1: fixed penalty.
        l1_coefficient: Weight of the L1 norm (standard, gated), above 0 and at most 1; at first, with target_l0.
        skip: What passes beside the features: none, scale, learned_scale, or linear (transcoders).
        target_hook: Hook point that a transcoder predicts, captured in the same run; empty: autoencoder.
        allow_wide: Accept more than 32,768 features.
        tokens: Activations (tokens) to train on; repeats the captured ones if need be.
        max_epochs: Most passes over the captured activations.
        batch_size: Activations (tokens) in one step.
        learning_rate: Peak learning rate; -1: 0.125 / sqrt(width).
        normalisation: Of the activations: none, unit_mean_square or centred.
        encoder_dtype: Number format of the encoder product: float32 or bfloat16.
        patience: Checks without improvement until training winds down; 0: never.
        min_loss: Loss at which training winds down; 0: never.
        train_settings: Other settings of training as JSON, such as {"ema_decay": 0.999, "skip": "scale"}.
        checkpoint_every_steps: Steps between two checkpoints.
        model_settings: Settings of loading the live model as JSON, such as {"trust_remote_code": true}.
        device: Where to compute: auto, cpu, cuda or cuda:N.
        parallel: What processes started by accelerate or torchrun share: data (the tokens of a batch) or latents.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.subject import device_name
    from mistudio.train import TrainRuntime
    from mistudio.train import train as train_autoencoder

    def work(opened: Store, run: Run) -> Produced:
        artifact = open_artifact(opened, activations, "activations")
        others = {
            "target_hook": target_hook or None,
            "skip": skip,
            "allow_wide": allow_wide,
            "normalisation": normalisation,
            "encoder_dtype": encoder_dtype,
            "tokens": tokens,
            "max_epochs": max_epochs,
            "batch_size": batch_size,
            "learning_rate": None if learning_rate == CHOOSE else learning_rate,
            "patience": patience,
            "min_loss": min_loss,
        }
        sparsity = {"k": k, "target_l0": target_l0, "l1_coefficient": l1_coefficient}
        config = training_config(artifact, hook, architecture, width, sparsity, others, train_settings)
        runtime = validated(
            TrainRuntime,
            {
                "device": device_name(device),
                "checkpoint_every_steps": checkpoint_every_steps,
                "parallel": parallel,
                "subject": subject_settings(
                    "auto", "none", device, trust_remote_code=False, model_settings=model_settings
                ),
            },
        )
        source = subject_source(model, "", opened, artifact) if model else None
        return train_autoencoder(opened, artifact, config, seed, runtime, run.log_metrics, source)

    chosen = {"width": width, "k": k, "target_l0": target_l0, "seed": seed}
    about = [architecture, *(f"{name} {value:g}" for name, value in chosen.items() if value != CHOOSE)]
    return run_step("train", store, work, plot_training, about=", ".join(about))


def evaluate(
    sae: str,
    model: str = "",
    ce_tokens: int = 100_000,
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    device: str = "auto",
    revision: str = "",
    trust_remote_code: bool = False,
    seed: int = 0,
    store: str = "",
) -> StepOutput:
    """Measure an autoencoder on held-out documents, alone and spliced into the model.

    Args:
        sae: Trained autoencoder (sae/...).
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        ce_tokens: About how many held-out tokens to run through the model.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        device: Where to compute: auto, cpu, cuda or cuda:N.
        revision: Branch, tag or commit on the model hub.
        trust_remote_code: Run Python code that comes with the model.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.evaluate import EvaluateConfig
    from mistudio.evaluate import evaluate as evaluate_autoencoder

    def work(opened: Store, _run: Run) -> Produced:
        subject = subject_settings(dtype, quantization, device, trust_remote_code, model_settings)
        config = validated(EvaluateConfig, {"ce_tokens": ce_tokens})
        autoencoder = open_artifact(opened, sae, "sae")
        source = subject_source(model, revision, opened, autoencoder)
        return evaluate_autoencoder(opened, autoencoder, source, subject, config, seed)

    return run_step("evaluate", store, work, _plot_evaluation, about=sae)


def report(
    features: str,
    evaluation: str,
    scores: str = "",
    title: str = "Feature dashboard",
    contexts_per_feature: int = 10,
    store: str = "",
) -> StepOutput:
    """Write the feature dashboard: one HTML file.

    Args:
        features: Found features (features/...).
        evaluation: Evaluation of the same autoencoder (evaluation/...).
        scores: Scores of its features' explanations (scores/...); empty: show no explanations.
        title: Title of the page.
        contexts_per_feature: Strongest contexts shown a feature.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.report.step import ReportConfig
    from mistudio.report.step import report as write_report

    def work(opened: Store, _run: Run) -> Produced:
        config = validated(ReportConfig, {"title": title, "contexts_per_feature": contexts_per_feature})
        found, measured = open_artifact(opened, features, "features"), open_artifact(opened, evaluation, "evaluation")
        scored = open_artifact(opened, scores, "scores") if scores else None
        return write_report(opened, found, measured, config, scored)

    return run_step("report", store, work, _keep_dashboard)


def subject_source(model: str, revision: str, store: Store, made_from: Artifact | None = None) -> "SubjectSource":
    """Find the model that a step's parameters name; if they name none, the one behind the artifact ``made_from``."""
    from mistudio.demo import DEMO, resolve_model

    if made_from is not None and not model:
        return captured_subject(store, made_from, revision)
    if made_from is not None and model == DEMO:
        check_demo(store, made_from)
    if "@" in model and not revision and not Path(model).exists():
        model, _, revision = model.rpartition("@")
    return resolve_model(model, revision or None, store)


def model_facts(source: "SubjectSource", trust_remote_code: bool, store: Store) -> "ModelFacts":
    """What the configuration of a model says, remembered in the store's private folder."""
    from mistudio.subject.facts import model_facts as facts_of

    return facts_of(source, trust_remote_code, Path(store.url) / ".mistudio" / "models")


def subject_settings(
    dtype: str, quantization: str, device: str, trust_remote_code: bool, model_settings: str = ""
) -> "SubjectConfig":
    """How a step's parameters load the model; ``model_settings`` is JSON, and wins."""
    from mistudio.subject import SubjectConfig

    settings = {
        "dtype": dtype,
        "quantization": quantization,
        "device": device,
        "trust_remote_code": trust_remote_code,
        **json_object("model_settings", model_settings, '{"device_map": "auto"}'),
    }
    return validated(SubjectConfig, settings)


def plot_training(sae: Artifact, run: Run) -> None:
    """Keep the curves of a training with its run."""
    from mistudio.report.plots import training_figure
    from mistudio.train import TRAINING_NAME

    history = json.loads(sae.file(TRAINING_NAME).read_bytes())
    names = [name for name in ("fvu", "l0", "dead_fraction") if name in history[0]]
    steps = [int(point["step"]) for point in history]
    figure = training_figure(steps, {name: [point[name] for point in history] for name in names})
    run.log_figure(figure, "training.png")


def _plot_evaluation(evaluation: Artifact, run: Run) -> None:
    import pyarrow.parquet as pq

    from mistudio.evaluate import DENSITY_NAME
    from mistudio.report.metrics import read_metrics
    from mistudio.report.plots import ce_figure, density_figure, redundancy_figure

    table = pq.read_table(evaluation.file(DENSITY_NAME))
    run.log_figure(density_figure(table["density"].to_numpy()), "density.png")
    run.log_figure(redundancy_figure(table["max_cosine"].to_numpy()), "redundancy.png")
    run.log_figure(ce_figure(read_metrics(evaluation)), "cross_entropy.png")


def _keep_dashboard(report_artifact: Artifact, run: Run) -> None:
    for name in report_artifact.paths():
        run.log_file(report_artifact.file(name))
