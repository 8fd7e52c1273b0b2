"""Activations live from the model are those that were captured: same rows, same order, whatever computes them."""

import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from mistudio.activations import (
    ActivationReader,
    CaptureConfig,
    LiveReader,
    PairedReader,
    RowSource,
    ShuffledBatches,
    capture,
    open_rows,
)
from mistudio.activations.stream import Ranges
from mistudio.artifacts import Artifact, Draft, Recipe, Store, Summary, open_store, produce
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import InputError
from mistudio.evaluate import evaluate
from mistudio.find import FindConfig, find_features
from mistudio.sae import TopKConfig
from mistudio.subject import SubjectConfig, SubjectSource, artifact_source, resolve_source
from mistudio.subject import batches as batches_module
from mistudio.train import TrainConfig, TrainRuntime, train
from mistudio.train.trainer import Trainer
from tests.support.threads import threads_since
from tests.support.tiny import MLP_WIDTH, WIDTH, published_subject, tiny_bert, tiny_corpus, tiny_llama

CPU = SubjectConfig(device="cpu")
HOOK, TARGET = "resid_post.1", "mlp_act.0"
SETTINGS = {"hooks": (TARGET, HOOK), "shard_bytes": 1 << 16, "batch_size": 20}
CLOSE = {"rtol": 2e-3, "atol": 2e-3}  # about two units in the last place of float16


class Setting:
    """A model in a store, a corpus, and its activations: all of them stored, or those held out alone."""

    def __init__(self, folder: Path, make: Callable[[Path], SubjectSource]) -> None:
        self.store = open_store(str(folder / "store"))
        self.source = artifact_source(published_subject(self.store, make(folder / "model")))
        self.corpus = tiny_corpus(self.store, self.source, folder / "text", num_documents=30)
        self.whole, self.heldout = (self.captured(stored=stored) for stored in ("all", "heldout"))

    def captured(self, subject: SubjectConfig = CPU, **settings: Any) -> Artifact:
        config = CaptureConfig(**{**SETTINGS, **settings})
        return capture(self.store, self.corpus, self.source, subject, config).artifact

    def copied(self, folder: Path) -> Store:
        """Another store with the same content."""
        shutil.copytree(self.store.url, folder)
        return open_store(str(folder))

    def live(self, *hooks: str) -> Any:
        return open_rows(self.store, self.heldout, *hooks, subject_config=CPU)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("llama"), tiny_llama)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("bert"), tiny_bert)


@pytest.fixture
def setting(request: pytest.FixtureRequest) -> Setting:
    found: Setting = request.getfixturevalue(request.param)
    return found


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    added = threads_since()
    yield
    assert added() == 0


