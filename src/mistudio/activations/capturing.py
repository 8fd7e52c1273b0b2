"""What the capture step does: a corpus runs through a language model, and what passes its hook points is kept.

The forward pass stops at the deepest hook point; sequences of like length share a batch; only wanted
positions are kept; rows stream to Arrow shards, written while the next forward pass runs. A killed run goes
on at the first shard that is missing. Where a value turns up that float16 cannot say, all shards become bfloat16.
"""

import logging
from collections.abc import Iterable
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice

import numpy as np

from mistudio.activations.config import OUTLIER_RATIO, CaptureConfig
from mistudio.activations.index import ShardSequences, index_path, shard_path, write_index
from mistudio.activations.passes import CorpusPasses, PassRows, corpus_plan
from mistudio.activations.plan import CapturePlan, ShardPlan
from mistudio.activations.prefetch import Prefetched
from mistudio.activations.shards import DoesNotFit, ShardFile, ShardWriter
from mistudio.activations.sinks import first_token_ratio, why_first
from mistudio.artifacts import Artifact, Draft, Summary
from mistudio.corpus.reader import SPLITS, Split, TokenCorpus
from mistudio.errors import InputError
from mistudio.parallel import two_at_once
from mistudio.progress import Bar, progress, say
from mistudio.subject import HookPoint, Subject, SubjectConfig, SubjectSource, load_subject
from mistudio.subject.cost import pass_flop, stated, subject_shape, subject_speed

logger = logging.getLogger(__name__)

_WIDER = "bfloat16"  # what takes the place of a format that values do not fit; as a working file, that they did not
BATCHES_AHEAD = 2  # forward passes that may be done before their rows are written


def run(
    draft: Draft, corpus: Artifact, source: SubjectSource, subject_config: SubjectConfig, config: CaptureConfig
) -> Summary:
    """Load the model and write all shards that ``draft`` lacks."""
    subject = load_subject(source, subject_config)
    if config.storage_dtype == _WIDER:
        return CaptureRun(subject, TokenCorpus(corpus), config).run(draft)
    if not draft.has_work(_WIDER):
        try:
            return CaptureRun(subject, TokenCorpus(corpus), config).run(draft)
        except DoesNotFit as error:
            logger.warning("%s Activations are stored as %s, from the start.", _first_sentence(error), _WIDER)
        draft.clear()
        with draft.stage_work(_WIDER) as path:
            path.touch()
    wider = config.model_copy(update={"storage_dtype": _WIDER})
    return {**CaptureRun(subject, TokenCorpus(corpus), wider).run(draft), "stored_as": _WIDER}


def _first_sentence(error: Exception) -> str:
    return f"{str(error).partition('. ')[0]}."


