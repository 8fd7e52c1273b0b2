"""What intervention takes to write a pair of continuations: by the engine, beside whole passes.

Run as ``python -m benchmarks.intervention --store STORE`` with a store that holds an autoencoder and its activations;
takes the newest one. Prints a table and writes ``build/bench/intervention.json``.

The other side is how the scorer did it before: each length of a push that is tried, and each token that is written, is
a pass over whole sequences, and a feature and its control come one after the other. Both sides go on with the same
held-out texts, in turns, and how many continuations agree is a row of the table.

``--processor-time`` counts processor time instead of the clock, for a machine that is busy.

Shape legend: B prompts, T tokens, D width of the hook point, V vocabulary.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import reporting
from benchmarks.reporting import row
from mistudio.artifacts import Catalog, Line, Store, open_to_read
from mistudio.corpus.reader import TokenCorpus
from mistudio.heap import keep_freed_memory
from mistudio.score.config import SteeringConfig
from mistudio.score.steering import Steering, open_steering
from mistudio.steps.context import named_source
from mistudio.subject import SubjectConfig, forward_logits, spliced

CONFIG = SteeringConfig()
_SPARE = 8  # tokens of a text beyond those of a prompt, as it is tokenised anew


class Pair(NamedTuple):
    """A feature, one to compare it with, and prompts."""

    features: tuple[int, int]
    ids_BT: Tensor


class Bench:
    """A model that is steered, and what to write."""

    def __init__(self, store: Store, model: str, pairs: int) -> None:
        with Catalog(store) as catalog:
            sae = catalog.latest("sae")
        source = named_source(store, model, "", sae)
        self.steering = open_steering(sae, source, SubjectConfig(device="cpu"), CONFIG)
        corpus, draw = TokenCorpus(Line(store, sae).corpus), np.random.default_rng(0)
        self.pairs = [self._pair(corpus, draw) for _ in range(pairs)]

    def _pair(self, corpus: TokenCorpus, draw: np.random.Generator) -> Pair:
        first, second = draw.choice(self.steering.num_features, 2, replace=False).tolist()
        ids_BT = self.steering.prompts([self._text(corpus, draw) for _ in range(CONFIG.num_prompts)])
        assert ids_BT is not None
        return Pair((first, second), ids_BT)

    def _text(self, corpus: TokenCorpus, draw: np.random.Generator) -> str:
        length = CONFIG.prompt_tokens + _SPARE
        while True:
            number = int(draw.integers(corpus.num_sequences("heldout")))
            ids = corpus.sequence("heldout", number).token_ids.tolist()
            if len(ids) > length:
                start = int(draw.integers(len(ids) - length))
                return str(
                    self.steering.subject.tokenizer.decode(ids[start : start + length], skip_special_tokens=True)
                )

    def engine(self) -> list[list[str] | None]:
        """As the scorer does it."""
        return [each for pair in self.pairs for each in self.steering.continuations(*pair)]

    def whole(self) -> list[list[str] | None]:
        """As the scorer did it."""
        return [whole_continuations(self.steering, each, pair.ids_BT) for pair in self.pairs for each in pair.features]


@torch.no_grad()
def whole_continuations(steering: Steering, feature: int, ids_BT: Tensor) -> list[str] | None:
    """What follows each prompt with the feature strengthened, all of a sequence again for each token."""
    push_D = _push(steering, feature, ids_BT)
    if push_D is None:
        return None
    written_BT = ids_BT
    with _pushed(steering, push_D):
        for _ in range(CONFIG.new_tokens):
            next_B1 = forward_logits(steering.subject, written_BT)[:, -1].argmax(dim=-1, keepdim=True)
            written_BT = torch.cat([written_BT, next_B1], dim=1)
    return list(steering.subject.tokenizer.batch_decode(written_BT[:, ids_BT.shape[1] :]))


def _push(steering: Steering, feature: int, ids_BT: Tensor) -> Tensor | None:
    """A push that changes predictions by the target: lengths from 1 on, doubled, then bisected."""
    unit_D = functional.normalize(steering.directions_FD[feature].float(), dim=0)
    clean_BTV, target = forward_logits(steering.subject, ids_BT).float().log_softmax(dim=-1), CONFIG.target_kl

    def change(length: float) -> float:
        with _pushed(steering, unit_D * length):
            steered_BTV = forward_logits(steering.subject, ids_BT).float().log_softmax(dim=-1)
        return float(functional.kl_div(steered_BTV, clean_BTV, log_target=True, reduction="sum")) / ids_BT.numel()

    high = 1.0
    while change(high) < target:
        high *= 2
        if high > 2.0**20:
            return None
    low = high / 2
    while low > 2.0**-20 and change(low) > target:
        low, high = low / 2, low
    for _ in range(CONFIG.search_steps):
        length = (low + high) / 2
        got = change(length)
        if abs(got - target) <= 0.05 * target:
            break
        low, high = (length, high) if got < target else (low, length)
    return unit_D * length


@contextmanager
def _pushed(steering: Steering, push_D: Tensor) -> Iterator[None]:
    with spliced(steering.subject, steering.hook, lambda x_BTD: x_BTD + push_D.to(x_BTD)):
        yield


def main() -> None:
    """Measure both sides, and print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--model", default="", help="the model, where the capture does not say where it is")
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--processor-time", action="store_true")
    asked = parser.parse_args()
    keep_freed_memory()
    bench = Bench(open_to_read(asked.store), asked.model, asked.features)
    ours, theirs = bench.engine(), bench.whole()
    texts = [
        pair for one, other in zip(ours, theirs, strict=True) for pair in zip(one or [""], other or [""], strict=True)
    ]
    same = sum(one == other for one, other in texts)
    clock = time.process_time if asked.processor_time else time.perf_counter
    times = reporting.paired(bench.engine, bench.whole, asked.pairs, warm_up=0, clock=clock)
    what = f"{asked.features} features, each with a control, {CONFIG.num_prompts} prompts"
    rows = [
        *reporting.speed_rows(f"intervention: {what}", times, "whole passes", 1.0),
        row("intervention: s a feature, engine", round(float(np.median(times.ours_s)) / asked.features, 4), "s"),
        row(
            "intervention: s a feature, whole passes", round(float(np.median(times.theirs_s)) / asked.features, 4), "s"
        ),
        row(
            "intervention: continuations that are the same",
            same,
            f"of {len(texts)}",
            "",
            len(texts),
            same == len(texts),
        ),
    ]
    machine = reporting.describe_machine()
    reporting.publish("intervention", "Intervention", rows, machine, reporting.versions())


if __name__ == "__main__":
    main()
