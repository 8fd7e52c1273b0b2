"""Tiny models with autoencoders made on the spot, and answers from any engine."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

import torch
import transformers as tf

from mistudio.instrument.compiled import CompiledEdits, Nameable, NamedDirection, compile_edits
from mistudio.instrument.edits import Edits
from mistudio.instrument.engine import Engine
from mistudio.instrument.paged import PagedEngine
from mistudio.instrument.rows import Generation, Written
from mistudio.instrument.session import Ends, PlacedAutoencoder, Session
from mistudio.instrument.text_engine import TextEngine
from mistudio.instrument.where import plain_prompt
from mistudio.sae import JumpReLUConfig, StandardConfig, TopKConfig
from mistudio.sae.config import ArchitectureConfig
from mistudio.subject import HookPoint, Subject, resolve_hooks, subject_from_model
from tests.support.directions import random_directions
from tests.support.families import build_model, byte_level_tokenizer

BACK_ENDS: dict[str, Callable[..., TextEngine]] = {"static": Engine, "paged": PagedEngine}
NAMES = ("middle", "early", "late")
HOOKS = ("resid_post.1", "mlp_out.0", "resid_pre.2")
CONFIGS: tuple[ArchitectureConfig, ...] = (
    TopKConfig(width=64, k=8),
    StandardConfig(width=64),
    JumpReLUConfig(width=64),
)
SPECIAL = 0  # the tokenizer's only one


@cache
def subject_of(family: str) -> Subject:
    return fresh_subject(family)


def fresh_subject(family: str) -> Subject:
    return loud_subject(build_model(family))


def loud_subject(model: tf.PreTrainedModel) -> Subject:
    """A model whose blocks are loud enough that its answers do not repeat one token."""
    subject = subject_from_model(model.eval(), byte_level_tokenizer())
    with torch.no_grad():
        for parameter in subject.blocks.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    if subject.is_causal:
        subject.model.generation_config.eos_token_id = None  # no token of theirs means anything
    return subject


def session_of(family: str, hooks: Sequence[str] = HOOKS) -> Session:
    """The model with an autoencoder at each hook point."""
    subject, placed = subject_of(family), []
    points = resolve_hooks(subject, [HookPoint.parse(hook) for hook in hooks])
    for number, (hook, config) in enumerate(zip(points, CONFIGS, strict=False)):
        sae = random_directions(config, hook.width, seed=number)
        placed.append(PlacedAutoencoder(sae, Ends(hook, hook), f"sae/{number}", f"{number}" * 8))
    return Session(subject, placed)


def nameable_of(session: Session) -> Nameable:
    """All autoencoders by name, and a direction."""
    (hook,) = resolve_hooks(session.subject, [HookPoint("resid_post", 0)])
    vector_D = torch.randn(hook.width, generator=torch.Generator().manual_seed(5))
    maxima = [lambda latent: 2.0 + latent % 3] * len(session.autoencoders)
    return Nameable(session, NAMES, maxima, {"calm": NamedDirection(hook, vector_D, "calm")}.__getitem__)


class Wish(NamedTuple):
    """An answer to be generated, again and again."""

    ids: tuple[int, ...]
    limit: int = 12
    edits: CompiledEdits | None = None
    more: dict[str, object] = {}

    def begun(self) -> Generation:
        prompt = plain_prompt(self.ids, frozenset({SPECIAL}))
        return Generation(prompt, self.limit, self.edits, **self.more)


def compiled(
    nameable: Nameable, *edits: dict[str, object], stop_when: Sequence[dict[str, object]] = ()
) -> CompiledEdits:
    return compile_edits(Edits.model_validate({"edits": edits, "stop_when": stop_when}), nameable)


def ids_of(length: int, seed: int = 0) -> tuple[int, ...]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 61, (length,), generator=draw).tolist())


def answered(engine: TextEngine, wishes: Iterable[Wish], steps_between: int = 0) -> list[list[Written]]:
    """What is written for each; they are started one by one, some steps apart, or all at once as rows get free."""
    waiting = [wish.begun() for wish in wishes]
    found: dict[Generation, list[Written]] = {generation: [] for generation in waiting}
    while waiting or engine.running:
        count = min(engine.free_rows, 1 if steps_between else len(waiting))
        some, waiting = waiting[:count], waiting[count:]
        written = engine.start(some)
        for _ in range(steps_between or 1):
            written += engine.step()
        for one in written:
            found[one.generation].append(one)
    return list(found.values())


def tokens_of(answers: Iterable[Iterable[Written]]) -> list[list[int]]:
    return [[one.token for one in answer if one.token is not None] for answer in answers]


def generated(subject: Subject, ids: Sequence[int], limit: int) -> list[int]:
    """What transformers' own generate gives, greedily."""
    config = tf.GenerationConfig(max_new_tokens=limit, do_sample=False, pad_token_id=0)
    ids_1T = torch.tensor([ids])
    found_1T = subject.model.generate(ids_1T, attention_mask=torch.ones_like(ids_1T), generation_config=config)
    return found_1T[0, len(ids) :].tolist()
