"""The capture step: run a corpus through a language model and keep what passes its hook points.

The forward pass stops at the deepest hook point; sequences of like length share a batch; only wanted
positions are kept; rows stream to Arrow shards, written while the next forward pass runs. A killed run goes
on at the first shard that is missing.

Shape legend: B sequences, T tokens, D width of a hook point, N kept rows, S sequences of a split.
"""

from collections.abc import Iterable
from contextlib import ExitStack, closing
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from mistudio.activations.plan import CapturePlan, plan_capture
from mistudio.activations.prefetch import prefetched
from mistudio.activations.shards import ShardWriter, narrowed
from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, produce
from mistudio.corpus.reader import SPLITS, Split, TokenCorpus
from mistudio.errors import InputError, SubjectError
from mistudio.progress import Bar, progress
from mistudio.subject import (
    HookPoint,
    ResolvedHook,
    Subject,
    SubjectConfig,
    SubjectSource,
    load_subject,
    pick_device,
    resolve_dtype,
    resolve_hooks,
    run_captured,
)

_BATCHES_AHEAD = 2  # forward passes that may be done before their rows are written


class CaptureConfig(BaseModel):
    """What to capture, and how it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hooks: tuple[str, ...] = Field(min_length=1, description="hook points, for example resid_post.3")
    batch_size: int = Field(default=32, ge=1, le=128, description="sequences of full length in one forward pass")
    storage_dtype: Literal["float16", "bfloat16"] = "float16"
    shard_bytes: int = Field(default=256 << 20, ge=1 << 16, description="size of one shard, in bytes")
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="stop after the training sequence that reaches this many kept tokens; None: never",
    )
    include_special: bool = Field(default=False, description="also keep BOS and other added special tokens")

    @field_validator("hooks")
    @classmethod
    def _hooks_are_different(cls, hooks: tuple[str, ...]) -> tuple[str, ...]:
        points = tuple(str(HookPoint.parse(hook)) for hook in hooks)
        if len(set(points)) != len(points):
            message = f"hooks names a hook point twice: {', '.join(points)}"
            raise ValueError(message)
        return points


def capture(
    store: Store,
    corpus: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: CaptureConfig,
    seed: int = 0,
) -> Produced:
    """Publish the activations of ``corpus`` at the hook points of ``config``.

    Raises:
        InputError: the corpus was tokenised for another model.
        SubjectError: the model cannot be loaded, has no such layer or hook point, or takes only shorter sequences.
    """
    check_tokenizer(corpus, source)
    dtype = resolve_dtype(subject_config.dtype, pick_device(subject_config.device))
    settings = {
        **config.model_dump(mode="json"),
        "subject_dtype": dtype,
        "quantization": subject_config.quantization,
    }
    inputs = {"corpus": corpus.ref, "subject": InputRef(uri=source.uri, digest=source.digest)}
    recipe = Recipe(kind="activations", config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        subject = load_subject(source, subject_config)
        return CaptureRun(subject, TokenCorpus(corpus), config).run(draft)

    return produce(store, recipe, "capture", build)


def check_tokenizer(corpus: Artifact, source: SubjectSource) -> None:
    """Refuse a corpus whose token ids mean nothing to the model.

    Raises:
        InputError: the corpus was tokenised with another tokenizer.
    """
    used = corpus.manifest.inputs["tokenizer"]
    if used.digest != source.tokenizer_digest:
        model = used.uri.removeprefix("tokenizer:")
        message = (
            f"{corpus.uri} was tokenised with the tokenizer of {model} ({used.digest[:12]}), and {source.uri} has "
            f"another ({source.tokenizer_digest[:12]}). Run ingest for this model."
        )
        raise InputError(message)


def batch_tensors(
    tokens: list[NDArray[np.int32]], device: torch.device, *, causal: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Right-padded ids [B, T], the attention mask the model needs (or None) and which tokens are real [B, T].

    A causal model never looks at what comes later, so padding on the right needs no mask.
    """
    lengths_B = torch.tensor([len(ids) for ids in tokens])
    ids_BT = torch.zeros(len(tokens), int(lengths_B.max()), dtype=torch.int64)
    for row, ids in enumerate(tokens):
        ids_BT[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
    real_BT = torch.arange(ids_BT.shape[1]) < lengths_B[:, None]
    needs_mask = not causal and not bool(real_BT.all())
    mask_BT = real_BT.long().to(device) if needs_mask else None
    return ids_BT.to(device), mask_BT, real_BT


class _Rows(NamedTuple):
    """What one forward pass leaves to be written."""

    acts: dict[HookPoint, Tensor]  # each [N, D], in the number format of the shards
    meta: dict[str, NDArray[np.int32]]  # each [N]


class CaptureRun:
    """One run of the step; holds a few forward passes' rows and one block of rows in memory."""

    def __init__(self, subject: Subject, corpus: TokenCorpus, config: CaptureConfig) -> None:
        self.subject, self.corpus, self.config = subject, corpus, config
        self.hooks: list[ResolvedHook] = resolve_hooks(subject, [HookPoint.parse(hook) for hook in config.hooks])
        self.num_prefix = 0 if config.include_special else corpus.num_prefix
        self.num_suffix = 0 if config.include_special else corpus.num_suffix

    def run(self, draft: Draft) -> Summary:
        """Write all shards that ``draft`` lacks."""
        self._check_lengths()
        plans = {split: self.plan(split) for split in SPLITS}
        if not plans["train"].num_rows:
            message = f"{self.corpus.artifact.uri} leaves no token to capture for training. Use a larger corpus."
            raise InputError(message)
        for split, plan in plans.items():
            self._capture(draft, split, plan)
        return {
            "hooks": ", ".join(str(hook.point) for hook in self.hooks),
            **{f"width.{hook.point}": hook.width for hook in self.hooks},
            "train_tokens": plans["train"].num_rows,
            "heldout_tokens": plans["heldout"].num_rows,
            "shards": sum(len(plan.shards) for plan in plans.values()) * len(self.hooks),
            "padding_fraction": round(plans["train"].padding_fraction(), 4),
        }

    def plan(self, split: Split) -> CapturePlan:
        """Which sequences go into which shard and which forward pass."""
        widest = max(hook.width for hook in self.hooks)
        return plan_capture(
            self.corpus.lengths(split),
            self.num_prefix + self.num_suffix,
            shard_rows=max(self.config.shard_bytes // (2 * widest), 1),
            batch_tokens=self.config.batch_size * self.corpus.context_length,
            max_rows=self.config.max_tokens if split == "train" else None,
        )

    def _check_lengths(self) -> None:
        limit = self.subject.max_positions
        longest = max(int(self.corpus.lengths(split).max(initial=0)) for split in SPLITS)
        if limit is not None and longest > limit:
            message = (
                f"{self.corpus.artifact.uri} has sequences of {longest} tokens, and the model "
                f"({type(self.subject.model).__name__}) takes at most {limit}. "
                f"Run ingest with a context_length of at most {limit}."
            )
            raise SubjectError(message)

    def _capture(self, draft: Draft, split: Split, plan: CapturePlan) -> None:
        """Run the batches of all missing shards on another thread, and write what they give on this one."""
        names = [
            {hook.point: f"{hook.point}/{split}/shard-{number:05d}.arrow" for hook in self.hooks}
            for number in range(len(plan.shards))
        ]
        missing = [number for number, files in enumerate(names) if not all(map(draft.has, files.values()))]
        batches = (batch for number in missing for batch in plan.batches(plan.shards[number]))
        passes = prefetched((self._forward(split, batch) for batch in batches), _BATCHES_AHEAD)
        with progress(f"Capture ({split})", plan.num_rows, "tokens") as bar, closing(passes):
            bar.advance(plan.num_rows - sum(plan.shards[number].num_rows for number in missing), note="found")
            for number in missing:
                self._write(draft, names[number], islice(passes, plan.num_batches(plan.shards[number])), bar)

    def _write(self, draft: Draft, names: dict[HookPoint, str], passes: Iterable[_Rows], bar: Bar) -> None:
        """Write one shard, a file for each hook point, from the rows of its forward passes."""
        with ExitStack() as stack:
            writers = {}
            for hook in self.hooks:
                path = stack.enter_context(draft.stage(names[hook.point]))
                writers[hook.point] = stack.enter_context(ShardWriter(path, hook.width, self.config.storage_dtype))
            for rows in passes:
                for point, acts_ND in rows.acts.items():
                    writers[point].append_narrow(acts_ND, rows.meta)
                bar.advance(len(rows.meta["position"]))

    def _forward(self, split: Split, batch: NDArray[np.int64]) -> _Rows:
        """Run one batch of sequences, and keep the rows that are wanted."""
        rows = self.corpus.batch(split, batch)
        ids_BT, mask_BT, real_BT = batch_tensors(rows.token_ids, self.subject.device, causal=self.subject.is_causal)
        captured = run_captured(self.subject, self.hooks, ids_BT, mask_BT)
        lengths_B = real_BT.sum(dim=1)
        place_T = torch.arange(ids_BT.shape[1])
        keep_BT = (place_T >= self.num_prefix) & (place_T < lengths_B[:, None] - self.num_suffix)
        row_N, place_N = torch.nonzero(keep_BT, as_tuple=True)
        sequence_B = torch.from_numpy(batch)
        meta_N = {
            "document": torch.from_numpy(rows.document)[row_N],
            "sequence": sequence_B[row_N],
            "position": torch.from_numpy(rows.start)[row_N] + place_N - self.corpus.num_prefix,
            "token_id": ids_BT.cpu()[keep_BT],
        }
        flat_N = (row_N * ids_BT.shape[1] + place_N).to(self.subject.device)
        return _Rows(
            {
                point: narrowed(acts_BTD.flatten(0, 1).index_select(0, flat_N), self.config.storage_dtype)
                for point, acts_BTD in captured.items()
            },
            {name: column.to(torch.int32).numpy() for name, column in meta_N.items()},
        )
