"""How a model goes on when a feature's direction is added to its activations, with an equal push for each feature.

Directions differ in how much the same length of them changes a model. So the length is chosen such that the predictions
change equally: by ``target_kl`` nats a token on the prompts, from the model's own distribution to the steered one
(:mod:`mistudio.score.pushes`). The push is added on every token, special ones too.

Shape legend: B prompts, T tokens, D width of the hook point, F features, P of them that are strengthened.
"""

from collections import deque
from collections.abc import Sequence
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from mistudio.artifacts import Artifact
from mistudio.errors import SubjectError
from mistudio.instrument import open_session
from mistudio.instrument.compiled import CompiledEdits, Nameable, NamedDirection, compile_edits
from mistudio.instrument.edits import Add, Edits, Where
from mistudio.instrument.engine import Engine, Generation
from mistudio.instrument.session import Session
from mistudio.instrument.where import plain_prompt
from mistudio.instrument.write_all import write_all
from mistudio.score.config import SteeringConfig
from mistudio.score.pushes import Divergence, push_lengths
from mistudio.subject import ResolvedHook, Subject, SubjectConfig, SubjectSource

_EVERYWHERE = Where(specials=True)


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
        self._session = Session(subject)

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

    def continuations(self, features: Sequence[int], ids_BT: Tensor) -> list[list[str] | None]:
        """What follows each prompt with each of some features strengthened, all of it written together.

        A feature whose direction cannot change predictions that much has None.
        """
        written: list[list[Generation]] = [[] for _ in features]
        prompts = [plain_prompt(prompt, self._engine.special_ids) for prompt in ids_BT.tolist()]
        for place, edits in self._pushes(features, ids_BT).items():
            written[place] = [Generation(prompt, self.config.new_tokens, edits) for prompt in prompts]
        with self._engine as engine:
            deque(write_all(engine, chain.from_iterable(written)), maxlen=0)
        decode = self.subject.tokenizer.batch_decode
        return [list(decode([one.tokens for one in each])) if each else None for each in written]

    def _pushes(self, features: Sequence[int], ids_BT: Tensor) -> dict[int, CompiledEdits]:
        """What strengthens each feature as much as the target asks, by its place; those for which nothing does lack."""
        direction_PD = self.directions_FD[list(features)].float()
        norm_P1 = direction_PD.norm(dim=1, keepdim=True)
        some = norm_P1[:, 0].nonzero()[:, 0].tolist()
        if not some:
            return {}
        unit_PD = (direction_PD / norm_P1)[some]
        lengths = push_lengths(Divergence(self.subject, self.hook, ids_BT), unit_PD, self.config)
        return {
            place: self._push(features[place], unit_D, length)
            for place, unit_D, length in zip(some, unit_PD, lengths, strict=True)
            if length is not None
        }

    def _push(self, feature: int, unit_D: Tensor, length: float) -> CompiledEdits:
        name = str(feature)  # and digest: all directions are rows of one decoder
        nameable = Nameable(self._session, directions={name: NamedDirection(self.hook, unit_D, name)}.__getitem__)
        return compile_edits(Edits(edits=(Add(direction=name, strength=length, where=_EVERYWHERE),)), nameable)

    @cached_property
    def _engine(self) -> Engine:
        """For a feature and another one to compare it with."""
        config = self.config
        return Engine(self._session, 2 * config.num_prompts, config.prompt_tokens + config.new_tokens)


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
