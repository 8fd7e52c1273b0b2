"""Language models and corpora that the benchmarks run on: a trained one, and a larger one with random weights."""

import json
import os
from itertools import cycle, islice
from pathlib import Path

import torch
import transformers

from mistudio.artifacts import Artifact, InputRef, Store
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.ingest import ingest
from mistudio.corpus.sources import open_source
from mistudio.subject import SubjectSource, load_tokenizer, resolve_source

# Where the trained model and the texts lie: beside the checkout, unless the environment says otherwise.
DATA = Path(os.environ.get("MISTUDIO_BENCH_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
MODEL = DATA / "models" / "stories260K"
TEXT = DATA / "corpora" / "stories_tinystories.jsonl"


def trained() -> SubjectSource:
    """stories260K: a Llama of 5 layers, width 64."""
    return resolve_source(str(MODEL.resolve()))


def random_llama(folder: Path, d_model: int, num_layers: int) -> SubjectSource:
    """A Llama with random weights and the tokenizer of the trained model, saved in ``folder``."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=512,
        hidden_size=d_model,
        intermediate_size=d_model * 8 // 3,
        num_hidden_layers=num_layers,
        num_attention_heads=8,
        max_position_embeddings=512,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    load_tokenizer(trained()).save_pretrained(folder)
    return resolve_source(str(folder))


def stories(store: Store, source: SubjectSource, folder: Path, max_tokens: int) -> Artifact:
    """A corpus of about ``max_tokens`` tokens of short stories, told again where there are too few."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = [json.loads(line)["text"] for line in TEXT.read_text(encoding="utf-8").splitlines()]
    num_chars, path = 0, folder / f"stories-{max_tokens}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(islice(cycle(documents), max_tokens)):
            # A few first words of its own make each telling a document of its own.
            file.write(json.dumps({"text": f"Story {number}. {text}"}) + "\n")
            num_chars += len(text)
            if num_chars > 4 * max_tokens:
                break
    return ingest(
        store,
        open_source(str(path), store),
        load_tokenizer(source),
        InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest),
        IngestConfig(context_length=128, held_out_fraction=0.05, max_tokens=max_tokens),
    ).artifact
