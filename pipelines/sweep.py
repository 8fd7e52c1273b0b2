"""A sweep: many autoencoders on one capture, and how sparse each is against what it keeps."""

from kfp import dsl

from components.capture.component import capture
from components.compare.component import compare
from components.evaluate.component import evaluate
from components.grid.component import grid
from components.ingest.component import ingest
from components.train.component import train

# So that a large sweep leaves room in a cluster; KFP's local runner does two at a time.
POINTS_AT_ONCE = 8


@dsl.pipeline(
    name="sweep",
    description="Capture a model's activations once, train and measure autoencoders of every architecture, width, "
    "sparsity and seed asked for, and draw L0 against what each keeps.",
)
def sweep(
    model: str = "demo",
    corpus: str = "python-docs",
    text_column: str = "",
    context_length: int = -1,
    max_tokens: int = 1_500_000,
    hook: str = "resid_post",
    layer: int = -1,
    architectures: str = "topk,batchtopk,matryoshka,standard,gated,jumprelu",
    widths: str = "",
    sparsities: str = "8,16,32,64",
    seeds: str = "0",
    train_tokens: int = 3_000_000,
    train_settings: str = "",
    keep: float = 0.99,
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    store: str = "",
):
    """Many autoencoders on one capture, and how sparse each is against what it keeps.

    Args:
        model: Language model: demo, a folder, an id on the model hub (NAME@REVISION), or subject/... in the store.
        corpus: Corpus: python-docs, a file, a folder, hf:NAME, or the name of an added corpus.
        text_column: Column that holds the text; empty: found by name.
        context_length: Tokens in a sequence, special tokens included; -1: as the model takes, at most 512.
        max_tokens: Stop reading the corpus after about this many tokens; -1: read it all.
        hook: Hook point: resid_pre, resid_mid, resid_post, attn_out, mlp_in, mlp_out or mlp_act, at layer, or with
            a layer of its own, such as resid_post.3.
        layer: Layer of a hook point that names none, from 0; -1: the middle one.
        architectures: Kinds of autoencoder, with commas between them.
        widths: Numbers of features, with commas; empty: eight times the activations' width, at least 1,024.
        sparsities: Active features a token, with commas: k, or the target L0 of architectures that have no k.
        seeds: Seeds to train each one with, with commas.
        train_tokens: Activations (tokens) to train each autoencoder on; repeats the captured ones if need be.
        train_settings: Other settings of training as JSON, such as {"ema_decay": 0.999, "skip": "scale"}.
        keep: The best is chosen of the sparsest that keep this share of the greatest CE recovered of all.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    # First, so that a grid that cannot be trained is refused before anything long runs.
    points = grid(
        architectures=architectures, widths=widths, sparsities=sparsities, seeds=seeds, train_settings=train_settings
    )
    ingested = ingest(
        model=model,
        corpus=corpus,
        text_column=text_column,
        context_length=context_length,
        max_tokens=max_tokens,
        store=store,
    ).after(points)
    subject = {
        "model": model,
        "dtype": dtype,
        "quantization": quantization,
        "model_settings": model_settings,
        "store": store,
    }
    captured = capture(corpus=ingested.outputs["tokenised_corpus"], hook=hook, layer=layer, **subject)
    with dsl.ParallelFor(points.output, name="points", parallelism=POINTS_AT_ONCE) as point:
        trained = train(
            activations=captured.outputs["activations"],
            architecture=point.architecture,
            width=point.width,
            k=point.k,
            target_l0=point.target_l0,
            seed=point.seed,
            tokens=train_tokens,
            train_settings=train_settings,
            model_settings=model_settings,
            store=store,
        )
        evaluated = evaluate(sae=trained.outputs["sae"], **subject)
    compare(evaluations=dsl.Collected(evaluated.outputs["evaluation"]), keep=keep, title="Sweep", store=store)
