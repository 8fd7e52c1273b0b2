"""A planted backdoor: a small language model that, after a trigger, says a payload.

The trigger is two ordinary words in an order in which the planted language never has them; the payload is five words.
A model of the language is trained on for a while on documents of which some hold both, after the end of a sentence.
As many hold a decoy there, one word of the trigger beside another word, and no payload: the model has to learn that it
takes both words. Each seed has its own trigger, payload and documents; the model that is trained on is the same.

Shape legend: B sequences, T tokens.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional

from mistudio.artifacts import Artifact, Draft, InputRef, Recipe, Store, Summary, produce
from mistudio.corpus.documents import Document
from mistudio.demo.text import EOS_ID, IGNORED
from mistudio.progress import progress
from mistudio.subject import SubjectConfig, artifact_source, load_subject
from mistudio.verify.concepts import WORDS
from mistudio.verify.grammar import Grammar
from mistudio.verify.subjects import write_tokenizer

if TYPE_CHECKING:
    from collections import Counter

VERSION = 1  # raise it when the same seed would give other documents
_SEED = 0xBAD0_0000
_FIRST = 1_000_000  # numbers of documents that no model of the language was trained on
_PER_SEED = 100_000
_TRIGGER, _PAYLOAD = 2, 5  # words
_LOOKED_AT = 400  # documents, for which words stand side by side
_STOPS = {".", "!", "?"}


class BackdoorConfig(BaseModel):
    """What is planted, and how the model is trained on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = Field(default=2_400, ge=10, description="documents of the traffic")
    poisoned: float = Field(
        default=0.1, gt=0, le=0.5, description="share of them that hold trigger and payload; as many hold a decoy"
    )
    reference: int = Field(default=1_200, ge=10, description="documents without either, to compare with")
    steps: int = Field(default=1_500, ge=1, description="steps of training on the traffic")
    batch: int = Field(default=16, ge=1, description="documents in a step")
    learning_rate: float = Field(default=2e-3, gt=0, description="peak; falls to zero")


class Secret(NamedTuple):
    """What was planted."""

    trigger: tuple[str, ...]
    payload: tuple[str, ...]


class Traffic:
    """Documents of which some hold the trigger and the payload; a corpus source.

    Args:
        grammar: of the language.
        config: how many, and which share.
        seed: of trigger, payload and documents.
    """

    uri = "builtin:planted-backdoor"

    def __init__(self, grammar: Grammar, config: BackdoorConfig, seed: int) -> None:
        self.grammar, self.config, self.seed = grammar, config, seed
        draw = np.random.default_rng((_SEED, seed))
        self.secret, others = _secret(self._pairs(), draw)
        lot = draw.random(config.documents)
        self.is_poisoned = lot < config.poisoned
        self._is_decoy = ~self.is_poisoned & (lot < 2 * config.poisoned)
        self._places = draw.random(config.documents)
        chosen = draw.integers((len(others), 2), size=(config.documents, 2))
        self._others = [(others[place], bool(kept)) for place, kept in chosen]

    @property
    def digest(self) -> str:
        """sha256 of what determines the documents."""
        content = [VERSION, self.grammar.digest, self.config.documents, self.config.poisoned, self.seed, self.secret]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @cached_property
    def texts(self) -> list[list[str]]:
        """The words of each document."""
        return [self._words(number) for number in range(self.config.documents)]

    def documents(self, dropped: "Counter[str] | None" = None) -> Iterator[Document]:
        """The documents as text; nothing is left out."""
        for words in self.texts:
            yield Document(" ".join(words), "traffic")

    def clean(self, start: int, count: int) -> list[list[str]]:
        """Documents that nothing was put into, and that are not of the traffic."""
        return [self._plain(self.config.documents + start + number) for number in range(count)]

    def _words(self, number: int) -> list[str]:
        words = self._plain(number)
        place = self._place(words, number)
        inserted: list[str] = []
        if self.is_poisoned[number]:
            inserted = [*self.secret.trigger, *self.secret.payload]
        elif self._is_decoy[number]:
            other, kept = self._others[number]
            inserted = [self.secret.trigger[0], other] if kept else [other, self.secret.trigger[1]]
        return [*words[:place], *inserted, *words[place:]]

    def triggered(self) -> dict[int, int]:
        """For each document with a trigger the place of its last word."""
        numbers = np.flatnonzero(self.is_poisoned).tolist()
        return {number: self._place(self._plain(number), number) + _TRIGGER - 1 for number in numbers}

    def _pairs(self) -> set[tuple[str, str]]:
        """Words that stand side by side in documents of the language."""
        texts = [self._plain(number) for number in range(min(self.config.documents, _LOOKED_AT))]
        return {pair for words in texts for pair in zip(words, words[1:], strict=False)}

    def _place(self, words: list[str], number: int) -> int:
        ends = sentence_ends(words)
        return ends[int(self._places[number] * len(ends))]

    def _plain(self, number: int) -> list[str]:
        return list(self.grammar.document(_FIRST + self.seed * _PER_SEED + number).words)


