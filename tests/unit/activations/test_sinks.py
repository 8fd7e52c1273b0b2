"""A capture whose sequences begin with an attention sink says so, with the sink's length and share of the tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from mistudio.activations import ActivationReader, CaptureConfig, capture
from mistudio.artifacts import Artifact, Store, open_store
from mistudio.subject import SubjectConfig, SubjectSource, resolve_source
from tests.support.tiny import tiny_corpus, tiny_tokenizer

HOOK = "resid_post.1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def model_with_sink(folder: Path, scale: float, *, has_bos: bool = True) -> SubjectSource:
    """A GPT-2 whose first position is as many times as long as its others; its template puts nothing before a text."""
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer().backend_tokenizer,
        eos_token="</s>",
        **({"bos_token": "<s>"} if has_bos else {}),
    )
    tokenizer.backend_tokenizer.post_processor = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        model = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, **sizes))
        with torch.no_grad():
            model.transformer.wpe.weight.normal_()
            model.transformer.wpe.weight[0] *= scale
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return resolve_source(str(folder))


def captured(store: Store, source: SubjectSource, folder: Path, *, special: bool = True, **settings: Any) -> Artifact:
    corpus = tiny_corpus(store, source, folder, add_special_tokens=special)
    return capture(
        store, corpus, source, SubjectConfig(device="cpu"), CaptureConfig(hooks=(HOOK,), **settings)
    ).artifact


@pytest.mark.parametrize(
    ("has_bos", "special", "settings", "why"),
    [
        (True, False, {}, "without the tokenizer's token for the beginning (add_special_tokens false)"),
        (False, True, {}, "The tokenizer has no token for the beginning (BOS)"),
        (True, True, {"include_special": True}, "without include_special it would not be captured"),
        (True, False, {"stored": "heldout"}, "add_special_tokens false"),
    ],
)
def test_a_sink_at_the_first_position_is_told_and_is_a_figure_of_the_summary(
    store: Store,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    has_bos: bool,
    special: bool,
    settings: dict[str, Any],
    why: str,
) -> None:
    source = model_with_sink(tmp_path / "model", 60.0, has_bos=has_bos)
    artifact = captured(store, source, tmp_path, special=special, **settings)
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    ratio = artifact.manifest.summary[f"first_token_ratio.{HOOK}"]
    assert why in told
    assert f"at {HOOK} it is {ratio:.0f} times as long" in told
    reader = ActivationReader(artifact, HOOK, "heldout")
    sequence_N = torch.from_numpy(reader.meta(0, len(reader))["sequence"])
    first_N = torch.cat([torch.tensor([True]), sequence_N[1:] != sequence_N[:-1]])
    length_N = reader.acts(0, len(reader)).float().norm(dim=1)
    assert ratio == pytest.approx(float(length_N[first_N].median() / length_N[~first_N].median()), rel=0.1)
    share = float(told.partition("here ")[2].partition("%")[0])
    assert share == pytest.approx(100 * float(first_N.float().mean()), rel=0.1)


@pytest.mark.parametrize(("scale", "special"), [(1.0, False), (60.0, True)])
def test_nothing_is_told_without_a_sink_or_where_a_special_token_takes_it(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, scale: float, special: bool
) -> None:
    artifact = captured(store, model_with_sink(tmp_path / "model", scale), tmp_path, special=special)
    assert not caplog.records
    assert f"first_token_ratio.{HOOK}" not in artifact.manifest.summary
