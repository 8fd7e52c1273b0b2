"""The end of a run that falls short, as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def fail_gate(missed: str):
    """End a run whose figures fall short.

    Args:
        missed: What falls short, with the figures.
    """
    from mistudio import steps

    steps.fail_gate(missed=missed)
