"""Several autoencoders over one stream end as if each were trained alone, however the run was cut."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mistudio.artifacts import Artifact, Produced, open_artifact, open_store
from mistudio.errors import ConfigError
from mistudio.sae import BatchTopKConfig, StandardConfig, TopKConfig
from mistudio.train import Metrics, TrainConfig, TrainRuntime, train, train_together
from tests.support.synthetic import HOOK, plant, publish_activations

ROWS, BATCH = 640, 64
BASE = {"hook": HOOK, "batch_size": BATCH, "buffer_rows": 128, "patience": 0, "dead_after_tokens": 128}
CONFIGS = [
    TrainConfig(sae=TopKConfig(width=64, k=4), tokens=2 * ROWS, **BASE),
    TrainConfig(sae=StandardConfig(width=96), tokens=ROWS, **BASE),  # done at half of the way
    TrainConfig(sae=BatchTopKConfig(width=64, k=6), tokens=2 * ROWS, normalisation="none", **BASE),
]
RUNTIME = TrainRuntime(checkpoint_every_steps=4)
STEPS = [20, 10, 20]


DOCS = Path(__file__).parents[3] / "docs" / "concepts" / "architectures.md"


class Cut(Exception):
    """The end of a run that is cut."""


@pytest.fixture
def published(tmp_path: Path) -> Callable[[str], Artifact]:
    return lambda name: publish_activations(open_store(str(tmp_path / name)), plant(ROWS).acts_ND)


def logs(steps: list[tuple[int, int]], cut_at: int | None = None) -> list[Callable[[Metrics, int], None]]:
    """One log for each of :data:`CONFIGS`: notes who learned at which step, and cuts the run at one."""

    def log(number: int) -> Callable[[Metrics, int], None]:
        def note(_metrics: Metrics, step: int) -> None:
            if step == cut_at:
                raise Cut
            steps.append((number, step))

        return note

    return [log(number) for number in range(len(CONFIGS))]


def digests(produced: Sequence[Produced]) -> list[str]:
    return [each.artifact.digest for each in produced]


def test_each_ends_with_the_bytes_of_a_training_alone(published: Callable[[str], Artifact]) -> None:
    apart, together = published("apart"), published("together")
    alone = [train(apart.store, apart, config, seed=3) for config in CONFIGS]
    assert digests(train_together(together.store, together, CONFIGS, seed=3)) == digests(alone)


def test_every_batch_is_read_once_for_all(
    published: Callable[[str], Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.activations import ShuffledBatches

    reads = []
    next_batch = ShuffledBatches.next_batch
    monkeypatch.setattr(ShuffledBatches, "next_batch", lambda self: (reads.append(1), next_batch(self))[1])
    activations = published("store")
    train_together(activations.store, activations, CONFIGS)
    assert len(reads) == max(STEPS)


@pytest.mark.parametrize("cut_at", [2, 6, 9, 13, 19])
def test_a_cut_run_goes_on_to_the_same_bytes(cut_at: int, published: Callable[[str], Artifact]) -> None:
    whole, cut = published("whole"), published("cut")
    expected = digests(train_together(whole.store, whole, CONFIGS, 0, RUNTIME))
    with pytest.raises(Cut):
        train_together(cut.store, cut, CONFIGS, 0, RUNTIME, logs([], cut_at))
    steps: list[tuple[int, int]] = []
    assert digests(train_together(cut.store, cut, CONFIGS, 0, RUNTIME, logs(steps))) == expected
    resumed_after = cut_at - 1 - (cut_at - 1) % 4
    assert min(step for _, step in steps) == resumed_after + 1
    done_before = {1} if cut_at > STEPS[1] else set()  # what was done before the cut is not trained again
    assert {number for number, _ in steps} == {0, 1, 2} - done_before


def test_one_that_is_farther_on_waits_for_the_others(published: Callable[[str], Artifact]) -> None:
    whole, cut = published("whole"), published("cut")
    expected = digests(train_together(whole.store, whole, CONFIGS, 0, RUNTIME))
    with pytest.raises(Cut):
        train_together(cut.store, cut, CONFIGS[:1], 0, RUNTIME, logs([], cut_at=15)[:1])
    steps: list[tuple[int, int]] = []
    assert digests(train_together(cut.store, cut, CONFIGS, 0, RUNTIME, logs(steps))) == expected
    assert [step for number, step in steps if number == 0] == list(range(13, 21))
    assert [step for number, step in steps if number == 2] == list(range(1, 21))


def test_those_that_are_there_are_found_and_the_rest_is_trained(published: Callable[[str], Artifact]) -> None:
    activations = published("store")
    train(activations.store, activations, CONFIGS[1])
    assert [each.found for each in train_together(activations.store, activations, CONFIGS)] == [False, True, False]
    assert all(each.found for each in train_together(activations.store, activations, CONFIGS))


def test_streams_that_differ_are_refused(published: Callable[[str], Artifact]) -> None:
    activations = published("store")
    other = CONFIGS[0].model_copy(update={"batch_size": 32})
    with pytest.raises(ConfigError, match="need the same batch_size, not 64, 32"):
        train_together(activations.store, activations, [CONFIGS[0], other])


def test_the_same_autoencoder_twice_is_refused(published: Callable[[str], Artifact]) -> None:
    activations = published("store")
    with pytest.raises(ConfigError, match="The same sae is asked for twice"):
        train_together(activations.store, activations, [CONFIGS[0], CONFIGS[0]])


def test_the_example_in_the_docs_publishes_four(
    published: Callable[[str], Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    activations = published("docs")
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = (block for block in blocks if "train_together" in block)
    places = {"build/store": activations.store.url, "activations/...": activations.uri, "resid_post.3": HOOK}
    for place, real in {**places, "1024": "64"}.items():
        assert place in code
        code = code.replace(place, real)
    exec(code, {})  # noqa: S102 -- the code is the documentation's
    uris = capsys.readouterr().out.split()
    assert len(set(uris)) == 4
    assert all(open_artifact(activations.store, uri, "sae").uri == uri for uri in uris)
