"""Small language models of the planted language, trained on the spot, and what the platform's steps make of them.

A model is an artifact of kind ``subject``, so that a second run finds it. Everything after it are the steps that
people use: ingest, capture and train, with their own settings.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mistudio.activations import CaptureConfig, capture
from mistudio.artifacts import Artifact, Draft, InputRef, Recipe, Store, Summary, produce
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.documents import CorpusSource
from mistudio.corpus.ingest import ingest
from mistudio.demo import DemoConfig
from mistudio.demo.text import BOS, BOS_ID, EOS, split
from mistudio.sae import TopKConfig
from mistudio.subject import SubjectConfig, SubjectSource, artifact_source, load_tokenizer
from mistudio.train import TrainConfig, train
from mistudio.verify.concepts import WORDS
from mistudio.verify.grammar import Grammar

_UNKNOWN = "<unk>"
_CPU = SubjectConfig(device="cpu", dtype="float32")


class PlantedConfig(BaseModel):
    """The planted language, the model that is trained on it, and the autoencoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = Field(default=12_000, ge=20, description="documents of the language, of about 110 tokens")
    lm: DemoConfig = Field(
        default=DemoConfig(
            name="planted-language",
            tokens=1_200_000,
            vocab_size=300,
            width=64,
            layers=3,
            heads=4,
            mlp_width=192,
            evaluated_bytes=100_000,
            gradient_clip=10.0,  # at 0.5 fewer contexts were learned (seed 101)
        ),
        description="shape and training of the language model",
    )
    hook: str = Field(default="resid_post.1", description="where activations are captured")
    width: int = Field(default=192, ge=64, description="latents of the autoencoder")
    k: int = Field(default=16, ge=1, description="latents active on a token")
    sae_tokens: int = Field(default=1_500_000, ge=1_000, description="activations that the autoencoder is trained on")


class Line(NamedTuple):
    """One run of the line: from text to an autoencoder."""

    source: SubjectSource
    corpus: Artifact
    activations: Artifact
    sae: Artifact


def planted_line(store: Store, config: PlantedConfig, seed: int) -> Line:
    """Model, corpus, activations and autoencoder of one seed's language, trained or found."""
    grammar = Grammar(seed, config.documents)
    source = artifact_source(planted_subject(store, config, grammar, seed))
    return line_over(store, config, grammar, source, seed)


def planted_subject(store: Store, config: PlantedConfig, grammar: Grammar, seed: int) -> Artifact:
    """A language model trained on the language, or found published."""
    recipe = Recipe(
        kind="subject",
        config=config.lm.model_dump(),
        inputs={"corpus": InputRef(uri=grammar.uri, digest=grammar.digest)},
        seed=seed,
    )

    def build(draft: Draft) -> Summary:
        # What trains is imported when there is something to train.
        from mistudio.demo.training import build_from

        tokenizer = word_tokenizer(WORDS)
        write_tokenizer(draft, tokenizer)
        return build_from(draft, config.lm, seed, split(grammar.documents(), config.lm, seed), tokenizer)

    return produce(store, recipe, "verify", build).artifact


def line_over(store: Store, config: PlantedConfig, documents: CorpusSource, source: SubjectSource, seed: int) -> Line:
    """Ingest documents, capture a model's activations on them, and train an autoencoder."""
    reference = InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest)
    settings = IngestConfig(context_length=config.lm.context_length, held_out_fraction=config.lm.held_out_fraction)
    corpus = ingest(store, documents, load_tokenizer(source), reference, settings).artifact
    activations = capture(store, corpus, source, _CPU, CaptureConfig(hooks=(config.hook,))).artifact
    training = TrainConfig(hook=config.hook, sae=TopKConfig(width=config.width, k=config.k), tokens=config.sae_tokens)
    return Line(source, corpus, activations, train(store, activations, training, seed).artifact)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a word, and the space before it; it puts ``<s>`` before a text."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces = [byte_level.pre_tokenize_str(word)[0][0] for word in words]
    vocabulary = {piece: number for number, piece in enumerate([BOS, EOS, _UNKNOWN, *pieces])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.add_special_tokens([BOS, EOS, _UNKNOWN])
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=_UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def write_tokenizer(draft: Draft, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the tokenizer's files in Hugging Face format."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        settings = json.loads(Path(folder, "tokenizer_config.json").read_bytes())
        draft.write("tokenizer_config.json", json.dumps(settings, indent=1, sort_keys=True).encode())
        draft.write("tokenizer.json", Path(folder, "tokenizer.json").read_bytes())
