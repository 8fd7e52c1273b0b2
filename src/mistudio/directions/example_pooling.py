"""One vector an example: its activations at a hook point, the mean over its tokens or that of its last.

Special tokens are left out, and so is what a chat's template writes around the messages, where it can be told apart.
Blocks of examples are kept with the draft, so that a killed run goes on at the next.

Shape legend: E examples, T tokens of a text, D width of the hook point, N tokens of all examples.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from mistudio.artifacts import Draft
from mistudio.directions.config import DirectionConfig
from mistudio.directions.examples import Example
from mistudio.errors import InputError, SubjectError
from mistudio.instrument import Session, TextTokens
from mistudio.instrument.message_spans import LayOut, message_spans
from mistudio.progress import progress
from mistudio.subject import HookPoint, Subject

_BLOCK_EXAMPLES = 256


class Pooled(NamedTuple):
    """What is known of each example."""

    acts_ED: NDArray[np.float32]
    tokens_E: NDArray[np.int64]  # that were pooled; 0: there is nothing of it
    whole_E: NDArray[np.bool_]  # chats whose messages could not be told from the template, which is pooled too
    norm_N: NDArray[np.float32]  # length of the activation of each pooled token


def pool_examples(draft: Draft, session: Session, examples: Sequence[Example], config: DirectionConfig) -> Pooled:
    """Pool each example; blocks that are there already are read instead.

    Raises:
        SubjectError: the model has no such hook point, no template for chats, or messages of a role cannot be found.
        InputError: an activation is not finite.
    """
    blocks = []
    with progress("Read examples", len(examples), "examples") as bar:
        for start in range(0, len(examples), _BLOCK_EXAMPLES):
            block = examples[start : start + _BLOCK_EXAMPLES]
            name = f"examples-{start // _BLOCK_EXAMPLES:05d}.safetensors"
            blocks.append(load_file(draft.work_once(name, partial(_save_block, session, block, config))))
            bar.advance(len(block))
    return _finite(Pooled(*(np.concatenate([block[name] for block in blocks]) for name in Pooled._fields)), config)


def pool_in_memory(session: Session, examples: Sequence[Example], config: DirectionConfig) -> Pooled:
    """As :func:`pool_examples`, for examples that are few enough to be read at once, of which nothing is kept.

    Raises:
        SubjectError: as there.
        InputError: as there.
    """
    return _finite(_pool(session, examples, config), config)


def _finite(pooled: Pooled, config: DirectionConfig) -> Pooled:
    if not (np.isfinite(pooled.acts_ED).all() and np.isfinite(pooled.norm_N).all()):
        message = f"Activations at {config.hook} are not all finite: load the model in another number format (dtype)."
        raise InputError(message)
    return pooled


def _save_block(session: Session, examples: Sequence[Example], config: DirectionConfig, path: Path) -> None:
    save_file(_pool(session, examples, config)._asdict(), path)


def _pool(session: Session, examples: Sequence[Example], config: DirectionConfig) -> Pooled:
    point = HookPoint.parse(config.hook)
    vectors, counts, whole, norms = [], [], [], []
    readings = session.activations(
        [example.text for example in examples], [config.hook], context_length=config.context_length
    )
    for example, reading in zip(examples, readings, strict=True):
        acts_TD = reading.acts[point].float()
        kept_T, is_whole = _kept(session.subject, reading.tokens, example, config.roles)
        kept_TD = acts_TD[torch.from_numpy(kept_T).to(acts_TD.device)]
        vectors.append(_pooled(kept_TD, config.pool))
        counts.append(len(kept_TD))
        whole.append(is_whole)
        norms.append(kept_TD.norm(dim=1))
    content = (torch.stack(vectors), torch.tensor(counts), torch.tensor(whole), torch.cat(norms))
    return Pooled(*(each.cpu().numpy() for each in content))


def _lay_out(subject: Subject) -> LayOut:
    return lambda chat: str(subject.tokenizer.apply_chat_template(chat, tokenize=False))


def _pooled(acts_TD: Tensor, pool: str) -> Tensor:
    """One vector of some tokens; zeros where there are none."""
    if not len(acts_TD):
        return acts_TD.new_zeros(acts_TD.shape[1])
    return acts_TD[-1] if pool == "last" else acts_TD.mean(dim=0, dtype=torch.float64).float()


def _special_ids(subject: Subject) -> NDArray[np.int64]:
    if "special_ids" not in subject.cache:
        added = subject.tokenizer.added_tokens_decoder
        special = {number for number, token in added.items() if token.special} | set(subject.tokenizer.all_special_ids)
        subject.cache["special_ids"] = np.array(sorted(special), dtype=np.int64)
    found: NDArray[np.int64] = subject.cache["special_ids"]
    return found


def _kept(
    subject: Subject, tokens: TextTokens, example: Example, roles: Sequence[str] | None
) -> tuple[NDArray[np.bool_], bool]:
    """Which tokens are pooled, and whether the template's are among them.

    Raises:
        SubjectError: messages of some roles are asked for, and cannot be found.
    """
    plain_T = ~np.isin(tokens.token_ids, _special_ids(subject))
    if isinstance(example.text, str):
        return plain_T, False
    spans = message_spans(_lay_out(subject), example.text, tokens.text)
    if spans is None or tokens.offsets is None:
        if roles is not None:
            message = (
                "The chat's messages cannot be found in what the tokenizer's template makes of it, so that the roles "
                f"{', '.join(roles)} cannot be told: leave roles out."
            )
            raise SubjectError(message)
        return plain_T, True
    start_T, end_T = tokens.offsets[:, 0], tokens.offsets[:, 1]
    inside_T = np.zeros(len(plain_T), dtype=np.bool_)
    for span in spans:
        if roles is None or span.role in roles:
            inside_T |= (start_T < span.end) & (end_T > span.start)
    return plain_T & inside_T, False
