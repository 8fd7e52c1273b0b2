"""The capture step on tiny models, against the hidden states that transformers itself returns.

Shape legend: B sequences, T tokens, N rows, D width.
"""

import errno
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
import transformers as tf
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mistudio.activations import ActivationReader, CaptureConfig, open_rows
from mistudio.activations.index import sequences_of
from mistudio.activations.plan import plan_capture
from mistudio.activations.shards import ShardWriter
from mistudio.artifacts import Artifact, Produced, Store, artifact_uris, open_store
from mistudio.corpus.ingest import is_held_out
from mistudio.corpus.reader import SPLITS, TokenCorpus
from mistudio.errors import ConfigError, InputError, StorageFull, SubjectError
from mistudio.subject import SubjectConfig, SubjectSource, resolve_source
from mistudio.subject import batches as batches_module
from tests.support.threads import threads_since
from tests.support.tiny import (
    CONTEXT_LENGTH,
    LAYERS,
    MLP_WIDTH,
    WIDTH,
    tiny_bert,
    tiny_bert_tokenizer,
    tiny_corpus,
    tiny_documents,
    tiny_llama,
    tiny_tokenizer,
)

capture_module = import_module("mistudio.activations.capture")  # the package has a function of that name
capturing_module = import_module("mistudio.activations.capturing")
CPU = SubjectConfig(device="cpu")
HOOKS = ("resid_pre.0", "resid_post.0", "resid_pre.2")  # hidden states 0, 1 and 2 of transformers
SMALL_SHARDS = CaptureConfig(hooks=("resid_post.1", "mlp_act.0"), shard_bytes=1 << 16, batch_size=4)


class Subject(NamedTuple):
    """A tiny model in a folder, a corpus tokenised for it, and what is put around its sequences."""

    source: SubjectSource
    corpus: Artifact
    model: Any
    tokenizer: Any
    prefix: list[int]
    suffix: list[int]


class Row(NamedTuple):
    """Where one activation belongs."""

    document: int
    position: int
    token_id: int


class Interrupted(Exception):
    """Stands for whatever ends a run."""


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("shared") / "store"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, shared_store: Store) -> Subject:
    folder = tmp_path_factory.mktemp("llama")
    source = tiny_llama(folder / "model")
    corpus = tiny_corpus(shared_store, source, folder)
    return Subject(source, corpus, tf.LlamaForCausalLM.from_pretrained(source.path), tiny_tokenizer(), [0], [])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, shared_store: Store) -> Subject:
    folder = tmp_path_factory.mktemp("bert")
    source = tiny_bert(folder / "model")
    corpus = tiny_corpus(shared_store, source, folder)
    return Subject(source, corpus, tf.BertForMaskedLM.from_pretrained(source.path), tiny_bert_tokenizer(), [2], [3])


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Subject:
    return request.getfixturevalue(request.param)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> "Forwards":
    return Forwards(monkeypatch)


