"""The main job: from text to a feature dashboard."""

from kfp import dsl

from components.capture.component import capture
from components.evaluate.component import evaluate
from components.find.component import find
from components.ingest.component import ingest
from components.report.component import report
from components.train.component import train


@dsl.pipeline(
    name="interpret",
    description="Read a corpus, capture a model's activations, train a sparse autoencoder on them, "
    "measure it, find what its features mean, and write a dashboard.",
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
    contexts: int = 20,
    dtype: str = "auto",
    quantization: str = "none",
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
        hook: Hook point: resid_pre, resid_mid, resid_post, attn_out, mlp_out or mlp_act.
        layer: Layer of the hook point, from 0; -1: the middle one.
        architecture: Kind of autoencoder: topk, batchtopk, matryoshka, standard, gated or jumprelu.
        width: Number of features, 64 to 32,768; -1: eight times the activations' width, at least 1,024.
        k: Active features a token (topk, batchtopk, matryoshka); -1: a quarter of the activations' width, 8 to 64.
        target_l0: Active features a token the penalty is steered to (standard, gated, jumprelu); -1: fixed penalty.
        l1_coefficient: Weight of the L1 norm (standard, gated), above 0 and at most 1; at first, with target_l0.
        train_tokens: Activations (tokens) to train on; repeats the captured ones if need be.
        contexts: Strongest contexts kept a feature, each from another document.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (needs a GPU).
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
        seed=seed,
        store=store,
    )
    subject = {"model": model, "dtype": dtype, "quantization": quantization, "store": store}
    evaluated = evaluate(sae=trained.outputs["sae"], **subject)
    found = find(sae=trained.outputs["sae"], contexts=contexts, **subject)
    report(features=found.outputs["features"], evaluation=evaluated.outputs["evaluation"], store=store)
