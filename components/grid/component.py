"""The grid step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def grid(
    most_points: int = 0,
    train_settings: str = "",
    architectures: str = "topk,batchtopk,matryoshka,standard,gated,jumprelu",
    widths: str = "",
    sparsities: str = "8,16,32,64",
    seeds: str = "0",
) -> list:
    """List the autoencoders of a sweep: every architecture with every width, sparsity and seed.

    Args:
        most_points: Refuse a sweep of more autoencoders than this; 0: any number.
        train_settings: Other settings of every training as JSON, such as {"ema_decay": 0.999}.
        architectures: Kinds of autoencoder, with commas between them.
        widths: Numbers of features, with commas; empty: eight times the activations' width, 1,024 to 32,768.
        sparsities: Active features a token, with commas: k, or the target L0 of architectures that have no k.
        seeds: Seeds to train each one with, with commas.

    Returns:
        The options in which the train step differs: architecture, width, k, target_l0 and seed.
    """
    from mistudio import steps

    return steps.call(
        "grid",
        most_points=most_points,
        train_settings=train_settings or None,
        architectures=architectures,
        widths=widths,
        sparsities=sparsities,
        seeds=seeds,
    )
