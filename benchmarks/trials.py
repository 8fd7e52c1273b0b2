"""What trying features in the model costs: shared passes, beside whole passes over each context.

Run as ``python -m benchmarks.trials --store STORE`` with a store that holds an autoencoder and its activations; takes
the newest one. Prints a table and writes ``build/bench/trials.json``.

The other side is how find did it before: for a context three whole passes to the logits (as it is, without the feature,
without the control), and one pass with gradients for each step of an attribution, in batches that are small enough for
all their logits. Both sides try the same features in the same contexts, in turns; they have to agree. FLOP are counted
by PyTorch as the passes run.

``--processor-time`` counts processor time instead of the clock, for a machine that is busy.
"""

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import reporting
from benchmarks.reporting import row
from mistudio.activations import ActivationReader
from mistudio.artifacts import Catalog, Line, Store, open_to_read
from mistudio.corpus.reader import TokenCorpus
from mistudio.find import FindConfig
from mistudio.find.ablation import Ablation, _another, ablate
from mistudio.find.attribution import Attribution, _mean_embedding, _Traced, attribute
from mistudio.find.contexts import ChunkRows, TopContexts, hashed
from mistudio.find.cost import feature_flop
from mistudio.find.reading import (
    BATCH_TOKENS,
    LOGIT_BYTES,
    Batch,
    HookedSubject,
    Readings,
    batches,
    places_of,
    readings,
)
from mistudio.instrument import Ends
from mistudio.sae import hook_of, load_autoencoder, target_hook_of
from mistudio.steps.context import named_source
from mistudio.subject import HookPoint, SubjectConfig, forward_logits, load_subject, observed, resolve_hooks, spliced
from mistudio.subject.cost import subject_shape

ROWS = 16_384
CONFIG = FindConfig()


class Bench:
    """A model with its autoencoder, and the contexts of some of its features."""

    def __init__(self, store: Store, model: str, features: int) -> None:
        with Catalog(store) as catalog:
            sae = catalog.latest("sae")
        line = Line(store, sae)
        hook = hook_of(sae)
        subject = load_subject(named_source(store, model, "", sae), SubjectConfig(device="cpu"))
        points = resolve_hooks(subject, [HookPoint.parse(name) for name in (hook, target_hook_of(sae) or hook)])
        self.hooked = HookedSubject(subject, Ends(*points), load_autoencoder(sae), TokenCorpus(line.corpus))
        top = self._search(ActivationReader(line.activations, hook, "train"))
        fires = np.flatnonzero(top.ints_FC["document"][:, 0] >= 0)
        chosen = fires[np.linspace(0, len(fires) - 1, min(features, len(fires))).astype(np.int64)]
        self.features = len(chosen)
        places = places_of(top, chosen, CONFIG.ablation_contexts)
        self.ablated = readings(self.hooked.corpus, places, CONFIG.causal_tokens, CONFIG.context_after)
        self.traced = readings(self.hooked.corpus, places.first(CONFIG.attribution_contexts), CONFIG.causal_tokens, 0)

    def _search(self, reader: ActivationReader) -> TopContexts:
        top = TopContexts(self.hooked.sae.width, CONFIG.ablation_contexts, CONFIG.context_before, CONFIG.context_after)
        count = min(ROWS, len(reader))
        meta = reader.meta(0, count)
        with torch.no_grad():
            active = self.hooked.sae.encode_active(reader.acts(0, count).float())
        top.update(active, ChunkRows(meta["document"], meta["sequence"], meta["position"]))
        return top

    def shared(self) -> tuple[Ablation, Attribution]:
        """As find does it."""
        return ablate(self.hooked, self.ablated, 0), attribute(self.hooked, self.traced, CONFIG.attribution_steps)

    def whole(self) -> tuple[Ablation, Attribution]:
        """As find did it."""
        return whole_ablation(self.hooked, self.ablated), stepwise_attribution(self.hooked, self.traced)


