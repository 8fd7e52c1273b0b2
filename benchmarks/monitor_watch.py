"""What watching costs over the forward pass that it needs.

Run as ``python -m benchmarks.monitor_watch``; ``--store STORE`` takes the model behind a store's newest autoencoder
too, and ``--model FOLDER`` other models. Prints a table and writes ``build/bench/monitor_watch.json``.

Bare is the same work without reading anything: the same texts become the same batches, which run as far as the deepest
hook point that is watched. Both are done in turns, in one process; shown is the median of the pairs' ratios with an
interval by bootstrap. Watched is everything up to the observations: products, pooling by largest values and by top-m,
prompt and reply apart.

Autoencoders have random directions: what they cost does not depend on what they mean. ``thresholds`` stands for all
architectures whose latents do not compete (ReLU, JumpReLU, BatchTopK, Matryoshka, gated); their latents fire on about
1% of tokens. There are 16 latents a component of the activations, at most 8,192; TopK keeps 32 of them a token.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from torch import Tensor

from benchmarks import reporting
from benchmarks.reporting import Row, row
from mistudio.artifacts import Catalog, open_store, open_to_read
from mistudio.instrument import open_session
from mistudio.instrument.served import Served
from mistudio.instrument.session import Ends, PlacedAutoencoder, Session
from mistudio.monitor.records import Exchange, Origin, Sample
from mistudio.monitor.watch.config import WatchConfig
from mistudio.monitor.watch.topk_columns import TopKColumns
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.monitor.watch.watching import Watcher
from mistudio.sae import JumpReLUConfig, SparseAutoencoder, TopKConfig, new_autoencoder
from mistudio.subject import HookPoint, SubjectConfig, SubjectSource, resolve_hooks, resolve_source
from tests.support.tiny import tiny_tokenizer

Clock = Callable[[], float]

MOST_F, K = 8192, 32
EXPANSION = 16  # latents a component of the activations
WIDE, WIDE_LAYERS = 768, 6
MOST_WATCH, MOST_THOUSAND = 0.03, 0.07
RESAMPLES = 2000


def wide_model(folder: Path) -> SubjectSource:
    """Random weights, as wide as GPT-2 and half as deep."""
    tokenizer = tiny_tokenizer()
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDE,
        intermediate_size=3 * WIDE,
        num_hidden_layers=WIDE_LAYERS,
        num_attention_heads=12,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return resolve_source(str(folder))


def latents_of(width: int) -> int:
    """Latents of an autoencoder for activations so wide."""
    return min(EXPANSION * width, MOST_F)


def autoencoder(session: Session, hook: str, *, is_topk: bool, acts_ND: Tensor, seed: int) -> PlacedAutoencoder:
    """Random directions at a hook point, which fire about as often as those of a trained one."""
    (end,) = resolve_hooks(session.subject, [HookPoint.parse(hook)])
    made = {"width": latents_of(end.width), "allow_wide": True}
    config = TopKConfig(k=K, **made) if is_topk else JumpReLUConfig(**made)
    sae: SparseAutoencoder = new_autoencoder(config, end.width).requires_grad_(requires_grad=False)
    draw = torch.Generator().manual_seed(seed)
    mean_D = acts_ND.mean(dim=0)
    sae.W_enc.copy_(torch.nn.functional.normalize(torch.randn(sae.W_enc.shape, generator=draw)))
    sae.W_dec.copy_(sae.W_enc)
    sae.b_enc.copy_(-(sae.W_enc @ mean_D))
    if not is_topk:
        threshold_F = ((acts_ND - mean_D) @ sae.W_enc.T).quantile(0.99, dim=0).clamp(min=1e-3)
        sae.log_threshold.copy_(threshold_F.log())
    uri = f"sae/{'topk' if is_topk else 'thresholds'}-{hook}"
    return PlacedAutoencoder(sae.eval(), Ends(end, end), uri, "0" * 64)


def exchanges(vocabulary: int, longest: int, tokens: int) -> list[Exchange]:
    """Random texts of 24 to 256 tokens, two thirds of each a reply."""
    draw, found, total = np.random.default_rng(0), [], 0
    while total < tokens:
        length = min(int(draw.integers(24, 256)), longest)
        ids = tuple(draw.integers(5, vocabulary, length).tolist())
        found.append(Exchange(f"x{len(found)}", 0.0, Origin(), (Sample(ids, length // 3),)))
        total += length
    return found


class Bench:
    """One model with autoencoders at two layers."""

    def __init__(self, session: Session, tokens: int, pairs: int, clock: Clock) -> None:
        self.pairs, self.clock = pairs, clock
        subject = session.subject
        last = max(subject.num_layers - 2, 0)
        self.latents = latents_of(subject.d_model)
        self.hooks = list(dict.fromkeys([f"resid_post.{last // 2}", f"resid_post.{last}"]))
        limit = subject.max_positions or 2048
        self.exchanges = exchanges(subject.vocab_size, limit, tokens)
        text = [list(each.samples[0].content) for each in self.exchanges[:12]]
        acts = self._acts(session, text)
        placed = [
            autoencoder(session, hook, is_topk=is_topk, acts_ND=acts[hook], seed=number)
            for number, hook in enumerate(self.hooks)
            for is_topk in (False, True)
        ]
        self.served = Served(Session(subject, placed, session.source), (), "m", open_store(tempfile.mkdtemp()))

    def _acts(self, session: Session, texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        from mistudio.subject import run_captured

        resolved = resolve_hooks(session.subject, [HookPoint.parse(hook) for hook in self.hooks])
        found: dict[str, list[Tensor]] = {hook: [] for hook in self.hooks}
        for ids in texts:
            captured = run_captured(session.subject, resolved, torch.tensor([ids]))
            for hook in self.hooks:
                found[hook].append(captured[HookPoint.parse(hook)][0].float())
        return {hook: torch.cat(some) for hook, some in found.items()}

    def watcher(self, count: int, kind: str, hooks: Sequence[str]) -> Watcher:
        """Watches so many features, an equal part at each hook point; those of TopK are ones that fire seldom."""
        watched = []
        for hook in hooks:
            for number in range(count // len(hooks)):
                watched.append(
                    {
                        "name": f"{hook}-{number}",
                        "feature": number * 7 % self.latents,
                        "autoencoder": f"sae/{kind}-{hook}",
                    }
                )
        asked = WatchList.model_validate({"watched": watched})
        return Watcher(self.served, asked, WatchConfig())

    def over_bare(self, watcher: Watcher) -> tuple[float, float, float, float]:
        """How much more than the bare pass it takes: median, interval, and milliseconds of the bare pass."""
        for _ in range(2):
            watcher.observe(self.exchanges)
        times = reporting.paired(
            lambda: watcher.run_bare(self.exchanges),
            lambda: watcher.observe(self.exchanges),
            self.pairs,
            clock=self.clock,
        )
        ratios = np.array(times.ratios)  # watched over bare
        draw = np.random.default_rng(0)
        medians = np.median(draw.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
        low, high = np.quantile(medians, [0.025, 0.975])
        return float(np.median(ratios)) - 1, float(low) - 1, float(high) - 1, statistics.median(times.ours_s) * 1e3

    def rows(self, name: str) -> list[Row]:
        """All cases of one model."""
        cases = [
            ("16 features at two layers, thresholds", self.watcher(16, "thresholds", self.hooks), MOST_WATCH),
            (
                "1,000 features at one layer, thresholds",
                self.watcher(1000, "thresholds", self.hooks[-1:]),
                MOST_THOUSAND,
            ),
            ("16 features at one layer, TopK", self.watcher(16, "topk", self.hooks[-1:]), MOST_WATCH),
            ("1,000 features at one layer, TopK", self.watcher(1000, "topk", self.hooks[-1:]), MOST_THOUSAND),
        ]
        found = []
        for what, watcher, most in cases:
            more, low, high, bare_ms = self.over_bare(watcher)
            detail = f"95% {low:.1%} to {high:.1%}; bare {bare_ms:.0f} ms, {self.pairs} pairs"
            sys.stderr.write(f"{name}: {what}: {more:.2%} ({detail})\n")
            found.append(row(f"{name}: {what}", round(100 * more, 2), "% over bare", detail, 100 * most, more <= most))
        with _all_latents():
            more, low, high, _ = self.over_bare(self.watcher(16, "topk", self.hooks[-1:]))
        detail = f"95% {low:.1%} to {high:.1%}"
        found.append(
            row(f"{name}: 16 features, TopK, all latents computed", round(100 * more, 2), "% over bare", detail)
        )
        return found


@contextmanager
def _all_latents() -> Iterator[None]:
    """TopK as it is without knowing better: every latent of every token."""
    fast = TopKColumns.__call__
    TopKColumns.__call__ = lambda self, x_ND: self._whole(x_ND)  # type: ignore[method-assign]
    try:
        yield
    finally:
        TopKColumns.__call__ = fast  # type: ignore[method-assign]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="holds an autoencoder, whose model is watched")
    parser.add_argument("--model", action="append", default=[], help="folder of another model; may be repeated")
    parser.add_argument(
        "--tokens", type=int, default=4096, help="of the texts of small models; the wide one has a quarter"
    )
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--processor-time", action="store_true", help="where the machine is busy")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[Row] = []
    clock = time.process_time if given.processor_time else time.perf_counter
    if given.store:
        with Catalog(open_to_read(given.store)) as catalog:
            sae = catalog.latest("sae")
        with open_session(sae) as session:
            rows += Bench(session, given.tokens, given.pairs, clock).rows("the store's model")
    for folder in given.model:
        with open_session((), resolve_source(folder), SubjectConfig(device="cpu")) as session:
            rows += Bench(session, given.tokens, given.pairs, clock).rows(Path(folder).name)
    with tempfile.TemporaryDirectory() as folder:
        source = wide_model(Path(folder))
        with open_session((), source, SubjectConfig(device="cpu")) as session:
            rows += Bench(session, given.tokens // 4, given.pairs, clock).rows(
                f"random weights, {WIDE} wide, {WIDE_LAYERS} layers"
            )
    used = reporting.versions("torch", "transformers")
    title = "watching" + (", processor time" if given.processor_time else "")
    reporting.publish("monitor_watch", title, rows, reporting.describe_machine(), used)


if __name__ == "__main__":
    main()
