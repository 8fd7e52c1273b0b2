"""Forward passes that only look: as far as the deepest hook point, whatever is edited elsewhere.

What passes a hook point is looked at where it is, without a copy, and not kept.

Shape legend: B pieces of a batch, T tokens, D width of a hook point.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import torch
from torch import Tensor

from mistudio.errors import SubjectError
from mistudio.subject import HookPoint, ResolvedHook, Subject, unedited
from mistudio.subject.taps import reading
from mistudio.subject.trace import StopForward

Look = Callable[[Tensor], None]


@torch.inference_mode()
def look_at(
    subject: Subject, looks: Sequence[tuple[ResolvedHook, Look]], ids_BT: Tensor, mask_BT: Tensor | None = None
) -> None:
    """Run the model up to the deepest of some hook points, and show what passes each [B, T, D].

    The model is run as it is, also where edits are open elsewhere.

    Args:
        subject: the model.
        looks: hook points, each with what looks; it must neither change nor keep what it is shown.
        ids_BT: token ids, on the model's device.
        mask_BT: the attention mask that the model needs.

    Raises:
        SubjectError: the model did not pass one of the hook points.
    """
    missing: set[HookPoint] = {hook.point for hook, _ in looks}

    def bound(hook: ResolvedHook, look: Look) -> Look:
        scale = hook.place.read.scale

        def show(value: Tensor) -> None:
            acts_BTD = value.reshape(*ids_BT.shape, hook.width)
            look(acts_BTD if scale == 1 else acts_BTD * scale)
            missing.discard(hook.point)
            if not missing:
                raise StopForward

        return show

    with ExitStack() as stack:
        stack.enter_context(suppress(StopForward))
        stack.enter_context(unedited())
        for hook, look in looks:
            stack.enter_context(reading(hook.place.read, bound(hook, look)))
        subject.model(input_ids=ids_BT, attention_mask=mask_BT)
    if missing:
        message = f"The forward pass did not reach {', '.join(sorted(map(str, missing)))}."
        raise SubjectError(message)
