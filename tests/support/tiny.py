"""Tiny real things, made on the spot: tokenizers, language models with random weights, a tokenised corpus.

Everything is the same each time it is made, so two tests (or two processes) that make it agree on every digest.
"""

import json
import random
from functools import cache
from pathlib import Path

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mistudio.artifacts import Artifact, Draft, InputRef, Recipe, Store, Summary, produce
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.ingest import ingest
from mistudio.corpus.sources import open_source
from mistudio.subject import SubjectSource, load_tokenizer, resolve_source

LAYERS = 3
WIDTH = 32
MLP_WIDTH = 48
CONTEXT_LENGTH = 24
_TASKS = ("story", "code", "list")
_TEXT = """the a cat dog hat mat sun moon tree river small red blue old ran sat saw took gave kept under over
behind near and then but so because never often once again it she he they"""
_WORDS = _TEXT.split()
_NAMES = ("Lily", "Tom", "Mia", "Sam", "Zoë", "猫")


def tiny_documents(num_documents: int = 60, seed: int = 0) -> list[dict[str, str]]:
    """Documents of 3 to 120 words, each with a task; no two are alike."""
    draw = random.Random(seed)
    return [
        {"text": _document(draw, index, task := _TASKS[index % len(_TASKS)]), "task": task}
        for index in range(num_documents)
    ]


@cache
def tiny_tokenizer() -> tf.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that begins every text with <s>, as Llama's does; id 0 is <s>, 1 is </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([document["text"] for document in tiny_documents()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@cache
def tiny_bert_tokenizer() -> tf.PreTrainedTokenizerFast:
    """A WordPiece tokenizer that puts every text between [CLS] and [SEP]; their ids are 2 and 3."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=240, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator([document["text"] for document in tiny_documents()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]"
    )


def tiny_llama(folder: Path, seed: int = 0) -> SubjectSource:
    """A causal model of 3 layers, width 32, in ``folder``; another ``seed`` gives other weights."""
    tokenizer = tiny_tokenizer()
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=MLP_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return _saved(tf.LlamaForCausalLM, config, tokenizer, folder, seed)


def tiny_bert(folder: Path, seed: int = 0) -> SubjectSource:
    """An encoder of 3 layers, width 32, in ``folder``."""
    tokenizer = tiny_bert_tokenizer()
    config = tf.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=MLP_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    return _saved(tf.BertForMaskedLM, config, tokenizer, folder, seed)


def published_subject(store: Store, source: SubjectSource) -> Artifact:
    """The model as an artifact of kind ``subject``."""

    def build(draft: Draft) -> Summary:
        for path in sorted(Path(source.path).iterdir()):
            draft.write(path.name, path.read_bytes())
        return {}

    return produce(store, Recipe(kind="subject", config={"digest": source.digest}), "test", build).artifact


def tiny_corpus(
    store: Store,
    source: SubjectSource,
    folder: Path,
    *,
    num_documents: int = 60,
    context_length: int = CONTEXT_LENGTH,
    held_out_fraction: float = 0.25,
    add_special_tokens: bool = True,
) -> Artifact:
    """A corpus of ``num_documents`` documents, tokenised for ``source``; its text is written to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in tiny_documents(num_documents)))
    return ingest(
        store,
        open_source(str(path), store),
        load_tokenizer(source),
        InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest),
        IngestConfig(
            context_length=context_length, held_out_fraction=held_out_fraction, add_special_tokens=add_special_tokens
        ),
    ).artifact


def _document(draw: random.Random, index: int, task: str) -> str:
    name = draw.choice(_NAMES)
    words = [draw.choice(_WORDS) for _ in range(draw.randint(3, 120))]
    if task == "code":
        return f"def f{index}(x):\n" + "".join(f"    {word} = x + {n}\n" for n, word in enumerate(words[:20]))
    if task == "list":
        return f"{name} {index}:\n" + "\n".join(f"- {word}" for word in words[:25])
    return f"{name} number {index} " + " ".join(words) + "."


def _saved(
    model_class: type[tf.PreTrainedModel],
    config: tf.PreTrainedConfig,
    tokenizer: tf.PreTrainedTokenizerFast,
    folder: Path,
    seed: int,
) -> SubjectSource:
    """Save a model with random weights, large enough that every part of a block matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return resolve_source(str(folder))