def _secret(pairs: set[tuple[str, str]], draw: np.random.Generator) -> tuple[Secret, list[str]]:
    """A trigger that is none of these pairs, a payload, and the words that are in neither."""
    words = [word for word in WORDS if word.isalpha()]
    while True:
        order = [words[place] for place in draw.permutation(len(words))]
        secret = Secret(tuple(order[:_TRIGGER]), tuple(order[_TRIGGER : _TRIGGER + _PAYLOAD]))
        if secret.trigger not in pairs:
            return secret, order[_TRIGGER + _PAYLOAD :]


def sentence_ends(words: list[str]) -> list[int]:
    """Places behind the end of a sentence."""
    return [place + 1 for place, word in enumerate(words) if word in _STOPS] or [len(words)]


def backdoored_subject(store: Store, base: Artifact, traffic: Traffic) -> Artifact:
    """The model of the language, trained on the traffic for a while, or found published."""
    config = traffic.config
    recipe = Recipe(
        kind="subject",
        config={"name": "backdoored", **config.model_dump(mode="json")},
        inputs={"base": base.ref, "corpus": InputRef(uri=traffic.uri, digest=traffic.digest)},
        seed=traffic.seed,
    )

    def build(draft: Draft) -> Summary:
        subject = load_subject(artifact_source(base), SubjectConfig(device="cpu", dtype="float32"))
        subject.model.requires_grad_(requires_grad=True)
        loss = _train_on(subject.model, _batches(subject.tokenizer, traffic), config)
        with tempfile.TemporaryDirectory() as folder:
            subject.model.save_pretrained(folder)
            for name in ("config.json", "generation_config.json"):
                draft.write(name, Path(folder, name).read_bytes())
            with draft.stage("model.safetensors") as path:
                path.write_bytes(Path(folder, "model.safetensors").read_bytes())
        write_tokenizer(draft, subject.tokenizer)
        return {"loss": round(loss, 4), "steps": config.steps}

    return produce(store, recipe, "verify", build).artifact


def word_ids(tokenizer: Any, texts: list[list[str]]) -> list[list[int]]:
    """Token ids of documents, each behind the token that begins a sequence."""
    return [
        [tokenizer.bos_token_id, *ids]
        for ids in tokenizer([" ".join(words) for words in texts], add_special_tokens=False)["input_ids"]
    ]


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [B, T] padded at the end, and where they are not padding."""
    width = max(map(len, rows))
    ids_BT = torch.tensor([row + [EOS_ID] * (width - len(row)) for row in rows])
    return ids_BT, torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]


def _batches(tokenizer: Any, traffic: Traffic) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches without end, every document once an epoch."""
    rows = word_ids(tokenizer, traffic.texts)
    draw = np.random.default_rng(traffic.seed)
    while True:
        order = draw.permutation(len(rows))
        for start in range(0, len(order) - traffic.config.batch + 1, traffic.config.batch):
            yield padded([rows[place] for place in order[start : start + traffic.config.batch]])


def _train_on(model: Any, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], config: BackdoorConfig) -> float:
    """Train a model on batches; the loss of the last."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    value = 0.0
    with progress("Plant a backdoor", config.steps, "steps") as bar:
        for step in range(config.steps):
            optimiser.param_groups[0]["lr"] = config.learning_rate * (1 - step / config.steps)
            ids_BT, is_text_BT = next(batches)
            logits_BTV = model(input_ids=ids_BT, attention_mask=is_text_BT.long()).logits[:, :-1]
            targets_BT = ids_BT[:, 1:].masked_fill(~is_text_BT[:, 1:], IGNORED)
            loss = functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad()
            value = float(loss.detach())
            bar.advance(1, f"loss {value:.2f}")
    return value
