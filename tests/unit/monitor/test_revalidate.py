"""A new version of the watched model: what is kept, realigned and refused, on versions of which that is known."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import transformers as tf

from mistudio.artifacts import Artifact
from mistudio.errors import GateFailed, InputError, SubjectError
from mistudio.instrument.served import open_served
from mistudio.monitor.records import Exchange, Origin, Sample
from mistudio.monitor.revalidate.config import ReferenceConfig, RevalidateConfig
from mistudio.monitor.revalidate.realign import realign
from mistudio.monitor.revalidate.realignment import Realignment, check_none_refused, open_realignment
from mistudio.monitor.revalidate.reference import corpus_of, open_reference, reference
from mistudio.monitor.revalidate.revalidate import likeness, revalidate
from mistudio.monitor.revalidate.vectors import column_vectors
from mistudio.monitor.watch.realigned import accepted_versions
from mistudio.monitor.watch.watch_list import Watched, WatchList
from mistudio.monitor.watch.watching import Watcher
from mistudio.subject import SubjectConfig, SubjectSource, resolve_source
from tests.support.served import TinyStore, tiny_store
from tests.support.tiny import tiny_llama

CPU = SubjectConfig(device="cpu")
CONFIG = RevalidateConfig(fewest_above=3, quantile=0.9)
WATCH_LIST = WatchList(
    watched=tuple(
        Watched(name=f"f{number}", feature=number, **({"pool": "top", "top": 3} if number % 2 else {}))
        for number in range(12)
    )
)


class Made(NamedTuple):
    """A reference, and where its model lies."""

    store: TinyStore
    artifact: Artifact


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Values of twelve features, pooled in both ways, in texts of the training split: those are the most."""
    found = tiny_store(tmp_path_factory)
    with found.open() as served:
        config = ReferenceConfig(split="train", max_texts=150, max_tokens=4000)
        artifact = reference(served, corpus_of(found.store, served, None), WATCH_LIST, config).artifact
    return Made(found, artifact)


def _changed(made: Made, folder: Path, change: Callable[[tf.LlamaForCausalLM], None]) -> SubjectSource:
    """A copy of the model with other weights."""
    shutil.copytree(made.store.source.path, folder)
    model = tf.LlamaForCausalLM.from_pretrained(folder)
    change(model)
    model.save_pretrained(folder)
    return resolve_source(str(folder))


def _judged(made: Made, source: SubjectSource) -> Realignment:
    return open_realignment(revalidate(made.artifact, source, CONFIG, CPU).artifact)


@torch.no_grad()
def _rotate(model: tf.LlamaForCausalLM) -> None:
    """Another basis of the residual stream, folded into the weights: the model computes the same."""
    width = model.config.hidden_size
    basis, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(5)))
    inner = model.model
    for layer in inner.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            for reader in readers:
                reader.weight.copy_(reader.weight * norm.weight @ basis)
            norm.weight.fill_(1.0)
        for writer in (attention.o_proj, mlp.down_proj):
            writer.weight.copy_(basis.T @ writer.weight)
    inner.embed_tokens.weight.copy_(inner.embed_tokens.weight @ basis)
    model.lm_head.weight.copy_(model.lm_head.weight * inner.norm.weight @ basis)
    inner.norm.weight.fill_(1.0)