class Passes:
    """Watches forward passes; can wait for some, and make one fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = self.count = 0
        self.fail_at: int | None = None
        self.moved = threading.Condition()
        self._run = batches_module.run_captured
        monkeypatch.setattr(batches_module, "run_captured", self)

    def __call__(self, subject: Any, hooks: Any, ids_BT: Tensor, mask_BT: Tensor | None) -> Any:
        with self.moved:
            if self.count == self.fail_at:
                message = "the model broke"
                raise RuntimeError(message)
            self.count += 1
            self.tokens += ids_BT.numel()
            self.moved.notify_all()
        return self._run(subject, hooks, ids_BT, mask_BT)

    def wait_for_more_than(self, count: int) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: self.count > count, timeout=60)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(monkeypatch)


class Unprepared:
    """A source that is never told what comes next."""

    def __init__(self, source: RowSource[Any]) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def expect(self, ranges: Ranges) -> None:
        pass


def epochs(batches: ShuffledBatches[Any], number: int) -> Iterator[Any]:
    """Batches of the next epochs."""
    for _ in range(number):
        served = 0
        while served < len(batches):
            batch = batches.next_batch()
            served += len(batch) if isinstance(batch, Tensor) else len(batch[0])
            yield batch


def test_an_artifact_that_stores_what_is_held_out_alone_says_so_and_has_the_same_shards(llama: Setting) -> None:
    whole, heldout = llama.whole, llama.heldout
    assert heldout.paths() == [path for path in whole.paths() if "/heldout/" in path]
    for path in heldout.paths():
        assert heldout.file(path).read_bytes() == whole.file(path).read_bytes()
    summary, of_whole = heldout.manifest.summary, whole.manifest.summary
    assert (summary["stored"], of_whole["stored"]) == ("heldout", "all")
    assert summary["shards"] == len([path for path in heldout.paths() if "/shard-" in path])
    for name in ("hooks", "train_tokens", "heldout_tokens", f"width.{HOOK}"):
        assert summary[name] == of_whole[name]


def test_nothing_held_out_is_refused_where_nothing_else_would_be_stored(
    llama: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = TokenCorpus.lengths
    monkeypatch.setattr(
        TokenCorpus, "lengths", lambda self, split: lengths(self, split)[: None if split == "train" else 0]
    )
    with pytest.raises(InputError, match=r"holds out no documents.*larger held_out_fraction, or capture with stored"):
        llama.captured(stored="heldout", max_tokens=700)


@pytest.mark.parametrize("setting", ["llama", "bert"], indirect=True)
def test_live_rows_are_the_captured_rows_of_the_same_number(setting: Setting) -> None:
    stored = ActivationReader(setting.whole, HOOK, "train")
    with setting.live(HOOK) as live:
        assert (len(live), live.width, live.target_width, live.dtype) == (len(stored), WIDTH, WIDTH, "float16")
        assert np.array_equal(live.sequence_ends(), stored.sequence_ends())
        for start, stop in ((0, len(stored)), (0, 1), (101, 333), (len(stored) - 1, len(stored))):
            torch.testing.assert_close(live.acts(start, stop), stored.acts(start, stop), **CLOSE)
            for name, column in stored.meta(start, stop).items():
                assert np.array_equal(live.meta(start, stop)[name], column)
                assert live.meta(start, stop)[name].dtype == column.dtype
        assert len(live.shards) == len(stored.shards) > 2
        for shard in range(len(live.shards)):
            assert list(live.chunks(shard, 100)) == list(stored.chunks(shard, 100))


def test_settings_of_the_capture_hold_live_too(llama: Setting) -> None:
    settings = {"include_special": True, "max_tokens": 400, "storage_dtype": "bfloat16"}
    stored = ActivationReader(llama.captured(**settings), HOOK, "train")
    heldout = llama.captured(**settings, stored="heldout")
    with open_rows(llama.store, heldout, HOOK, subject_config=CPU) as live:
        assert len(live) == len(stored) < 500
        assert live.acts(0, 9).dtype == torch.bfloat16
        torch.testing.assert_close(live.acts(0, len(live)), stored.acts(0, len(live)), rtol=2e-2, atol=2e-2)
        assert np.array_equal(live.meta(0, len(live))["token_id"], stored.meta(0, len(live))["token_id"])


def test_the_model_is_loaded_in_the_number_format_of_the_capture(llama: Setting) -> None:
    settings = {"subject": SubjectConfig(device="cpu", dtype="bfloat16"), "storage_dtype": "bfloat16"}
    stored = ActivationReader(llama.captured(**settings), HOOK, "train")
    exact = ActivationReader(llama.whole, HOOK, "train").acts(0, 300).float()
    heldout = llama.captured(**settings, stored="heldout")
    with open_rows(llama.store, heldout, HOOK, subject_config=CPU) as live:
        from_stored, from_exact = (
            (live.acts(0, 300).float() - rows).abs().mean() for rows in (stored.acts(0, 300).float(), exact)
        )
    assert from_stored < from_exact / 2


@pytest.mark.parametrize(
    ("setting", "buffer_rows"), [("llama", 700), ("llama", 100_000), ("bert", 700)], indirect=["setting"]
)
def test_shuffled_batches_are_the_same_from_shards_and_from_the_model(setting: Setting, buffer_rows: int) -> None:
    stored = ShuffledBatches(ActivationReader(setting.whole, HOOK, "train"), 32, buffer_rows, seed=5)
    with setting.live(HOOK) as rows:
        live = ShuffledBatches(rows, 32, buffer_rows, seed=5)
        torch.testing.assert_close(live.sample(400), stored.sample(400), **CLOSE)
        for expected in epochs(stored, 2):
            torch.testing.assert_close(live.next_batch(), expected, **CLOSE)
            assert torch.equal(live.state_dict()["ids"], stored.state_dict()["ids"])


def test_shuffled_pairs_are_the_same_from_shards_and_from_the_model(llama: Setting) -> None:
    stored = ShuffledBatches(PairedReader(llama.whole, HOOK, TARGET, "train"), 32, 500, seed=1)
    with llama.live(HOOK, TARGET) as rows:
        live = ShuffledBatches(rows, 32, 500, seed=1)
        assert (live.width, live.target_width) == (WIDTH, MLP_WIDTH)
        for expected in epochs(stored, 1):
            torch.testing.assert_close(live.next_batch(), expected, **CLOSE)


def test_a_live_stream_goes_on_to_the_last_bit_where_its_state_was_taken(llama: Setting) -> None:
    states, stream = [], []
    with llama.live(HOOK, TARGET) as rows:
        batches = ShuffledBatches(rows, 97, 600, seed=3)
        while batches.epoch < 2:
            states.append(batches.state_dict())
            stream.append(batches.next_batch())
        for taken in range(1, len(states), 13):
            resumed = ShuffledBatches(rows, 97, 600, seed=99)
            resumed.load_state_dict(states[taken])
            for expected in stream[taken : taken + 8]:
                for part, expected_part in zip(resumed.next_batch(), expected, strict=True):
                    assert torch.equal(part, expected_part)


def test_computing_ahead_changes_no_bit(llama: Setting) -> None:
    with llama.live(HOOK) as rows, llama.live(HOOK) as other:
        ahead = ShuffledBatches(rows, 50, 600, seed=2)
        late = ShuffledBatches(Unprepared(other), 50, 600, seed=2)
        for batch in islice(epochs(ahead, 2), len(rows) // 50 + 10):
            assert torch.equal(batch, late.next_batch())
        assert ahead.epoch == 1


def test_what_comes_next_is_computed_while_batches_are_served(llama: Setting, passes: Passes) -> None:
    with llama.live(HOOK) as rows:
        batches = ShuffledBatches(rows, 50, 600, seed=2)
        batches.next_batch()
        filled = passes.count
        passes.wait_for_more_than(filled)
        assert passes.tokens > 600  # the first filling, and more


def test_an_epoch_computes_little_more_than_its_tokens(llama: Setting, passes: Passes) -> None:
    lengths = TokenCorpus(llama.corpus).lengths("train")
    with llama.live(HOOK) as rows:
        batches = ShuffledBatches(Unprepared(rows), 16, 64 * int(lengths.max()), seed=2)
        assert batches.capacity < len(rows)
        list(epochs(batches, 1))
    assert lengths.sum() <= passes.tokens < 1.1 * lengths.sum()


def test_no_more_than_one_refill_is_computed_ahead(llama: Setting, passes: Passes) -> None:
    ranges = [(0, 800), (1000, 1300)]
    with llama.live(HOOK) as rows:
        rows.read(ranges, (torch.empty(1100, WIDTH, dtype=torch.float16),), torch.arange(1100))
        needed = passes.count
        assert needed > 2
        rows.expect(ranges)
        passes.wait_for_more_than(2 * needed - 1)
        rows.acts(0, 1)  # which waits for the thread
        assert passes.count == 2 * needed + 1


def test_rows_of_no_slot_are_left_out_and_cost_no_pass_of_their_own(llama: Setting, passes: Passes) -> None:
    ranges = [(0, 800), (1000, 1300)]
    slots = torch.full((1100,), -1)
    slots[[1000, 1001, 1002]] = torch.tensor([0, 2, 1])
    all_ND = torch.empty(1100, WIDTH, dtype=torch.float16)
    some_ND = torch.full((4, WIDTH), 7, dtype=torch.float16)
    with llama.live(HOOK) as rows:
        rows.read(ranges, (all_ND,), torch.arange(1100))
        passes_for_all = passes.count
        rows.read(ranges, (some_ND,), slots)
    assert passes.count - passes_for_all <= 2 < passes_for_all
    assert torch.equal(some_ND[:3], all_ND[[1000, 1002, 1001]])
    assert (some_ND[3] == 7).all()


def test_an_error_on_the_other_thread_reaches_the_trainer(llama: Setting, passes: Passes) -> None:
    with llama.live(HOOK) as rows:
        batches = ShuffledBatches(rows, 50, 600, seed=2)
        batches.next_batch()
        passes.fail_at = passes.count + 8
        with pytest.raises(RuntimeError, match="the model broke"):
            list(epochs(batches, 2))


def test_a_trainer_that_fails_ends_the_thread(llama: Setting) -> None:
    added = threads_since()

    def fail(rows: RowSource[Any]) -> None:
        ShuffledBatches(rows, 50, 600, seed=2).next_batch()
        assert added() == 1
        raise KeyError

    with pytest.raises(KeyError), llama.live(HOOK) as rows:
        fail(rows)
    assert added() == 0


def test_activations_that_do_not_fit_are_refused(llama: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    run = batches_module.run_captured
    monkeypatch.setattr(
        batches_module, "run_captured", lambda *args: {point: acts * 1e9 for point, acts in run(*args).items()}
    )
    with llama.live(HOOK) as rows, pytest.raises(InputError, match="does not fit float16"):
        rows.acts(0, 10)


def test_an_autoencoder_learns_the_same_from_shards_and_from_the_model(llama: Setting) -> None:
    config = TrainConfig(
        hook=HOOK, sae=TopKConfig(width=128, k=4), tokens=2000, batch_size=64, buffer_rows=512, warmup_fraction=0.1
    )
    weights, fvu = [], []
    for artifact in (llama.whole, llama.heldout):
        with open_rows(llama.store, artifact, HOOK, subject_config=CPU) as rows:
            trainer = Trainer([config], rows, 0, torch.device("cpu"))
            while not trainer.finished:
                trainer.train_step()
        (learner,) = trainer.learners
        fvu.append(learner.history[-1]["fvu"])
        weights.append(learner.finish().W_dec.detach())
    assert fvu[1] == pytest.approx(fvu[0], rel=0.02)
    cosines_F = torch.nn.functional.cosine_similarity(*weights)
    assert float(cosines_F.median()) > 0.999


def test_stored_rows_are_opened_where_the_artifact_holds_them(llama: Setting) -> None:
    with open_rows(llama.store, llama.whole, HOOK) as rows:
        assert isinstance(rows, ActivationReader)
    with open_rows(llama.store, llama.whole, HOOK, TARGET) as rows:
        assert isinstance(rows, PairedReader)
        assert rows.target_width == MLP_WIDTH
    with open_rows(llama.store, llama.heldout, HOOK, split="heldout") as rows:
        assert isinstance(rows, ActivationReader)
        assert len(rows) == llama.heldout.manifest.summary["heldout_tokens"]
    with llama.live(HOOK) as rows:
        assert isinstance(rows, LiveReader)


def test_stored_rows_that_are_not_there_are_refused_with_what_to_do(llama: Setting) -> None:
    with pytest.raises(InputError, match=r"captured with stored heldout\. Capture with stored all"):
        ActivationReader(llama.heldout, HOOK, "train")


def test_a_hook_point_that_was_not_captured_is_refused_live_too(llama: Setting) -> None:
    with (
        pytest.raises(InputError, match=rf"no activations of resid_post\.0 \(train\); it has {TARGET}, {HOOK}\."),
        llama.live(HOOK, "resid_post.0"),
    ):
        pass


def test_a_model_in_a_folder_has_to_be_named_and_has_to_be_the_same(tmp_path: Path) -> None:
    store, source = open_store(str(tmp_path / "store")), tiny_llama(tmp_path / "model")
    corpus = tiny_corpus(store, source, tmp_path / "text")
    heldout = capture(store, corpus, source, CPU, CaptureConfig(**SETTINGS, stored="heldout")).artifact
    with (
        pytest.raises(InputError, match="where the model folder model lies is not known"),
        open_rows(store, heldout, HOOK),
    ):
        pass
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "model", moved)
    with open_rows(store, heldout, HOOK, source=resolve_source(str(moved)), subject_config=CPU) as rows:
        assert rows.acts(0, 5).shape == (5, WIDTH)
    other = tiny_llama(tmp_path / "other", seed=1)
    with (
        pytest.raises(InputError, match="was captured from folder:model, but folder:other has other content"),
        open_rows(store, heldout, HOOK, source=other),
    ):
        pass


def test_a_model_that_is_gone_from_the_store_is_named(tmp_path: Path) -> None:
    setting = Setting(tmp_path, tiny_llama)
    store, uri = setting.store, setting.source.uri
    for name in [*store.list(uri)]:
        store.remove(name)
    message = f"{setting.heldout.uri} was captured from {uri}, a model that is gone from the store"
    with pytest.raises(InputError, match=message), setting.live(HOOK):
        pass


class Cut(Exception):
    """Stands for whatever ends a run."""


def test_the_train_step_learns_live_and_goes_on_to_the_same_bytes(llama: Setting, tmp_path: Path) -> None:
    config = TrainConfig(hook=HOOK, sae=TopKConfig(width=64, k=4), tokens=4000, batch_size=64, buffer_rows=512)
    runtime = TrainRuntime(checkpoint_every_steps=10)
    copies = [llama.copied(tmp_path / name) for name in ("whole", "cut")]
    whole = train(copies[0], llama.heldout, config, runtime=runtime).artifact
    stored = train(copies[0], llama.whole, config, runtime=runtime).artifact
    fvu = [artifact.manifest.summary["train_fvu"] for artifact in (whole, stored)]
    assert fvu[0] == pytest.approx(fvu[1], rel=0.02)

    def cut(_metrics: dict[str, float], step: int) -> None:
        if step > 35:
            raise Cut

    with pytest.raises(Cut):
        train(copies[1], llama.heldout, config, runtime=runtime, on_metrics=cut)
    resumed = train(copies[1], llama.heldout, config, runtime=runtime)
    assert (resumed.found, resumed.artifact.digest) == (False, whole.digest)


def test_the_steps_after_training_measure_the_same_live(llama: Setting, tmp_path: Path) -> None:
    config = TrainConfig(hook=HOOK, sae=TopKConfig(width=64, k=4), tokens=2000, batch_size=64, buffer_rows=512)
    store = llama.copied(tmp_path / "store")
    sae = train(store, llama.whole, config).artifact
    # The same weights, as if they were of the other capture.
    recipe = Recipe(kind="sae", config={**sae.manifest.config}, inputs={"activations": llama.heldout.ref})

    def build(draft: Draft) -> Summary:
        for path in sae.paths():
            draft.write(path, sae.file(path).read_bytes())
        return sae.manifest.summary

    twin = produce(store, recipe, "train", build).artifact
    stored, live = (evaluate(store, each, llama.source, CPU).artifact.manifest.summary for each in (sae, twin))
    assert live == pytest.approx(stored, rel=0.02, abs=0.02)
    search = FindConfig(map=False)
    found = [find_features(store, each, llama.source, CPU, search).artifact for each in (sae, twin)]
    features = [pq.read_table(each.file("features.parquet")).to_pydict() for each in found]
    assert features[1]["density"] == pytest.approx(features[0]["density"], abs=2e-3)
    assert features[1]["max"] == pytest.approx(features[0]["max"], rel=0.02, abs=0.02)
