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
    tokens: int = 3000000,
    learning_rate: float = -1,
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
        tokens: Activations (tokens) to train on; repeats the captured ones if need be.
        learning_rate: Peak learning rate; -1: 0.125 / sqrt(width).
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    sparsity = {"width": width, "k": k, "target_l0": target_l0, "l1_coefficient": l1_coefficient}
    steps.train(
        activations=steps.artifact_uri(activations.path),
        model=model,
        hook=hook,
        architecture=architecture,
        **sparsity,
        tokens=tokens,
        learning_rate=learning_rate,
        seed=seed,
        store=store,
    ).write_to(sae)
