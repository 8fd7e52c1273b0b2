"""A tiny model that has learnt a little, its corpus, and activations captured from it: what SAEs are tried on."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer

from mistudio.activations import CaptureConfig, capture
from mistudio.artifacts import (
    Artifact,
    Draft,
    Recipe,
    Store,
    Summary,
    artifact_uris,
    open_artifact,
    open_store,
    produce,
)
from mistudio.corpus.reader import TokenCorpus
from mistudio.sae import SparseAutoencoder, StandardConfig, config_json, new_autoencoder, save_weights
from mistudio.sae.files import CONFIG_NAME, WEIGHTS_NAME
from mistudio.subject import Subject, SubjectConfig, SubjectSource, load_subject, resolve_source
from tests.support.shared import shared_folder
from tests.support.tiny import WIDTH, tiny_bert, tiny_bert_tokenizer, tiny_corpus, tiny_llama

CPU = SubjectConfig(device="cpu")
HOOK = "resid_post.1"


class TinyRun(NamedTuple):
    """All that an evaluation or a search needs besides an autoencoder."""

    store: Store
    source: SubjectSource
    corpus: Artifact
    activations: Artifact
    subject: Subject


def llama_run(factory: pytest.TempPathFactory) -> TinyRun:
    """A causal model, trained for long enough that zeroing its middle layer costs something."""
    return _opened(shared_folder(factory, "llama", _make_llama))


def bert_run(factory: pytest.TempPathFactory) -> TinyRun:
    """An encoder whose tokenizer has a mask token."""
    return _opened(shared_folder(factory, "bert", _make_bert))


def make_llama_run(folder: Path) -> TinyRun:
    """As :func:`llama_run`, in a folder of the caller's."""
    _make_llama(folder)
    return _opened(folder)


def published_in(store: Store) -> dict[str, Artifact]:
    """By kind, the artifacts of a store that has one of each."""
    return {uri.partition("/")[0]: open_artifact(store, uri) for uri in artifact_uris(store)}


def _opened(folder: Path) -> TinyRun:
    store, source = open_store(str(folder / "store")), resolve_source(str(folder / "model"))
    made = published_in(store)
    return TinyRun(store, source, made["corpus"], made["activations"], load_subject(source, CPU))


def _make_llama(folder: Path) -> None:
    store = open_store(str(folder / "store"))
    source = tiny_llama(folder / "model")
    corpus = tiny_corpus(store, source, folder / "text")
    _capture(store, _trained(source, TokenCorpus(corpus)), corpus)


def _make_bert(folder: Path) -> None:
    store = open_store(str(folder / "store"))
    tiny_bert(folder / "model")
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tiny_bert_tokenizer().backend_tokenizer.to_str()),
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        pad_token="[PAD]",
        mask_token="[UNK]",
    )
    tokenizer.save_pretrained(folder / "model")
    source = resolve_source(str(folder / "model"))
    _capture(store, source, tiny_corpus(store, source, folder / "text"))


def identity_sae() -> SparseAutoencoder:
    """Two latents a dimension, one for each sign: it rebuilds everything exactly."""
    sae = new_autoencoder(StandardConfig(width=2 * WIDTH), WIDTH)
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]))
        sae.W_dec.copy_(sae.W_enc)
    return sae


def zero_sae() -> SparseAutoencoder:
    """Nothing ever fires, and the origin is zero."""
    return new_autoencoder(StandardConfig(width=64), WIDTH)


def publish_sae(
    store: Store, sae: SparseAutoencoder, activations: Artifact, hook: str = HOOK, target_hook: str | None = None
) -> Artifact:
    """Publish an autoencoder as the train step would have."""

    def build(draft: Draft) -> Summary:
        with draft.stage(WEIGHTS_NAME) as path:
            save_weights(sae, path)
        draft.write(CONFIG_NAME, config_json(sae, hook, 0.5, target_hook))
        return {"d_in": sae.d_in, "width": sae.width}

    content = {
        "weights": float(sum((value.double() ** 2).sum() for value in sae.state_dict().values())),
        "hook": hook,
        "target_hook": target_hook,
        **({"beyond": sae.norm_limit.distance} if sae.norm_limit else {}),
    }
    recipe = Recipe(kind="sae", config=content, inputs={"activations": activations.ref})
    return produce(store, recipe, "train", build).artifact


def _capture(store: Store, source: SubjectSource, corpus: Artifact) -> None:
    config = CaptureConfig(hooks=(HOOK, "mlp_act.1", "mlp_in.1", "resid_mid.1", "mlp_out.1"), shard_bytes=1 << 16)
    capture(store, corpus, source, CPU, config)


def _trained(source: SubjectSource, corpus: TokenCorpus) -> SubjectSource:
    """Train the model on whole sequences for a moment, save it where it was."""
    model = tf.LlamaForCausalLM.from_pretrained(source.path)
    lengths = corpus.lengths("train")
    full = [index for index in range(len(lengths)) if lengths[index] == corpus.context_length]
    ids_BT = torch.tensor([corpus.sequence("train", index).token_ids.tolist() for index in full])
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        batch_BT = ids_BT[torch.randint(len(ids_BT), (16,), generator=generator)]
        optimiser.zero_grad()
        model(input_ids=batch_BT, labels=batch_BT).loss.backward()
        optimiser.step()
    model.save_pretrained(source.path)
    return resolve_source(str(source.path))