def _tokens(hooked: HookedSubject) -> int:
    return max(min(LOGIT_BYTES // (4 * hooked.subject.vocab_size), BATCH_TOKENS), 1)


@torch.no_grad()
def whole_ablation(hooked: HookedSubject, read: Readings) -> Ablation:
    """Three whole passes over each context."""
    changes = np.full((3, len(read.token_ids)), np.nan, dtype=np.float32)
    for batch in batches(hooked, read.token_ids, _tokens(hooked)):
        feature_B = torch.from_numpy(read.feature[batch.places])
        acts: list[Tensor] = []

        def remember(
            x_BTD: Tensor, batch: Batch = batch, feature_B: Tensor = feature_B, acts: list[Tensor] = acts
        ) -> None:
            acts.append(_own_acts(hooked, batch, x_BTD, feature_B))

        with observed(hooked.subject, hooked.ends.read, remember):
            clean_BT = _losses(hooked, batch)
        lot_B = torch.from_numpy(hashed(read.feature[batch.places].astype(np.uint64), 0).astype(np.int64))
        own_BE = hooked.sae.W_dec[feature_B].float()
        other_BE = hooked.sae.W_dec[_another(feature_B, lot_B, hooked.sae.width)].float()
        other_BE = functional.normalize(other_BE, dim=1) * own_BE.norm(dim=1, keepdim=True)
        zeroed_BT, other_BT = (_without(hooked, batch, acts[0], each) - clean_BT for each in (own_BE, other_BE))
        asked_BT = batch.text[:, :-1] & batch.text[:, 1:]
        fires_BT = (acts[0] > 0)[:, :-1]
        behind_BT = (fires_BT.int().cumsum(dim=1) > 0) & ~fires_BT & asked_BT
        pairs = ((zeroed_BT, fires_BT & asked_BT), (zeroed_BT, behind_BT), (other_BT, fires_BT & asked_BT))
        for place, (change_BT, where_BT) in enumerate(pairs):
            changes[place, batch.places] = ((change_BT * where_BT).sum(dim=1) / where_BT.sum(dim=1)).numpy()
    return Ablation(*changes)


def _remember(hooked: HookedSubject, batch: Batch, feature_B: Tensor, acts: list[Tensor], x_BTD: Tensor) -> None:
    acts.append(_own_acts(hooked, batch, x_BTD, feature_B))


def _own_acts(hooked: HookedSubject, batch: Batch, x_BTD: Tensor, feature_B: Tensor) -> Tensor:
    active = hooked.sae.encode_active(x_BTD[batch.text].float())
    row_N = batch.text.nonzero()[:, 0]
    own_A = active.feature_A == feature_B[row_N[active.token_A]]
    acts_N = torch.zeros(len(row_N))
    acts_N[active.token_A[own_A]] = active.value_A[own_A].float()
    acts_BT = torch.zeros(batch.text.shape)
    acts_BT[batch.text] = acts_N
    return acts_BT


def _without(hooked: HookedSubject, batch: Batch, acts_BT: Tensor, direction_BE: Tensor) -> Tensor:
    part_BTE = acts_BT[..., None] * direction_BE[:, None]
    with spliced(hooked.subject, hooked.ends.write, lambda y_BTE: y_BTE - part_BTE.to(y_BTE)):
        return _losses(hooked, batch)


def _losses(hooked: HookedSubject, batch: Batch) -> Tensor:
    logits_BTV = forward_logits(hooked.subject, batch.ids, batch.mask)[:, :-1]
    answer_BT = batch.ids[:, 1:]
    losses: Tensor = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), answer_BT.flatten(), reduction="none")
    return losses.view(answer_BT.shape)


def stepwise_attribution(hooked: HookedSubject, read: Readings) -> Attribution:
    """One pass a step, in batches as small as if there were logits."""
    none: NDArray[np.float32] = np.empty(0, dtype=np.float32)
    found = Attribution([none] * len(read.token_ids), [none] * len(read.token_ids))
    baseline_E = _mean_embedding(hooked.subject)
    for batch in batches(hooked, read.token_ids, _tokens(hooked)):
        of_batch = (torch.from_numpy(each[batch.places]) for each in (read.feature, read.peak))
        traced = _Traced(hooked, batch, *of_batch, baseline_E)
        own_BTE, mean_BTE = traced.gradients(CONFIG.attribution_steps, 1)
        gradient_BT = (own_BTE * traced.embedded_BTE * batch.text[..., None]).sum(dim=-1).numpy()
        integrated_BT = (mean_BTE * traced.change_BTE).sum(dim=-1).numpy()
        for place, number in enumerate(batch.places.tolist()):
            found.gradient[number], found.integrated[number] = gradient_BT[place], integrated_BT[place]
    return found


def difference(ours: tuple[Ablation, Attribution], theirs: tuple[Ablation, Attribution]) -> float:
    """The largest difference of any figure, in units of the largest of its kind."""
    pairs = [*zip(ours[0], theirs[0], strict=True)]
    for one, other in zip(ours[1], theirs[1], strict=True):
        cut = [each[: len(values)] for each, values in zip(other, one, strict=True)]
        pairs.append((np.concatenate(one), np.concatenate(cut)))
    return max(float(np.nanmax(np.abs(one - other)) / np.nanmax(np.abs(other))) for one, other in pairs)


def main() -> None:
    """Measure both sides, and print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--model", default="", help="the model, where the capture does not say where it is")
    parser.add_argument("--features", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--processor-time", action="store_true")
    asked = parser.parse_args()
    bench = Bench(open_to_read(asked.store), asked.model, asked.features)
    shape, blocks = subject_shape(bench.hooked.subject), bench.hooked.ends.read.point.layer + 1
    found, counts = {}, {}
    for name in ("shared", "whole"):
        with FlopCounterMode(display=False) as counter:
            found[name] = getattr(bench, name)()
        counts[name] = counter.get_total_flops() / bench.features / 1e9
    apart = difference(found["shared"], found["whole"])
    clock = time.process_time if asked.processor_time else time.perf_counter
    times = reporting.paired(bench.shared, bench.whole, asked.pairs, warm_up=0, clock=clock)
    seconds = dict(zip(("shared", "whole"), (float(np.median(each)) / bench.features for each in times), strict=True))
    what = f"{bench.features} features of {bench.hooked.sae.width:,}"
    rows = [
        row(f"GFLOP a feature, whole passes, {what}", counts["whole"], "GFLOP"),
        row(f"GFLOP a feature, shared passes, {what}", counts["shared"], "GFLOP"),
        row("the same by formula", feature_flop(shape, blocks, CONFIG) / 1e9, "GFLOP"),
        row(f"seconds a feature, whole passes, {what}", seconds["whole"], "s"),
        row(f"seconds a feature, shared passes, {what}", seconds["shared"], "s"),
        row(
            f"speed, quartiles {times.quartiles}",
            times.speed,
            "x",
            "whole passes",
            1,
            times.speed >= 1,
        ),
        row("largest difference of a figure, in units of the largest figure", apart, "", "whole passes"),
    ]
    title = f"Features tried in {type(bench.hooked.subject.model).__name__}"
    reporting.publish("trials", title, rows, reporting.describe_machine(), reporting.versions("torch", "transformers"))


if __name__ == "__main__":
    main()
