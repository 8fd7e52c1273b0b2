"""What every feature is tried with: the model, the prompts, and what the model writes and reads unsteered.

Shape legend: B prompts, T tokens, D width of the hook point, V vocabulary.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.instrument import PlacedAutoencoder, Session
from mistudio.instrument.compiled import CompiledEdits
from mistudio.instrument.divergence import Divergence, Moved
from mistudio.instrument.engine import Engine
from mistudio.instrument.where import plain_prompt
from mistudio.steer.evaluate.config import TextsConfig
from mistudio.steer.evaluate.reading import Reader
from mistudio.steer.evaluate.windows import Ids, Window, Windows
from mistudio.steer.evaluate.writing import Wanted, write

_MOST_COMPARED = 16  # prompts on which predictions are compared
_MOST_BEFORE = 256  # tokens put before a prompt


class Setting(NamedTuple):
    """One way of writing: edits, and tokens put before the prompt."""

    edits: CompiledEdits | None = None
    before: Ids = ()


UNSTEERED = Setting()


def slots_for(windows: Windows, config: TextsConfig) -> int:
    """How many tokens of a sequence an engine has to have room for."""
    return len(windows.prefix) + _MOST_BEFORE + config.prompt_tokens + config.new_tokens


class Bench:
    """Writes and reads texts with one model and one of its autoencoders.

    Args:
        session: the model and its autoencoders.
        engine: of that session, entered.
        windows: prompts, and natural text.
        config: what is continued, and how.
        seed: of what is drawn.
        autoencoder: which, by number.
    """

    def __init__(
        self,
        session: Session,
        engine: Engine,
        windows: Windows,
        config: TextsConfig,
        seed: int = 0,
        autoencoder: int = 0,
    ) -> None:
        self.session, self.engine, self.windows, self.config, self.seed = session, engine, windows, config, seed
        self.placed: PlacedAutoencoder = session.placed(autoencoder)
        self.reader = Reader(session.subject, self.placed, windows.prefix, windows.suffix)
        self._ends = session.subject.ending_ids

    @property
    def prompts(self) -> list[Ids]:
        """The prompts, without special tokens."""
        return [window.prompt for window in self.windows.prompts]

    @property
    def room_before(self) -> int:
        """Tokens that can be put before a prompt."""
        return self.engine.num_slots - len(self.windows.prefix) - self.config.prompt_tokens - self.config.new_tokens

    def write(self, settings: Sequence[Setting]) -> list[list[Ids]]:
        """A text behind each prompt, in each setting; the same random numbers in all of them."""
        prefix = self.windows.prefix
        wanted = [
            Wanted((*prefix, *setting.before, *prompt), setting.edits, f"{self.seed}/{number}")
            for setting in settings
            for number, prompt in enumerate(self.prompts)
        ]
        written = write(self.engine, wanted, self.config.new_tokens, self.config.temperature, self._ends)
        count = len(self.prompts)
        return [written[start : start + count] for start in range(0, len(written), count)]

    @cached_property
    def unsteered(self) -> list[Ids]:
        """What the model writes as it is."""
        (texts,) = self.write([UNSTEERED])
        return texts

    @cached_property
    def unsteered_losses(self) -> list[NDArray[np.float64]]:
        """The loss of each token of those texts."""
        return self.reader.losses(self.prompts, self.unsteered)

    @cached_property
    def natural(self) -> list[Ids]:
        """What follows in held-out text, behind as many tokens as a prompt has."""
        return [window.following for window in self.windows.natural]

    @cached_property
    def natural_acts(self) -> list[Tensor]:
        """What passes the autoencoder's input on each of those texts alone, each [T, D]."""
        return list(self.reader.activations(self.natural))

    @cached_property
    def natural_losses(self) -> list[NDArray[np.float64]]:
        """The loss of each token of that."""
        return self.reader.losses([window.prompt for window in self.windows.natural], self.natural)

    @cached_property
    def divergence(self) -> Divergence:
        """Compares predictions of what follows the prompts in their documents, with and without a vector."""
        return self.divergence_on(self._compared, self.config.prompt_tokens)

    def divergence_on(self, windows: Sequence[Window], behind: int) -> Divergence:
        """The same on other text, of which the tokens from a place on are predicted."""
        prefix = self.windows.prefix
        ids_BT = torch.tensor([(*prefix, *one.prompt, *one.following) for one in windows])
        on_BT = ~torch.isin(ids_BT, torch.tensor(sorted(self.engine.special_ids), dtype=torch.int64))
        return Divergence(self.session.subject, self.placed.ends.write, ids_BT, on_BT, len(prefix) + behind)

    def moved(self, setting: Setting) -> Moved:
        """What a setting does to predictions of the same text; for edits that are more than a vector."""
        kls, doses = [], []
        for window, clean_TV in zip(self._compared, self._clean, strict=True):
            prompt = plain_prompt((*self.windows.prefix, *setting.before, *window.prompt), self.engine.special_ids)
            judged = self.engine.judge(prompt, window.following, setting.edits)
            logprob_TV = judged.logits_TV.log_softmax(dim=-1)
            kls.append(float((clean_TV.exp() * (clean_TV - logprob_TV)).sum(dim=-1).mean()))
            doses.append(sum(judged.dose.values()))
        return Moved(max(float(np.mean(kls)), 0.0), float(np.mean(doses)))

    @property
    def _compared(self) -> Sequence[Window]:
        return self.windows.prompts[:_MOST_COMPARED]

    @cached_property
    def _clean(self) -> list[Tensor]:
        special_ids = self.engine.special_ids
        found = []
        for window in self._compared:
            prompt = plain_prompt((*self.windows.prefix, *window.prompt), special_ids)
            found.append(self.engine.judge(prompt, window.following).logits_TV.log_softmax(dim=-1))
        return found
