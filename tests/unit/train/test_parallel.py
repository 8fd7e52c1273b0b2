"""Two processes end with what one ends with, whether they share the tokens of each batch or the latents."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mistudio.activations import CaptureConfig, capture
from mistudio.artifacts import Artifact, Store, open_artifact, open_store
from mistudio.errors import ConfigError
from mistudio.sae import ALONE, Parallel, TopKConfig, WorkerFailed, Workers, load_autoencoder, new_autoencoder
from mistudio.sae.topk import TopKTraining
from mistudio.subject import SubjectConfig, artifact_source
from mistudio.train import TrainConfig
from tests.support.naive_sae import small_config
from tests.support.processes import Team
from tests.support.synthetic import HOOK, plant, publish_activations
from tests.support.tiny import published_subject, tiny_corpus, tiny_llama
from tests.unit.train import together

ROWS, BATCH = 161, 32  # the last batch of an epoch has one row, which two processes cannot share
STEPS = 16
LIVE_HOOK, LIVE_BATCH = "resid_post.1", 37
PARALLEL = ("data", "latents")
CASES = {
    "topk": {"multi_k_coefficient": 0.1, "skip": "learned_scale"},
    "batchtopk": {},
    "matryoshka": {"prefixes": (8, 40, 64)},
    "standard": {"target_l0": 4.0, "encoder_bias": -1.5},
    "standard-resample": {"revival": "resample", "encoder_bias": -1.5, "penalty": "sum"},
    "standard-ghost": {"revival": "ghost", "encoder_bias": -1.5, "penalty": "mean"},
    "gated": {"target_l0": 4.0},
    "jumprelu": {"initial_threshold": 2.0, "pre_activation_coefficient": 0.01},
    "jumprelu-tanh": {"penalty": "tanh", "target_l0": 4.0},
}


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    with Team(2) as two:
        yield two


@pytest.fixture
def live(store: Store, tmp_path: Path) -> Artifact:
    """Training rows that are computed when they are asked for; the last batch has an odd number."""
    source = artifact_source(published_subject(store, tiny_llama(tmp_path / "model")))
    corpus = tiny_corpus(store, source, tmp_path / "text", num_documents=9)
    config = CaptureConfig(hooks=(LIVE_HOOK,), stored="heldout", shard_bytes=1 << 16)
    activations = capture(store, corpus, source, SubjectConfig(device="cpu"), config).artifact
    assert int(activations.manifest.summary["train_tokens"] or 0) % LIVE_BATCH == 15
    return activations


@pytest.fixture
def activations(store: Store) -> Artifact:
    return publish_activations(store, plant(ROWS, width=12).acts_ND)


def settings(case: str, **changes: object) -> TrainConfig:
    """A short run in which latents die, are revived or get the auxiliary loss, and tokens are left out."""
    name = case.partition("-")[0]
    sparsity = {"k": 3} if name in ("topk", "batchtopk", "matryoshka") else {}
    base = {
        "hook": HOOK,
        "sae": small_config(name, 64, **sparsity, **CASES[case]),
        "tokens": 4 * ROWS,
        "batch_size": BATCH,
        "buffer_rows": 64,
        "dead_after_tokens": 70,
        "check_every_steps": 5,
        "learning_rate": 0.01,
        "gradient_clip": 0.5,
        "patience": 0,
        "ema_decay": 0.5,
        "decay_fraction": 0.1,
    }
    return TrainConfig.model_validate({**base, **changes})


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(case: str, parallel: Parallel, team: Team, activations: Artifact) -> None:
    args = activations.store.url, activations.uri, settings(case), parallel, STEPS
    alone = together.learn(*args)
    first, second = team.run(together.learn, *args)
    assert case in ("gated", "jumprelu-tanh") or any(report["dead_fraction"] for report in alone.reports[10:])
    if case in ("topk", "batchtopk", "matryoshka"):
        assert any("auxiliary" in report for report in alone.reports)
    for report, expected in zip(first.reports, alone.reports, strict=True):
        assert report == pytest.approx(expected, rel=1e-9)
    assert second.reports == first.reports
    assert_same(alone.state, first.state, 1e-9)
    assert_same(alone.published, first.published, 1e-9)
    if parallel == "data":
        assert_same(first.published, second.published, 0.0)


@pytest.mark.parametrize("case", ["topk", "standard-ghost"])
@pytest.mark.parametrize("parallel", PARALLEL)
def test_parts_of_a_batch_without_its_outliers_are_shared_like_a_whole(
    case: str, parallel: Parallel, team: Team, store: Store
) -> None:
    activations = publish_activations(store, plant(5 * BATCH, width=12).acts_ND)
    config = settings(case, micro_batches=3, max_norm_ratio=1.2)
    alone = together.learn(store.url, activations.uri, config, parallel, STEPS)
    first, _ = team.run(together.learn, store.url, activations.uri, config, parallel, STEPS)
    assert alone.reports[-1]["tokens"] < STEPS * BATCH
    assert first.reports[-1]["tokens"] == alone.reports[-1]["tokens"]
    assert_same(alone.state, first.state, 1e-9)


@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize("case", ["topk", "standard"])
def test_one_of_two_processes_publishes_what_one_alone_would(
    case: str, parallel: Parallel, team: Team, activations: Artifact, tmp_path: Path
) -> None:
    apart = publish_activations(open_store(str(tmp_path / "apart")), plant(ROWS, width=12).acts_ND)
    alone = together.publish(apart.store.url, apart.uri, settings(case))
    first, second = team.run(together.publish, activations.store.url, activations.uri, settings(case), parallel)
    assert (first.found, second.found) == (False, True)
    assert first[:2] == second[:2]
    assert first.uri == alone.uri  # the recipe knows nothing of processes
    assert first.steps == alone.steps
    assert second.steps == []
    for one, other in zip(json.loads(alone.history), json.loads(first.history), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-6)  # float32
    one, other = (load_autoencoder(open_artifact(each.store, alone.uri)) for each in (apart, activations))
    torch.testing.assert_close(other.W_dec, one.W_dec, rtol=1e-3, atol=1e-3)
    again = team.run(together.publish, activations.store.url, activations.uri, settings(case), parallel)
    assert [run.found for run in again] == [True, True]
    assert not [name for name in activations.store.list() if "/work/" in name]


@pytest.mark.parametrize("parallel", PARALLEL)
def test_where_live_rows_differ_all_processes_learn_from_those_of_the_first(
    parallel: Parallel, team: Team, live: Artifact, tmp_path: Path
) -> None:
    shutil.copytree(live.store.url, tmp_path / "apart")
    apart = open_store(str(tmp_path / "apart"))
    sae = TopKConfig(width=64, k=3)
    # Two epochs; many tokens lie at the limit of what is left out.
    config = TrainConfig(
        hook=LIVE_HOOK, sae=sae, tokens=1880, batch_size=LIVE_BATCH, buffer_rows=64, max_norm_ratio=1.2
    )
    alone = together.publish(apart.url, live.uri, config)
    first, second = team.run(together.publish_with_rows_of_its_own, live.store.url, live.uri, config, parallel)
    assert first[:2] == second[:2]
    assert first.uri == alone.uri
    summaries = [open_artifact(each, alone.uri).manifest.summary for each in (apart, live.store)]
    assert summaries[0]["filtered_tokens"] == summaries[1]["filtered_tokens"] > 0
    one, other = (load_autoencoder(open_artifact(each, alone.uri)) for each in (apart, live.store))
    torch.testing.assert_close(other.W_dec, one.W_dec, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize("alone_first", [True, False])
def test_a_cut_run_goes_on_with_another_number_of_processes(
    alone_first: bool, parallel: Parallel, team: Team, activations: Artifact, tmp_path: Path
) -> None:
    apart = publish_activations(open_store(str(tmp_path / "apart")), plant(ROWS, width=12).acts_ND)
    config = settings("topk")
    whole = together.publish(apart.store.url, apart.uri, config)
    args = activations.store.url, activations.uri, config, parallel
    if alone_first:
        with pytest.raises(together.Cut):
            together.publish(*args, cut_at=10)
        done = team.run(together.publish, *args)[0]
    else:
        first, second = team.run(together.publish, *args, cut_at=10)
        assert isinstance(first, together.Cut)
        assert isinstance(second, WorkerFailed)
        done = together.publish(*args)
    assert done.steps == list(range(9, len(whole.steps) + 1))  # a checkpoint every four steps
    for one, other in zip(json.loads(whole.history), json.loads(done.history), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-6)  # float32


@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_cut_run_of_two_goes_on_to_the_same_bytes(parallel: Parallel, team: Team, tmp_path: Path) -> None:
    digests = []
    for cut_at in (None, 10):
        store = open_store(str(tmp_path / f"cut-{cut_at}"))
        activations = publish_activations(store, plant(ROWS, width=12).acts_ND)
        args = store.url, activations.uri, settings("batchtopk"), parallel
        if cut_at:
            team.run(together.publish, *args, cut_at=cut_at)
        digests.append(team.run(together.publish, *args)[0].digest)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize(("case", "rank"), [("topk", 1), ("batchtopk", 0)])
def test_where_memory_runs_out_in_one_all_do_the_batch_again_in_parts(
    case: str, rank: int, parallel: Parallel, team: Team, activations: Artifact, tmp_path: Path
) -> None:
    args = activations.store.url, activations.uri, settings(case, max_epochs=1), parallel
    first, second = team.run(together.publish_with_little_memory, *args, rank=rank)
    assert first.digest == second.digest
    cut = json.loads(first.history)
    # Sharing tokens, a process has 16 of a batch, and memory for 12; sharing latents, it has all 32.
    assert cut[0]["micro_batches"] == cut[-1]["micro_batches"] == (2 if parallel == "data" else 4)
    apart = publish_activations(open_store(str(tmp_path / "apart")), plant(ROWS, width=12).acts_ND)
    config = settings(case, max_epochs=1, micro_batches=int(cut[0]["micro_batches"]))
    alone = json.loads(together.publish(apart.store.url, apart.uri, config).history)
    assert [point["tokens"] for point in cut] == [point["tokens"] for point in alone]
    assert [point["loss"] for point in cut] == pytest.approx([point["loss"] for point in alone], rel=1e-3)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_where_the_moments_do_not_fit_in_one_that_one_says_so_and_all_end(
    parallel: Parallel, team: Team, activations: Artifact
) -> None:
    args = activations.store.url, activations.uri, settings("topk"), parallel
    first, second = team.run(together.publish_without_room_for_moments, *args)
    assert isinstance(first, WorkerFailed)
    assert isinstance(second, ConfigError)
    assert "Out of memory while Adam moves the weights at width 64" in str(second)


class _Agreed(Exception):
    """The others go on, and wait for this process."""


class _Willing(Workers):
    def agree(self, number: int = 0) -> int:
        raise _Agreed


@pytest.mark.parametrize("exchange", ["gather", "least", "collect"])
def test_memory_runs_out_before_the_others_wait_or_not_at_all(exchange: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    tensor = torch.ones(4, 3)
    with pytest.raises(_Agreed):
        getattr(_Willing(0, 2), exchange)(tensor)
    monkeypatch.setattr(torch, "empty_like", refuse)
    monkeypatch.setattr(Tensor, "clone", refuse)
    monkeypatch.setattr(Tensor, "new_empty", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        getattr(_Willing(0, 2), exchange)(tensor)


@pytest.mark.parametrize("parallel", PARALLEL)
def test_training_that_diverges_says_so_in_every_process(parallel: Parallel, team: Team, activations: Artifact) -> None:
    args = activations.store.url, activations.uri, settings("topk"), parallel
    answers = team.run(together.publish_diverging, *args)
    assert [type(answer) for answer in answers] == [ConfigError, ConfigError]
    assert "diverged" in str(answers[0])


def test_an_error_in_one_process_ends_the_other(team: Team, activations: Artifact) -> None:
    _, second = team.run(together.publish, activations.store.url, activations.uri, settings("topk"), cut_at=3)
    assert isinstance(second, WorkerFailed)
    assert "its own message says why" in str(second)


def test_a_killed_process_ends_the_other_and_the_run_goes_on(activations: Artifact) -> None:
    args = activations.store.url, activations.uri, settings("topk")
    with Team(2) as two:
        first, second = two.run(together.publish, *args, cut_at=6, kill=True)
    assert first is None
    assert isinstance(second, WorkerFailed)
    assert "has ended; run the same command again" in str(second)
    assert together.publish(*args).steps[0] == 5


@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_bfloat16_encoder_keeps_k_latents_whatever_is_shared(
    parallel: Parallel, team: Team, activations: Artifact
) -> None:
    config = settings("topk", encoder_dtype="bfloat16")
    first, _ = team.run(together.publish, activations.store.url, activations.uri, config, parallel)
    assert {point["l0"] <= 3 for point in json.loads(first.history)} == {True}
    assert json.loads(first.history)[0]["l0"] > 2.5


def test_of_equal_values_the_first_are_kept_and_exactly_k(team: Team) -> None:
    one, other = torch.tensor([[3.0, 1.0, 1.0], [5.0, 5.0, 5.0]]), torch.tensor([[1.0, 2.0, 0.0], [5.0, 6.0, 7.0]])
    kept = team.run(together.among_largest, [one, other], 3)
    assert kept[0].tolist() == [[True, True, False], [True, False, False]]
    assert kept[1].tolist() == [[False, True, False], [False, True, True]]


def test_fewer_candidates_than_k_are_all_kept(team: Team) -> None:
    kept = team.run(together.among_largest, [torch.empty(1, 0), torch.tensor([[1.0, -1.0]])], 3)
    assert [each.tolist() for each in kept] == [[[]], [[True, True]]]


def test_what_the_first_says_reaches_all_and_numbers_add_up(team: Team) -> None:
    assert team.run(together.exchange, ["zürich", "other"]) == [({"text": "zürich"}, 3)] * 2


def test_rows_are_shared_without_gap_and_weigh_what_they_are() -> None:
    for num_rows, size in ((32, 2), (7, 3), (2, 3)):
        shares = [Workers(rank, size).share(num_rows) for rank in range(size)]
        rows = [row for own, _ in shares for row in range(num_rows)[own]]
        assert rows == (list(range(num_rows)) if num_rows >= size else [*range(num_rows)] * size)
        assert sum(weight for _, weight in shares) == pytest.approx(1)
    assert ALONE.share(5) == (slice(0, 5), 1.0)


class _Foreign(TopKTraining):
    """Another package's, whose losses know nothing of other processes."""

    shares_latents = False


@pytest.mark.parametrize(
    ("kind", "size", "reason"),
    [(_Foreign, 2, "of topk cannot be shared: use parallel data"), (TopKTraining, 3, "width 64 .* by 3 processes")],
)
def test_latents_that_cannot_be_shared_are_refused(kind: type[TopKTraining], size: int, reason: str) -> None:
    training = kind(new_autoencoder(TopKConfig(width=64, k=4), 8))
    with pytest.raises(ConfigError, match=reason):
        training.join(Workers(0, size), "latents")


@pytest.mark.proof
def test_the_command_runs_under_torchrun(activations: Artifact) -> None:
    command = [*("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mistudio", "train")]
    options = {"activations": activations.uri, "width": 64, "k": 3, "tokens": 320, "batch-size": 32, "device": "cpu"}
    options |= {"parallel": "latents", "store": activations.store.url}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    environment = {**os.environ, "MISTUDIO_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, *words, "--json"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] == 321  # one table, not one a process