class CaptureRun:
    """One run of the step; holds a few forward passes' rows and one block of rows in memory."""

    def __init__(self, subject: Subject, corpus: TokenCorpus, config: CaptureConfig) -> None:
        self.corpus, self.config = corpus, config
        self.passes = CorpusPasses(subject, corpus, config.hooks, config)
        self.hooks = self.passes.hooks

    def run(self, draft: Draft) -> Summary:
        """Write all shards that ``draft`` lacks."""
        plans = {split: self.plan(split) for split in SPLITS}
        self._check_rows(plans)
        stored = {split: plan for split, plan in plans.items() if self.config.stored in ("all", split)}
        self._say_cost(stored.values())
        for split, plan in stored.items():
            self._capture(draft, split, plan)
        for split, plan in stored.items():
            self._write_indexes(draft, split, plan)
        sinks = self._sinks(draft, *next(iter(stored.items())))
        return {
            "hooks": ", ".join(str(hook.point) for hook in self.hooks),
            **{f"width.{hook.point}": hook.width for hook in self.hooks},
            "train_tokens": plans["train"].num_rows,
            "heldout_tokens": plans["heldout"].num_rows,
            "stored": self.config.stored,
            "shards": sum(len(plan.shards) for plan in stored.values()) * len(self.hooks),
            "padding_fraction": round(next(iter(stored.values())).padding_fraction(), 4),
            **{f"first_token_ratio.{point}": ratio for point, ratio in sinks.items()},
        }

    def _say_cost(self, plans: Iterable[CapturePlan]) -> None:
        """What all shards take; of those that are there already, nothing is run again."""
        subject, blocks = self.passes.subject, max(hook.point.layer for hook in self.hooks) + 1
        tokens = sum(int(plan.lengths_S[plan.sequences()].sum()) for plan in plans if plan.shards)
        flop = pass_flop(subject_shape(subject), tokens, self.corpus.context_length, blocks=blocks, head=False)
        cost = stated(flop, subject_speed(subject, blocks))
        say(f"Capture: the model's passes take {cost} for {tokens:,} tokens through {blocks} blocks")

    def plan(self, split: Split) -> CapturePlan:
        """Which sequences go into which shard and which forward pass."""
        return corpus_plan(self.corpus, self.config, split, max(hook.width for hook in self.hooks))

    def _check_rows(self, plans: dict[Split, CapturePlan]) -> None:
        if not plans["train"].num_rows:
            message = f"{self.corpus.artifact.uri} leaves no token to capture for training. Use a larger corpus."
            raise InputError(message)
        if self.config.stored == "heldout" and not plans["heldout"].num_rows:
            message = (
                f"{self.corpus.artifact.uri} holds out no documents, so there is nothing to store. Run ingest with a "
                "larger held_out_fraction, or capture with stored all."
            )
            raise InputError(message)

    def _capture(self, draft: Draft, split: Split, plan: CapturePlan) -> None:
        """Run the batches of all missing shards on other threads, and write what they give on this one."""
        names = [
            {hook.point: shard_path(str(hook.point), split, number) for hook in self.hooks}
            for number in range(len(plan.shards))
        ]
        missing = [number for number, files in enumerate(names) if not all(map(draft.has, files.values()))]
        batches = (batch for number in missing for batch in plan.batches(plan.shards[number]))
        on_cpu = self.passes.subject.device.type == "cpu"
        with ExitStack() as stack:
            pool = stack.enter_context(two_at_once()) if on_cpu else None
            passes = Prefetched(partial(self.passes.rows, split), batches, BATCHES_AHEAD, pool)
            stack.enter_context(closing(passes))
            bar = stack.enter_context(progress(f"Capture ({split})", plan.num_rows, "tokens"))
            bar.advance(plan.num_rows - sum(plan.shards[number].num_rows for number in missing))
            for number in missing:
                self._write(draft, names[number], islice(passes, plan.num_batches(plan.shards[number])), bar)

    def _write_indexes(self, draft: Draft, split: Split, plan: CapturePlan) -> None:
        """Write which rows lie in which shard, for each hook point."""
        shards = [_sequences(plan, shard) for shard in plan.shards]
        for hook in self.hooks:
            with draft.open(index_path(str(hook.point), split)) as file:
                write_index(file, hook.width, self.config.storage_dtype, shards)

    def _write(self, draft: Draft, names: dict[HookPoint, str], passes: Iterable[PassRows], bar: Bar) -> None:
        """Write one shard, a file for each hook point, from the rows of its forward passes."""
        with ExitStack() as stack:
            writers = {}
            for hook in self.hooks:
                file = stack.enter_context(draft.open(names[hook.point]))
                writers[hook.point] = stack.enter_context(ShardWriter(file, hook.width, self.config.storage_dtype))
            for rows in passes:
                for point, acts_ND in rows.acts.items():
                    writers[point].append_narrow(acts_ND, rows.meta)
                bar.advance(len(rows.meta["position"]))

    def _sinks(self, draft: Draft, split: Split, plan: CapturePlan) -> dict[str, float]:
        """How many times as long as the others the first token of a sequence is, by hook point, where it is a sink."""
        paths = {str(hook.point): shard_path(str(hook.point), split, 0) for hook in self.hooks}
        ratios = {point: first_token_ratio(ShardFile(draft.file(path))) for point, path in paths.items()}
        sinks = {point: ratio for point, ratio in ratios.items() if ratio is not None}
        if sinks:
            logger.warning(
                "The first token of a sequence is an attention sink: at %s it is %s times as long as the others. %s "
                "Training leaves out what lies beyond max_norm_ratio (%g) times the median, here %.2g%% of all tokens.",
                ", ".join(sinks),
                ", ".join(f"{ratio:.0f}" for ratio in sinks.values()),
                why_first(self.passes.subject, self.passes.num_prefix, self.corpus.num_prefix),
                OUTLIER_RATIO,
                100 * plan.shards[-1].stop / plan.num_rows,
            )
        return sinks


def _sequences(plan: CapturePlan, shard: ShardPlan) -> ShardSequences:
    """The sequences that leave rows in a shard, in the order in which these are stored."""
    sequences_S = np.concatenate(list(plan.batches(shard)))
    rows_S = plan.rows(sequences_S)
    return ShardSequences(sequences_S[rows_S > 0].astype(np.int32), rows_S[rows_S > 0].astype(np.int32))
