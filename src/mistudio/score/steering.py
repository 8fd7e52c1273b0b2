"""How a model goes on when a feature's direction is added to its activations, with an equal push for each feature.

Directions differ in how much the same length of them changes a model. So the length is chosen such that the predictions
change equally: by ``target_kl`` nats a token on the prompts, from the model's own distribution to the steered one.

Shape legend: B prompts, T tokens, D width of the hook point, F features, V vocabulary.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.artifacts import Artifact
from mistudio.errors import SubjectError
from mistudio.instrument import open_session
from mistudio.score.config import SteeringConfig
from mistudio.subject import ResolvedHook, Subject, SubjectConfig, SubjectSource, forward_logits, spliced

_CLOSE_ENOUGH = 0.05  # of the target
_LONGEST = 2.0**20
_SHORTEST = 2.0**-20


class Steering:
    """A model and the directions that its features write.

    Args:
        subject: the model, which has to be causal.
        hook: where the directions belong: the autoencoder's hook point, or what a transcoder predicts.
        directions_FD: the rows of the decoder.
        config: how to steer.
    """

    def __init__(self, subject: Subject, hook: ResolvedHook, directions_FD: Tensor, config: SteeringConfig) -> None:
        """Keep the model and the directions.

        Raises:
            SubjectError: the model is an encoder, or the directions are of another width than its activations.
        """
        if not subject.is_causal:
            message = "Interventions compare how a model goes on; an encoder does not. Leave out this scorer."
            raise SubjectError(message)
        if directions_FD.shape[1] != hook.width:
            message = (
                f"The directions have {directions_FD.shape[1]} components, the activations at {hook.point} "
                f"{hook.width}: the autoencoder is not of this model or hook point."
            )
            raise SubjectError(message)
        self.subject, self.hook, self.config = subject, hook, config
        self.directions_FD = directions_FD

    @property
    def num_features(self) -> int:
        """F."""
        return len(self.directions_FD)

    def prompts(self, texts: Sequence[str]) -> Tensor | None:
        """The first tokens of texts [B, T], as many of each as the shortest has; None where one has fewer than two."""
        ids = [list(self.subject.tokenizer(text)["input_ids"]) for text in texts]
        limit = self.subject.max_positions
        room = limit - self.config.new_tokens if limit is not None else self.config.prompt_tokens
        length = min(self.config.prompt_tokens, room, *map(len, ids)) if ids else 0
        if length < 2:
            return None
        return torch.tensor([one[:length] for one in ids], device=self.subject.device)

    def shown(self, ids_BT: Tensor) -> list[str]:
        """Those prompts as people read them."""
        return list(self.subject.tokenizer.batch_decode(ids_BT, skip_special_tokens=True))

    @torch.no_grad()
    def continuations(self, feature: int, ids_BT: Tensor) -> list[str] | None:
        """What follows each prompt with the feature strengthened; None where its direction cannot change that much."""
        push_D = self._push(feature, ids_BT)
        if push_D is None:
            return None
        written_BT = ids_BT
        with spliced(self.subject, self.hook, lambda x_BTD: x_BTD + push_D.to(x_BTD)):
            for _ in range(self.config.new_tokens):
                next_B = forward_logits(self.subject, written_BT)[:, -1].argmax(dim=-1)
                written_BT = torch.cat([written_BT, next_B[:, None].to(written_BT)], dim=1)
        return list(self.subject.tokenizer.batch_decode(written_BT[:, ids_BT.shape[1] :]))

    def _push(self, feature: int, ids_BT: Tensor) -> Tensor | None:
        """The feature's direction at the length that changes predictions by the target."""
        direction_D = self.directions_FD[feature].float()
        norm = float(direction_D.norm())
        if norm == 0:
            return None
        unit_D = direction_D / norm
        clean_BTV = self._logprobs(None, ids_BT)
        target = self.config.target_kl

        def change(length: float) -> float:
            return self._change(unit_D * length, ids_BT, clean_BTV)

        high = 1.0
        while change(high) < target:
            high *= 2
            if high > _LONGEST:
                return None
        low = high / 2
        while low > _SHORTEST and change(low) > target:
            low, high = low / 2, low
        for _ in range(self.config.search_steps):
            length = (low + high) / 2
            got = change(length)
            if abs(got - target) <= _CLOSE_ENOUGH * target:
                break
            low, high = (length, high) if got < target else (low, length)
        return unit_D * length

    def _change(self, push_D: Tensor, ids_BT: Tensor, clean_BTV: Tensor) -> float:
        """Mean divergence from the clean distributions to the steered ones, in nats a token."""
        steered_BTV = self._logprobs(push_D, ids_BT)
        total = functional.kl_div(steered_BTV, clean_BTV, log_target=True, reduction="sum")
        return float(total) / ids_BT.numel()

    def _logprobs(self, push_D: Tensor | None, ids_BT: Tensor) -> Tensor:
        pushed = (
            spliced(self.subject, self.hook, lambda x_BTD: x_BTD + push_D.to(x_BTD)) if push_D is not None else None
        )
        with pushed or nullcontext():
            return torch.log_softmax(forward_logits(self.subject, ids_BT).float(), dim=-1)


def open_steering(
    sae: Artifact, source: SubjectSource, subject_config: SubjectConfig, config: SteeringConfig
) -> Steering:
    """Load a model and the decoder of an artifact of kind ``sae``.

    Raises:
        SubjectError: the model cannot be loaded, is an encoder, or is not the autoencoder's.
        DamagedArtifact: the artifact is not what was published.
    """
    session = open_session(sae, source, subject_config)  # its model is the steering's from here on
    placed = session.placed()
    return Steering(session.subject, placed.ends.write, placed.sae.W_dec, config)
