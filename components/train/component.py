"""The train step as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def train(
    activations: dsl.Input[dsl.Dataset],
    sae: dsl.Output[dsl.Model],
    model: str = "",
    hook: str = "",
    architecture: str = "topk",
    width: int = -1,
    k: int = -1,
    target_l0: float = -1,
    l1_coefficient: float = 0.02,
    skip: str = "none",
    target_hook: str = "",
    allow_wide: bool = False,
    tokens: int = 3000000,
    learning_rate: float = -1,
    train_settings: str = "",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Train a sparse autoencoder on captured activations.

    Args:
        activations: Captured activations (activations/...).
        sae: Trained autoencoder.
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
        learning_rate: Peak learning rate; -1: 0.125 / sqrt(width).
        train_settings: Other settings of training as JSON, such as {"ema_decay": 0.999, "skip": "scale"}.
        model_settings: Settings of loading the live model as JSON, such as {"trust_remote_code": true}.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    what = {"model": model, "hook": hook, "target_hook": target_hook, "architecture": architecture, "skip": skip}
    size = {"width": width, "allow_wide": allow_wide, "tokens": tokens, "learning_rate": learning_rate}
    sparsity = {"k": k, "target_l0": target_l0, "l1_coefficient": l1_coefficient}
    others = {"train_settings": train_settings, "model_settings": model_settings, "seed": seed, "store": store}
    steps.train(
        activations=steps.artifact_uri(activations.path),
        **what,
        **size,
        **sparsity,
        **others,
    ).write_to(sae)
