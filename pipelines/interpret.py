"""The main job: from text to a feature dashboard."""

from kfp import dsl

from components.capture.component import capture
from components.evaluate.component import evaluate
from components.explain.component import explain
from components.fail_gate.component import fail_gate
from components.find.component import find
from components.find_part.component import find_part
from components.gate.component import gate
from components.ingest.component import ingest
from components.report.component import report
from components.score.component import score
from components.train.component import train

# Parts of find's pass: as many as KFP's local runner does at once.
FIND_PARTS = 2


@dsl.pipeline(
    name="interpret",
    description="Read a corpus, capture a model's activations, train a sparse autoencoder on them, "
    "measure it, find what activates its features, explain and score them, and write a dashboard.",
)
def interpret(
    model: str = "demo",
    corpus: str = "python-docs",
    text_column: str = "",
    context_length: int = -1,
    max_tokens: int = 1_500_000,
    hook: str = "resid_post",
    layer: int = -1,
    architecture: str = "topk",
    width: int = -1,
    k: int = -1,
    target_l0: float = -1,
    l1_coefficient: float = 0.02,
    train_tokens: int = 3_000_000,
    train_settings: str = "",
    contexts: int = 20,
    explainer: str = "program",
    scorer: str = "program",
    judge_url: str = "",
    judge_model: str = "",
    judge_tokens: int = -1,
    judge_settings: str = "",
    min_explained_variance: float = 0.0,
    min_ce_recovered: float = 0.0,
    max_dead: float = 1.0,
    min_interpretable: int = 0,
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """From text to a feature dashboard.

    Args:
        model: Language model: demo, a folder, an id on the model hub (NAME@REVISION), or subject/... in the store.
        corpus: Corpus: python-docs, a file, a folder, hf:NAME, or the name of an added corpus.
        text_column: Column that holds the text; empty: found by name.
        context_length: Tokens in a sequence, special tokens included; -1: as the model takes, at most 512.
        max_tokens: Stop reading the corpus after about this many tokens; -1: read it all.
        hook: Hook point: resid_pre, resid_mid, resid_post, attn_out, mlp_in, mlp_out or mlp_act, at layer, or with
            a layer of its own, such as resid_post.3.
        layer: Layer of a hook point that names none, from 0; -1: the middle one.
        architecture: Kind of autoencoder: topk, batchtopk, matryoshka, standard, gated or jumprelu.
        width: Number of features, 64 to 32,768; -1: eight times the activations' width, at least 1,024.
        k: Active features a token (topk, batchtopk, matryoshka); -1: a quarter of the activations' width, 8 to 64.
        target_l0: Active features a token the penalty is steered to (standard, gated, jumprelu); -1: fixed penalty.
        l1_coefficient: Weight of the L1 norm (standard, gated), above 0 and at most 1; at first, with target_l0.
        train_tokens: Activations (tokens) to train on; repeats the captured ones if need be.
        train_settings: Other settings of training as JSON, such as {"ema_decay": 0.999, "skip": "scale"}.
        contexts: Strongest contexts kept a feature, each from another document.
        explainer: Who explains: program, max-activating, contrastive, token-activation-pairs; several with commas.
        scorer: Who scores: program, detection, fuzzing, simulation, surprisal, embedding, intruder, intervention; or
            several, with commas.
        judge_url: Address of an OpenAI-compatible endpoint, up to and with /v1; programs need none.
        judge_model: Name of the language model there; without judge_url a folder or hub id of one to load here.
        judge_tokens: Most tokens, read and written, to pay for in each of the two steps; -1: no limit.
        judge_settings: Other settings of it as JSON, such as {"temperature": null, "concurrency": 32}.
        min_explained_variance: Least explained variance on held-out documents; 0: any.
        min_ce_recovered: Least share of the cross-entropy recovered; 0: any.
        max_dead: Largest share of features that never fire; 1: any.
        min_interpretable: Fewest features whose explanation scores 0.8 or more; 0: any.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    ingested = ingest(
        model=model,
        corpus=corpus,
        text_column=text_column,
        context_length=context_length,
        max_tokens=max_tokens,
        store=store,
    )
    captured = capture(
        corpus=ingested.outputs["tokenised_corpus"],
        model=model,
        hook=hook,
        layer=layer,
        dtype=dtype,
        quantization=quantization,
        model_settings=model_settings,
        store=store,
    )
    trained = train(
        activations=captured.outputs["activations"],
        architecture=architecture,
        width=width,
        k=k,
        target_l0=target_l0,
        l1_coefficient=l1_coefficient,
        tokens=train_tokens,
        train_settings=train_settings,
        model_settings=model_settings,
        seed=seed,
        store=store,
    )
    subject = {
        "model": model,
        "dtype": dtype,
        "quantization": quantization,
        "model_settings": model_settings,
        "store": store,
    }
    evaluated = evaluate(sae=trained.outputs["sae"], **subject)
    with dsl.ParallelFor(list(range(FIND_PARTS)), name="parts") as part:
        parts = find_part(
            sae=trained.outputs["sae"], part=part, num_parts=FIND_PARTS, contexts=contexts, seed=seed, **subject
        )
    found = find(
        sae=trained.outputs["sae"],
        parts=dsl.Collected(parts.outputs["features_part"]),
        contexts=contexts,
        seed=seed,
        **subject,
    )
    endpoint = {"judge_url": judge_url, "judge_model": judge_model}
    judge = endpoint | {"judge_tokens": judge_tokens, "judge_settings": judge_settings}
    explained = explain(
        features=found.outputs["features"], model=model, explainer=explainer, seed=seed, store=store, **judge
    )
    scored = score(
        explanations=explained.outputs["explanations"], model=model, scorer=scorer, seed=seed, store=store, **judge
    )
    reported = report(
        features=found.outputs["features"],
        evaluation=evaluated.outputs["evaluation"],
        scores=scored.outputs["scores"],
        store=store,
    )
    verdict = gate(
        evaluation=evaluated.outputs["evaluation"],
        scores=scored.outputs["scores"],
        min_explained_variance=min_explained_variance,
        min_ce_recovered=min_ce_recovered,
        max_dead=max_dead,
        min_interpretable=min_interpretable,
        store=store,
    ).after(reported)
    with dsl.If(verdict.output != "", name="falls short"):
        fail_gate(missed=verdict.output)
