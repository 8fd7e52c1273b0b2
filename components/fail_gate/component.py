"""The fail_gate step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def fail_gate(
    missed: str,
):
    """End a run whose figures fall short.

    Args:
        missed: What falls short, with the figures.
    """
    from mistudio import steps

    steps.call(
        "fail_gate",
        missed=missed or None,
    )