def _finetune(model: tf.LlamaForCausalLM) -> None:
    """A few small steps on one sequence."""
    ids_BT = torch.randint(2, 300, (4, 20), generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(3):
        optimiser.zero_grad()
        model(input_ids=ids_BT, labels=ids_BT).loss.backward()
        optimiser.step()


def test_the_same_model_keeps_every_column(made: Made) -> None:
    found = _judged(made, made.store.source)
    judged = [one for one in found.found.verdicts if one.as_is.correlation is not None]
    assert len(judged) >= 10
    assert {one.outcome for one in judged} == {"kept"}
    assert min(one.as_is.correlation or 0 for one in judged) > 0.9999


def test_a_little_fine_tuning_keeps_columns_without_a_map(made: Made, tmp_path: Path) -> None:
    found = _judged(made, _changed(made, tmp_path / "tuned", _finetune))
    assert len(found.named("kept")) >= 9
    check = [one.as_is.correlation or 0 for one in found.found.verdicts if one.outcome == "kept"]
    assert max(check) < 1 - 1e-9  # it was another model


def test_a_model_in_another_basis_is_realigned_by_a_rotation(made: Made, tmp_path: Path) -> None:
    source = _changed(made, tmp_path / "rotated", _rotate)
    _check_same_function(made.store.source, source)
    found = _judged(made, source)
    (each,) = found.maps.values()
    assert each.kind == "rotation"
    assert each.unexplained < 1e-6 < each.unexplained_as_is
    assert len(found.named("realigned")) >= 10
    moved = [one for one in found.found.verdicts if one.outcome == "realigned"]
    assert min(one.realigned.correlation or 0 for one in moved) > 0.9999
    assert np.median([abs(one.as_is.correlation or 0) for one in moved]) < 0.9


def test_a_threshold_that_all_texts_exceed_tells_nothing_and_a_quantile_is_taken(made: Made, tmp_path: Path) -> None:
    watched = tuple(one.model_copy(update={"threshold": -1.0}) for one in WATCH_LIST.watched)
    config = ReferenceConfig(split="train", max_texts=150, max_tokens=4000)
    with made.store.open() as served:
        listed = WatchList(watched=watched)
        artifact = reference(served, corpus_of(served.store, served, None), listed, config).artifact
    found = open_realignment(revalidate(artifact, made.store.source, CONFIG, CPU).artifact)
    assert not any(one.is_own_threshold for one in found.found.verdicts)
    assert len(found.named("kept")) >= 10


def test_a_model_of_other_weights_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    found = _judged(made, tiny_llama(tmp_path / "other", seed=7))
    refused = found.named("refused")
    assert len(refused) >= 11
    with pytest.raises(GateFailed, match=f"columns do not see .* {refused[0]}: "):
        check_none_refused(found)


def test_a_model_of_another_width_is_refused_before_it_is_read(made: Made, tmp_path: Path) -> None:
    config = tf.LlamaConfig.from_pretrained(made.store.source.path)
    config.hidden_size, config.head_dim = 48, 12
    shutil.copytree(made.store.source.path, tmp_path / "wide")
    tf.LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(SubjectError, match="not of this model"):
        revalidate(made.artifact, resolve_source(str(tmp_path / "wide")), CONFIG, CPU)


def test_vectors_of_realigned_columns_read_of_new_activations_what_old_ones_read_of_old(made: Made) -> None:
    draw = np.random.default_rng(2)
    old = open_reference(made.artifact)
    (hook,) = old.record.hooks
    old_ND = old.acts[hook]
    basis, _ = np.linalg.qr(draw.normal(size=(old_ND.shape[1],) * 2))
    new_ND = (old_ND @ basis + 3.0).astype(np.float32)
    each = realign(new_ND, old_ND, np.arange(len(new_ND)) % 5 != 0, (1e-4,))
    with made.store.open() as served:
        from mistudio.monitor.watch.columns import Columns

        columns = Columns(served, WATCH_LIST).columns
        vectors = column_vectors(served, columns, {hook: each})
        sae = served.session.placed(0).sae
        expected_N = old_ND @ sae.W_enc[4].detach().numpy() + float(sae.b_enc[4])
    found_N = new_ND @ vectors["f4.vector"] + vectors["f4.offset"]
    assert np.allclose(found_N, expected_N, atol=1e-3)


def test_a_map_that_is_no_rotation_is_found_by_ridge_regression() -> None:
    draw = np.random.default_rng(3)
    old_ND = draw.normal(size=(2000, 8)).astype(np.float32)
    new_ND = (old_ND @ (np.eye(8) + draw.normal(size=(8, 8)))).astype(np.float32)
    each = realign(new_ND, old_ND, np.arange(2000) % 2 == 0, (1e-6, 1e-2))
    assert each.kind == "ridge"
    assert each.unexplained < 1e-3


def test_agreement_is_none_by_chance_however_rare_what_is_above_the_threshold() -> None:
    draw = np.random.default_rng(4)
    before_S, after_S = draw.random(5000).astype(np.float32), draw.random(5000).astype(np.float32)
    found = likeness(before_S, after_S, 0.98)
    assert found.same > 0.95
    assert found.agreement is not None
    assert abs(found.agreement) < 0.1
    over = likeness(before_S, after_S, -1.0)
    assert (over.same, over.agreement) == (1.0, None)
    silent = likeness(np.zeros(10, dtype=np.float32), np.zeros(10, dtype=np.float32), 0.0)
    assert (silent.correlation, silent.agreement) == (None, None)


def _check_same_function(one: SubjectSource, other: SubjectSource) -> None:
    ids_BT = torch.arange(2, 22)[None]
    with torch.no_grad():
        logits = [tf.LlamaForCausalLM.from_pretrained(each.path)(ids_BT).logits for each in (one, other)]
    assert torch.allclose(*logits, atol=1e-4)


def test_a_realigned_watch_list_reads_in_a_new_version_what_the_old_one_read_in_the_old(
    made: Made, tmp_path: Path
) -> None:
    source = _changed(made, tmp_path / "rotated", _rotate)
    artifact = revalidate(made.artifact, source, CONFIG, CPU).artifact
    moved = open_realignment(artifact).named("realigned")
    watched = tuple(one for one in WATCH_LIST.watched if one.name in moved)
    listed = WatchList(watched=watched, encode_in_full=(made.store.sae.uri,))
    exchanges = [Exchange("one", 0.0, Origin(), (Sample("the cat sat on the mat with the dog"), Sample("a dog")))]
    with made.store.open() as served:
        before = Watcher(served, listed).observe(exchanges)
    realigned = listed.model_copy(update={"realignment": artifact.uri})
    versions = accepted_versions(made.store.store, realigned)
    with open_served(made.store.store, (), source, CPU, versions) as served:
        watcher = Watcher(served, realigned)
        assert all(column.is_realigned for column in watcher.columns)
        after, as_is = watcher.observe(exchanges), Watcher(served, listed).observe(exchanges)
    assert max(one.max_W.max() for one in before) > 0.1
    for old, new, bare in zip(before, after, as_is, strict=True):
        np.testing.assert_allclose(new.max_W, old.max_W, atol=2e-3)
        np.testing.assert_allclose(new.top_W, old.top_W, atol=2e-3)
        assert not np.allclose(bare.max_W, old.max_W, atol=2e-3)
        fired, again = (set(one.fired[made.store.sae.uri].feature_A.tolist()) for one in (old, new))
        assert len(fired & again) > 0.95 * len(fired | again)


def test_a_realignment_is_for_one_version_and_for_the_columns_that_were_judged(made: Made, tmp_path: Path) -> None:
    artifact = revalidate(made.artifact, tiny_llama(tmp_path / "other", seed=7), CONFIG, CPU).artifact
    refused = WATCH_LIST.model_copy(update={"realignment": artifact.uri})
    with (
        made.store.open() as served,
        pytest.raises(InputError, match="is for .*, not for .*revalidate on this version"),
    ):
        Watcher(served, refused)
    versions = accepted_versions(made.store.store, refused)
    other = resolve_source(str(tmp_path / "other"))
    with open_served(made.store.store, (), other, CPU, versions) as served:
        with pytest.raises(InputError, match="refused it in this version"):
            Watcher(served, refused)
        with pytest.raises(InputError, match="says nothing of it"):
            Watcher(served, WatchList(watched=(Watched(name="new", feature=40),), realignment=artifact.uri))
        with pytest.raises(InputError, match="make the reference on the old version"):
            reference(served, corpus_of(served.store, served, None), refused, ReferenceConfig())
    with pytest.raises(InputError, match="has other content"):
        open_served(made.store.store, (), other, CPU)