class Forwards:
    """Counts forward passes, and can interrupt before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.stop_at: int | None = None
        self.shapes: list[tuple[int, ...]] = []
        self._run = batches_module.run_captured
        monkeypatch.setattr(batches_module, "run_captured", self)

    def __call__(self, subject: Any, hooks: Any, ids_BT: Tensor, mask_BT: Tensor | None) -> Any:
        if self.count == self.stop_at:
            raise Interrupted
        self.count += 1
        self.shapes.append(tuple(ids_BT.shape))
        return self._run(subject, hooks, ids_BT, mask_BT)


def captured(store: Store, subject: Subject, config: CaptureConfig, seed: int = 0) -> Produced:
    return capture_module.capture(store, subject.corpus, subject.source, CPU, config, seed)


def rows_of(artifact: Artifact, hook: str, split: str) -> tuple[list[Row], Tensor]:
    reader = ActivationReader(artifact, hook, split)
    meta = reader.meta(0, len(reader))
    rows = zip(meta["document"].tolist(), meta["position"].tolist(), meta["token_id"].tolist(), strict=True)
    return [Row(*row) for row in rows], reader.acts(0, len(reader)).float()


@torch.no_grad()
def hidden_states(subject: Subject, split: str) -> dict[Row, Tensor]:
    """All hidden states [L, D] of each token, from the text alone: one sequence a forward pass, nothing padded."""
    found: dict[Row, Tensor] = {}
    room = CONTEXT_LENGTH - len(subject.prefix) - len(subject.suffix)
    for number, document in enumerate(tiny_documents()):
        if is_held_out(document["text"], 0.25, 0) != (split == "heldout"):
            continue
        ids = subject.tokenizer(document["text"], add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), room):
            sequence = [*subject.prefix, *ids[start : start + room], *subject.suffix]
            states = subject.model(input_ids=torch.tensor([sequence]), output_hidden_states=True).hidden_states
            states_TLD = torch.stack(states, dim=2)[0]
            for place, token_id in enumerate(sequence):
                found[Row(number, start + place - len(subject.prefix), token_id)] = states_TLD[place]
    return found


@pytest.fixture(scope="module")
def truth_of() -> Callable[[Subject, str], dict[Row, Tensor]]:
    computed: dict[tuple[str, str], dict[Row, Tensor]] = {}

    def truth_of(subject: Subject, split: str) -> dict[Row, Tensor]:
        key = (subject.source.digest, split)
        if key not in computed:
            computed[key] = hidden_states(subject, split)
        return computed[key]

    return truth_of


def assert_rows_are(rows: list[Row], acts_ND: Tensor, truth: dict[Row, Tensor], layer: int) -> None:
    """Each row of ``truth`` is there once, with its hidden state at ``layer``."""
    assert Counter(rows) == Counter(truth.keys())
    torch.testing.assert_close(acts_ND, torch.stack([truth[row][layer] for row in rows]), rtol=1e-3, atol=1e-3)
    assert float(acts_ND.std()) > 0.05


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("subject", ["llama", "bert"], indirect=True)
def test_rows_are_the_hidden_states_of_transformers_at_the_token_that_they_name(
    subject: Subject, split: str, shared_store: Store, truth_of: Callable[..., dict[Row, Tensor]]
) -> None:
    artifact = captured(shared_store, subject, CaptureConfig(hooks=HOOKS)).artifact
    special = {*subject.prefix, *subject.suffix}
    truth = {row: states for row, states in truth_of(subject, split).items() if row.token_id not in special}
    for layer, hook in enumerate(HOOKS):
        assert_rows_are(*rows_of(artifact, hook, split), truth, layer)


@pytest.mark.parametrize("subject", ["llama", "bert"], indirect=True)
def test_special_tokens_are_captured_on_request_only(
    subject: Subject, shared_store: Store, truth_of: Callable[..., dict[Row, Tensor]]
) -> None:
    special = {*subject.prefix, *subject.suffix}
    plain = captured(shared_store, subject, CaptureConfig(hooks=HOOKS)).artifact
    assert not special & {row.token_id for row in rows_of(plain, HOOKS[0], "train")[0]}
    whole = captured(shared_store, subject, CaptureConfig(hooks=HOOKS, include_special=True)).artifact
    rows, acts_ND = rows_of(whole, HOOKS[1], "train")
    assert special <= {row.token_id for row in rows}
    assert_rows_are(rows, acts_ND, truth_of(subject, "train"), layer=1)


def test_several_hook_points_cost_one_pass_and_give_what_each_alone_gives(
    llama: Subject, store: Store, forwards: Forwards
) -> None:
    both = captured(store, llama, CaptureConfig(hooks=("resid_post.1", "mlp_act.0"))).artifact
    passes = forwards.count
    for hook, width in (("resid_post.1", WIDTH), ("mlp_act.0", MLP_WIDTH)):
        alone = captured(store, llama, CaptureConfig(hooks=(hook,))).artifact
        assert alone.paths() == both.paths(hook)
        for path in alone.paths():
            assert alone.file(path).read_bytes() == both.file(path).read_bytes()
        assert ActivationReader(both, hook, "train").width == width
    assert forwards.count == 3 * passes


def test_sequences_of_a_batch_are_of_like_length_and_bounded(llama: Subject, store: Store, forwards: Forwards) -> None:
    artifact = captured(store, llama, CaptureConfig(hooks=HOOKS, batch_size=4)).artifact
    assert max(rows * tokens for rows, tokens in forwards.shapes) <= 4 * CONTEXT_LENGTH
    total = sum(rows * tokens for rows, tokens in forwards.shapes)
    real = sum(len(rows_of(artifact, HOOKS[0], split)[0]) for split in ("train", "heldout"))
    real += int(llama.corpus.manifest.summary["sequences"])  # type: ignore[arg-type]  # one BOS each
    assert real / total > 0.95


def test_nothing_behind_the_deepest_hook_point_is_computed(
    llama: Subject, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = capturing_module.load_subject
    ran: list[int] = []

    def watched(source: SubjectSource, config: SubjectConfig) -> Any:
        subject = load(source, config)
        for number, block in enumerate(subject.blocks):
            block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
        return subject

    monkeypatch.setattr(capturing_module, "load_subject", watched)
    captured(store, llama, CaptureConfig(hooks=("mlp_act.0", "attn_out.1")))
    assert set(ran) == {0, 1}


def test_a_sequence_stays_together_in_its_shard(llama: Subject, store: Store) -> None:
    artifact = captured(store, llama, SMALL_SHARDS).artifact
    reader = ActivationReader(artifact, "resid_post.1", "train")
    assert len(reader.shards) > 4
    start = 0
    seen: set[int] = set()
    for shard in reader.shards:
        sequences = reader.meta(start, start + shard.num_rows)["sequence"]
        runs = sequences[np.flatnonzero(np.diff(sequences, prepend=-1))].tolist()
        assert len(runs) == len(set(runs))
        assert not seen & set(runs)
        assert shard.num_rows * 2 * MLP_WIDTH <= 1 << 16
        seen |= set(runs)
        start += shard.num_rows


def test_the_index_of_a_capture_is_what_its_shards_hold(llama: Subject, store: Store) -> None:
    artifact = captured(store, llama, SMALL_SHARDS).artifact
    for hook in SMALL_SHARDS.hooks:
        for split in SPLITS:
            reader = ActivationReader(artifact, hook, split)
            for number, shard in enumerate(reader.shards):
                found = sequences_of(shard.file.meta("sequence", 0, shard.num_rows))
                assert all(map(np.array_equal, found, reader.index.shards[number]))
            assert sum(shard.num_rows for shard in reader.shards) == artifact.manifest.summary[f"{split}_tokens"]


def passes_by_shard(subject: Subject) -> list[int]:
    """Forward passes of each shard that ``SMALL_SHARDS`` asks for."""
    corpus = TokenCorpus(subject.corpus)
    rows, tokens = (1 << 16) // (2 * MLP_WIDTH), 4 * CONTEXT_LENGTH
    plans = [plan_capture(corpus.lengths(split), corpus.num_prefix, rows, tokens) for split in SPLITS]
    return [len(list(plan.batches(shard))) for plan in plans for shard in plan.shards]


@pytest.mark.parametrize("num_finished", [0, 1, 4])
def test_an_interrupted_run_goes_on_at_the_shard_and_ends_with_the_same_digest(
    llama: Subject, store: Store, shared_store: Store, forwards: Forwards, num_finished: int
) -> None:
    passes = passes_by_shard(llama)
    whole = captured(shared_store, llama, SMALL_SHARDS).artifact
    forwards.count, forwards.stop_at = 0, sum(passes[:num_finished]) + 2
    with pytest.raises(Interrupted):
        captured(store, llama, SMALL_SHARDS)
    assert list(artifact_uris(store)) == []
    finished = {name: store.fetch(name).stat().st_ino for name in store.list()}
    assert len(finished) == num_finished * len(SMALL_SHARDS.hooks)
    forwards.count, forwards.stop_at = 0, None
    resumed = captured(store, llama, SMALL_SHARDS)
    assert forwards.count == sum(passes[num_finished:])
    assert (resumed.found, resumed.artifact.digest) == (False, whole.digest)
    assert {name: store.fetch(name).stat().st_ino for name in finished} == finished
    assert list(resumed.artifact.problems()) == []


def test_a_disk_that_fills_up_ends_the_run_and_leaves_no_part_of_a_shard(
    llama: Subject, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    class Full(ShardWriter):
        def append_narrow(self, narrow_ND: Tensor, meta_N: dict[str, Any]) -> None:
            written.append(len(narrow_ND))
            if len(written) == 4:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().append_narrow(narrow_ND, meta_N)

    monkeypatch.setattr(capturing_module, "ShardWriter", Full)
    added = threads_since()
    with pytest.raises(StorageFull):
        captured(store, llama, SMALL_SHARDS)
    assert list(store.list()) == []
    assert added() == 0


def test_a_shard_that_lacks_one_hook_point_is_captured_again_and_no_other(
    llama: Subject, store: Store, forwards: Forwards
) -> None:
    whole = captured(store, llama, SMALL_SHARDS).artifact
    store.remove(f"{whole.uri}/manifest.json")  # as if it was killed between the two files of the shard
    store.remove(f"{whole.uri}/mlp_act.0/train/shard-00001.arrow")
    forwards.count = 0
    assert captured(store, llama, SMALL_SHARDS).artifact.digest == whole.digest
    assert forwards.count == passes_by_shard(llama)[1]


def test_what_was_captured_before_is_found_without_loading_the_model(
    llama: Subject, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = captured(store, llama, CaptureConfig(hooks=HOOKS))
    monkeypatch.delattr(capturing_module, "load_subject")
    again = captured(store, llama, CaptureConfig(hooks=HOOKS))
    assert (first.found, again.found) == (False, True)
    assert again.artifact.digest == first.artifact.digest


def test_a_summary_tells_what_there_is(llama: Subject, shared_store: Store) -> None:
    summary = captured(
        shared_store, llama, CaptureConfig(hooks=("resid_post.1", "mlp_act.0"))
    ).artifact.manifest.summary
    tokens = int(llama.corpus.manifest.summary["tokens"])  # type: ignore[arg-type]
    assert summary["hooks"] == "resid_post.1, mlp_act.0"
    assert (summary["width.resid_post.1"], summary["width.mlp_act.0"]) == (WIDTH, MLP_WIDTH)
    assert int(summary["train_tokens"]) + int(summary["heldout_tokens"]) == tokens  # type: ignore[arg-type]
    assert summary["shards"] == 4


def test_max_tokens_bounds_the_training_split_alone(llama: Subject, shared_store: Store) -> None:
    summary = captured(shared_store, llama, CaptureConfig(hooks=HOOKS, max_tokens=500)).artifact.manifest.summary
    full = captured(shared_store, llama, CaptureConfig(hooks=HOOKS)).artifact.manifest.summary
    assert 500 <= int(summary["train_tokens"]) < 500 + CONTEXT_LENGTH  # type: ignore[arg-type]
    assert summary["heldout_tokens"] == full["heldout_tokens"]


def test_bfloat16_is_stored_on_request(llama: Subject, shared_store: Store) -> None:
    half = captured(shared_store, llama, CaptureConfig(hooks=HOOKS)).artifact
    brain = captured(shared_store, llama, CaptureConfig(hooks=HOOKS, storage_dtype="bfloat16")).artifact
    reader = ActivationReader(brain, HOOKS[1], "train")
    assert (reader.dtype, reader.acts(0, 1).dtype) == ("bfloat16", torch.bfloat16)
    rows, acts_ND = rows_of(brain, HOOKS[1], "train")
    half_rows, half_ND = rows_of(half, HOOKS[1], "train")
    assert rows == half_rows
    torch.testing.assert_close(acts_ND, half_ND, rtol=1e-2, atol=1e-2)


def test_another_setting_is_another_artifact(llama: Subject, shared_store: Store) -> None:
    configs = [
        CaptureConfig(hooks=HOOKS),
        CaptureConfig(hooks=HOOKS[:2]),
        CaptureConfig(hooks=HOOKS, batch_size=4),
        CaptureConfig(hooks=HOOKS, include_special=True),
        CaptureConfig(hooks=HOOKS, max_tokens=500),
        CaptureConfig(hooks=HOOKS, storage_dtype="bfloat16"),
    ]
    uris = [captured(shared_store, llama, config).artifact.uri for config in configs]
    assert len(set(uris)) == len(uris)
    padded = CaptureConfig(hooks=("resid_pre.00", "resid_post.00", "resid_pre.02"))
    assert captured(shared_store, llama, padded).found


def test_a_corpus_of_another_tokenizer_is_refused(llama: Subject, bert: Subject, store: Store) -> None:
    digests = bert.source.tokenizer_digest[:12], llama.source.tokenizer_digest[:12]
    what = r"tokenizer of folder:model \({}\), and folder:model has another \({}\)\. Run ingest".format(*digests)
    with pytest.raises(InputError, match=what):
        capture_module.capture(store, bert.corpus, llama.source, CPU, CaptureConfig(hooks=HOOKS))
    assert list(store.list()) == []


@pytest.mark.parametrize("layer", [LAYERS, 99])
def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(llama: Subject, store: Store, layer: int) -> None:
    with pytest.raises(SubjectError, match=f"no layer {layer} in LlamaForCausalLM: it has 3 layers, 0 to 2"):
        captured(store, llama, CaptureConfig(hooks=("resid_post.0", f"resid_post.{layer}")))
    assert list(store.list()) == []


@pytest.mark.parametrize("hook", ["resid_posst.1", "resid_post", "resid_post.-1", "1", "", "resid_post.1 "])
def test_an_unknown_hook_is_refused_with_those_that_are_known(hook: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a hook point.*resid_pre, resid_mid, resid_post, attn_out"):
        CaptureConfig(hooks=(hook,))


@pytest.mark.parametrize("hooks", [("resid_post.1", "resid_post.1"), ("resid_post.1", "resid_post.01")])
def test_a_hook_point_named_twice_is_refused(hooks: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="names a hook point twice"):
        CaptureConfig(hooks=hooks)


def test_sequences_longer_than_the_model_takes_are_refused(llama: Subject, store: Store, tmp_path: Path) -> None:
    corpus = tiny_corpus(store, llama.source, tmp_path, context_length=160)
    before = list(store.list())
    with pytest.raises(
        SubjectError, match=r"has sequences of 160 tokens.*takes at most 128.*context_length of at most"
    ):
        capture_module.capture(store, corpus, llama.source, CPU, CaptureConfig(hooks=HOOKS))
    assert list(store.list()) == before


@pytest.fixture
def loud_llama(llama: Subject, tmp_path: Path) -> Callable[[float], Subject]:
    """The same model with its embeddings scaled."""

    def build(scale: float) -> Subject:
        source = tiny_llama(tmp_path / "model")
        path = Path(source.path) / "model.safetensors"
        weights = load_file(path)
        weights["model.embed_tokens.weight"] *= scale
        save_file(weights, path, metadata={"format": "pt"})
        return llama._replace(source=resolve_source(source.path))

    return build


@pytest.mark.parametrize("stored", ["all", "heldout"])
def test_activations_that_do_not_fit_float16_are_stored_as_bfloat16(
    loud_llama: Callable[[float], Subject], store: Store, stored: Literal["all", "heldout"], tmp_path: Path
) -> None:
    subject, hook = loud_llama(1e7), "resid_pre.0"
    subject = subject._replace(corpus=tiny_corpus(store, subject.source, tmp_path))
    artifact = captured(store, subject, CaptureConfig(hooks=(hook,), stored=stored)).artifact
    wide = captured(store, subject, CaptureConfig(hooks=(hook,), stored=stored, storage_dtype="bfloat16")).artifact
    assert artifact.manifest.summary["stored_as"] == "bfloat16"
    assert artifact.manifest.files == wide.manifest.files
    with open_rows(store, artifact, hook, source=subject.source, subject_config=CPU) as rows:
        assert rows.dtype == "bfloat16"
        assert float(rows.acts(0, 100).abs().max()) > 1e5  # type: ignore[union-attr]


def test_a_killed_run_goes_on_in_the_format_that_fits(loud_llama: Callable[[float], Subject], store: Store) -> None:
    subject, config = loud_llama(1e7), CaptureConfig(hooks=("resid_pre.0",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capturing_module.CaptureRun, "_write_indexes", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            captured(store, subject, config)
    artifact = captured(store, subject, config).artifact
    assert ActivationReader(artifact, "resid_pre.0", "train").dtype == "bfloat16"


def test_activations_that_are_no_numbers_are_refused(loud_llama: Callable[[float], Subject], store: Store) -> None:
    with pytest.raises(InputError, match="hold NaN or infinity at this hook point"):
        captured(store, loud_llama(float("nan")), CaptureConfig(hooks=("resid_pre.0",), storage_dtype="bfloat16"))
