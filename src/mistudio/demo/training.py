"""Train the demo subject: from the built-in corpus to an artifact that transformers loads.

AdamW, with a higher rate for embeddings and norms than for the matrices of the blocks; rates rise briefly, then
fall linearly to zero. Gradients are clipped: some early ones have thirty times the usual norm, and with them cut down
the same loss takes fewer tokens. Two threads each take half of every batch, in operations of one thread: the matrices
are so small that two threads on one operation gain little. One recipe gives the same bytes on one kind of processor,
with any number of threads.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedTokenizerFast

from mistudio.artifacts import Draft, JsonScalar, Summary
from mistudio.corpus import python_docs
from mistudio.demo.config import DemoConfig
from mistudio.demo.model import Llama, Weights, llama_config, new_weights, transformers_weights
from mistudio.demo.text import (
    BOS_ID,
    EOS_ID,
    IGNORED,
    Ids,
    Split,
    collate,
    one_epoch,
    plan,
    sequences,
    split,
    train_tokenizer,
)
from mistudio.errors import CorpusError
from mistudio.parallel import single_threads
from mistudio.progress import progress

_TOKENIZER = "tokenizer.json"
_CHECKPOINT = "checkpoint.safetensors"
_MATRICES = ("attention", "mlp_in", "mlp_out")
_PARTS = 2  # of a batch; part of the recipe, because it orders the sums
_BETAS = (0.9, 0.95)
_CURVE_POINTS = 100


class Point(NamedTuple):
    """One point of the loss curve: the mean over the steps since the last point."""

    tokens: int
    loss: float  # nats per token


def build(draft: Draft, config: DemoConfig, seed: int, stdlib: Path | None) -> Summary:
    """Train tokenizer and model, and write them as a folder in Hugging Face format; return the summary.

    Raises:
        CorpusError: the standard library cannot be read, or is too small for the split.
    """
    texts = split(python_docs.documents(stdlib), config, seed)
    if not texts.train or not texts.held_out:
        message = (
            f"held_out_fraction {config.held_out_fraction} leaves no documents of python-docs "
            f"{'to train on' if not texts.train else 'to evaluate on'}. Choose another fraction."
        )
        raise CorpusError(message)
    return build_from(draft, config, seed, texts, _tokenizer(draft, texts, config))


def build_from(
    draft: Draft, config: DemoConfig, seed: int, texts: Split, tokenizer: PreTrainedTokenizerFast
) -> Summary:
    """Train a model on given texts with a given tokenizer, and write it; return the summary.

    The tokenizer's first two ids have to be those of ``<s>`` and ``</s>``; its files are the caller's to write.
    """
    training = _Training(draft, config, seed, sequences(tokenizer, texts.train, config.context_length))
    training.run()
    bits, held_out_bytes = _evaluate(training.weights, config, tokenizer, texts.held_out)
    summary: dict[str, JsonScalar] = {
        "name": config.name,
        "tokens": training.tokens,
        "parameters": sum(weight.numel() for weight in training.weights.values()),
        "bits_per_byte": round(bits / held_out_bytes, 4),
        "held_out_bytes": held_out_bytes,
    }
    _write_model(draft, config, training.weights)
    curve = [point._asdict() for point in training.curve]
    draft.write("training.json", json.dumps({**summary, "curve": curve}, indent=1).encode() + b"\n")
    return summary


def _tokenizer(draft: Draft, texts: Split, config: DemoConfig) -> PreTrainedTokenizerFast:
    """Train the tokenizer, unless a killed run has done so."""
    if not draft.has(_TOKENIZER):
        with tempfile.TemporaryDirectory() as folder:
            train_tokenizer(texts.train, config.vocab_size).save_pretrained(folder)
            for name in ("tokenizer_config.json", _TOKENIZER):  # the last says that both are there
                draft.write(name, Path(folder, name).read_bytes())
    return PreTrainedTokenizerFast(tokenizer_file=str(draft.file(_TOKENIZER)))


class _Training:
    """Weights, optimiser and how far they are; saved and restored as a whole."""

    def __init__(self, draft: Draft, config: DemoConfig, seed: int, train: list[Ids]) -> None:
        self.config, self._draft, self._train = config, draft, train
        self._plan = plan([len(ids) for ids in train], config.tokens, config.batch_tokens, seed)
        self._planned = sum(len(train[number]) - 1 for members in self._plan for number in members)
        self.weights = {name: weight.requires_grad_() for name, weight in new_weights(config, seed).items()}
        self._model = Llama(self.weights, config, getattr(torch, config.dtype))
        self._optimizer = _optimizer(self.weights, config)
        self.step, self.tokens = 0, 0
        self.curve: list[Point] = []
        self._losses: list[float] = []
        if draft.has_work(_CHECKPOINT):
            self._restore()

    def run(self) -> None:
        """Go on to the end of the budget."""
        with progress("Train demo model", total=self._planned, unit="tokens") as bar, single_threads(_PARTS) as pool:
            bar.advance(self.tokens)
            for members in self._plan[self.step :]:
                num_tokens = sum(len(self._train[number]) - 1 for number in members)
                loss = self._learn(members, num_tokens, pool)
                self._count(num_tokens, loss)
                bar.advance(num_tokens, f"loss {loss:.2f}")
                if self.step % self.config.checkpoint_steps == 0 and self.step < len(self._plan):
                    self._save()

    def _learn(self, members: Sequence[int], num_tokens: int, pool: Executor) -> float:
        """One step; the loss before it."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate()
        losses, gradients = zip(*pool.map(self._differentiate, _parts(members)), strict=True)
        for weight, parts in zip(self.weights.values(), zip(*gradients, strict=True), strict=True):
            weight.grad = torch.stack(parts).sum(0).div_(num_tokens)
        # On one thread: a norm is a sum, whose last bits depend on how many share it.
        pool.submit(torch.nn.utils.clip_grad_norm_, list(self.weights.values()), self.config.gradient_clip).result()
        self._optimizer.step()
        return math.fsum(losses) / num_tokens

    def _differentiate(self, members: Sequence[int]) -> tuple[float, tuple[torch.Tensor, ...]]:
        """The loss, summed over the tokens, and its gradient by each of the weights."""
        loss = self._model.loss(collate([self._train[number] for number in members]), reduction="sum")
        return loss.item(), torch.autograd.grad(loss, list(self.weights.values()))

    def _rate(self) -> float:
        """The part of the peak learning rate: rises during warm-up, falls linearly to zero at the end."""
        num_steps = len(self._plan)
        num_warm = max(1, round(self.config.warmup_fraction * num_steps))
        return min((self.step + 1) / num_warm, (num_steps - self.step) / max(1, num_steps - num_warm), 1.0)

    def _count(self, num_tokens: int, loss: float) -> None:
        self.step += 1
        self.tokens += num_tokens
        self._losses.append(loss)
        if self.step % max(1, len(self._plan) // _CURVE_POINTS) == 0 or self.step == len(self._plan):
            self.curve.append(Point(self.tokens, round(math.fsum(self._losses) / len(self._losses), 4)))
            self._losses.clear()

    def _save(self) -> None:
        """Write one file, so that weights, optimiser and counts are always of the same step."""
        progress_made = {"step": self.step, "tokens": self.tokens, "curve": self.curve, "losses": self._losses}
        tensors = {name: weight.detach() for name, weight in self.weights.items()}
        for name, state in self._states():
            tensors |= {f"{name}/{key}": value for key, value in state.items()}
        with self._draft.stage_work(_CHECKPOINT) as path:
            save_file(tensors, path, metadata={"progress": json.dumps(progress_made)})

    def _restore(self) -> None:
        path = self._draft.work_file(_CHECKPOINT)
        saved = load_file(path)
        for name, weight in self.weights.items():
            weight.data.copy_(saved[name])
        for name, state in self._states():
            state.update({key.removeprefix(f"{name}/"): saved[key] for key in saved if key.startswith(f"{name}/")})
        with safe_open(path, framework="pt") as handle:
            progress_made = json.loads(handle.metadata()["progress"])
        self.step, self.tokens, self._losses = (progress_made[key] for key in ("step", "tokens", "losses"))
        self.curve = [Point(*point) for point in progress_made["curve"]]

    def _states(self) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
        """What the optimiser remembers of each weight; empty before the first step."""
        for name, weight in self.weights.items():
            yield name, self._optimizer.state[weight]


def _parts(members: Sequence[int]) -> list[Sequence[int]]:
    """The sequences of a batch in ``_PARTS`` parts, for threads to share; fewer where there are fewer sequences."""
    size = -(-len(members) // _PARTS)
    return [members[start : start + size] for start in range(0, len(members), size)]


def _optimizer(weights: Weights, config: DemoConfig) -> torch.optim.AdamW:
    """AdamW with two groups of weights, each with its peak learning rate."""
    matrices = [weight for name, weight in weights.items() if name in _MATRICES]
    others = [weight for name, weight in weights.items() if name not in _MATRICES]
    groups = [
        {"params": matrices, "peak": config.learning_rate},
        {"params": others, "peak": config.embedding_learning_rate},
    ]
    return torch.optim.AdamW(groups, betas=_BETAS, weight_decay=0.0, fused=True)


def _evaluate(
    weights: Weights, config: DemoConfig, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> tuple[float, int]:
    """Cross-entropy of the tokens of ``texts`` in bits, and the bytes of the texts; in float32."""
    model = Llama(weights, config, torch.float32)
    inputs = sequences(tokenizer, texts, config.context_length)
    batches = one_epoch([len(ids) for ids in inputs], config.batch_tokens, np.random.default_rng(0))

    def measure(members: Sequence[int]) -> float:
        batch = collate([inputs[number] for number in members])
        # The end of a document is no part of its text.
        batch.targets_BT[batch.targets_BT == EOS_ID] = IGNORED
        with torch.no_grad():
            return model.loss(batch, reduction="sum").item()

    nats = []
    with progress("Evaluate demo model", total=len(inputs), unit="sequences") as bar, single_threads(_PARTS) as pool:
        for members, loss in zip(batches, pool.map(measure, batches), strict=True):
            nats.append(loss)
            bar.advance(len(members))
    return math.fsum(nats) / math.log(2), sum(len(text.encode()) for text in texts)


def _write_model(draft: Draft, config: DemoConfig, weights: Weights) -> None:
    """Write the weights, and the two JSON files that go with them in Hugging Face format."""
    with draft.stage("model.safetensors") as path:
        save_file(transformers_weights(weights), path, metadata={"format": "pt"})
    with tempfile.TemporaryDirectory() as folder:
        llama_config(config).save_pretrained(folder)
        GenerationConfig(bos_token_id=BOS_ID, eos_token_id=EOS_ID).save_pretrained(folder)
        for name in ("config.json", "generation_config.json"):
            draft.write(name, Path(folder, name).read_bytes())
