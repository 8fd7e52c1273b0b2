"""The grid of a sweep as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def grid(
    architectures: str = "topk,batchtopk,matryoshka,standard,gated,jumprelu",
    widths: str = "",
    sparsities: str = "8,16,32,64",
    seeds: str = "0",
    train_settings: str = "",
) -> list:
    """List the autoencoders of a sweep: every architecture with every width, sparsity and seed.

    Args:
        architectures: Kinds of autoencoder, with commas between them.
        widths: Numbers of features, with commas; empty: eight times the activations' width, at least 1,024.
        sparsities: Active features a token, with commas: k, or the target L0 of architectures that have no k.
        seeds: Seeds to train each one with, with commas.
        train_settings: Settings of each training as JSON, which are checked here too.

    Returns:
        The parameters in which the train step differs: architecture, width, k, target_l0 and seed.
    """
    from mistudio import steps

    axes = {"architectures": architectures, "widths": widths, "sparsities": sparsities, "seeds": seeds}
    return steps.grid(**axes, train_settings=train_settings)
