"""How well ``mistudio check-memory`` foretells the peak memory of each step.

Run as ``python -m benchmarks.memory_estimate [CASE ...]`` in the root of the checkout. Subjects with random weights
are captured, an autoencoder is trained on made-up activations of their width, and evaluated in them, each step in a
process of its own; a row is the estimate over the measured peak. In some cases features are found in what was captured,
explained by programs and scored too. Prints a table and writes
``build/bench/memory_estimate.json``. Reads the tokenizer beside the checkout (MISTUDIO_BENCH_DATA).

What counts on a CPU is the most that was resident at once (VmHWM), shared libraries and mapped weights included:
that is what has to fit. Captured shards are mapped too, but their reader lets go of pages after a few MiB. On a GPU
(``--device cuda``) it is what PyTorch's allocator had reserved at most, and what the driver counts beyond that.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks import reporting
from benchmarks.reporting import Row, row
from mistudio.activations import CaptureConfig, capture
from mistudio.activations.shards import META_COLUMNS, ShardWriter
from mistudio.artifacts import (
    Artifact,
    Draft,
    InputRef,
    Produced,
    Recipe,
    Store,
    Summary,
    open_artifact,
    open_store,
    produce,
)
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.ingest import ingest
from mistudio.corpus.sources import open_source
from mistudio.evaluate import EvaluateConfig, evaluate
from mistudio.explain import ExplainConfig, explain
from mistudio.find import FindConfig, find_features
from mistudio.heap import keep_freed_memory
from mistudio.sae import architecture_configs
from mistudio.score import ScoreConfig, score
from mistudio.steps.memory import MemoryEstimate, estimate_memory
from mistudio.steps.memory_config import MemoryConfig
from mistudio.subject import SubjectConfig, SubjectSource, load_tokenizer, resolve_source
from mistudio.train import TrainConfig, TrainRuntime, train
from tests.support.indexed import index_shards

TOLERANCE = 0.15
STEPS = ("capture", "train", "evaluate")
LATER_STEPS = ("find", "explain", "score")
K = 8  # so few that most latents of a wide autoencoder are silent in a batch
BATCHES = 5  # forward passes of a capture: more than wait to be written
TRAIN_STEPS = 12  # latents that have been silent are counted before every tenth
CE_TOKENS = 4096  # so many that most pages of a large vocabulary's embeddings are read
BLOCK_ROWS = 4096
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-_.:"


@dataclass(frozen=True)
class Case:
    """A subject, and the settings it is studied with; sizes as in :func:`estimate_memory`."""

    family: str
    d_model: int
    num_layers: int
    vocab_size: int
    dtype: str
    batch_size: int
    context_length: int
    width: int
    sae_batch_size: int = 1024
    buffer_rows: int = 65_536
    saved_as: str = ""  # number format of the file; empty: that of the model
    architecture: str = "topk"  # of the penalised ones, which begin dense, only training is measured
    later_tokens: int = 0  # that features are found in, and programs searched and scored on; only that is measured

    @property
    def layer(self) -> int:
        """The block that is hooked: the middle one."""
        return self.num_layers // 2

    @property
    def hook(self) -> str:
        """The hook point."""
        return f"resid_post.{self.layer}"

    def subject_config(self, device: str) -> SubjectConfig:
        """How the subject is loaded."""
        return SubjectConfig.model_validate({"device": device, "dtype": self.dtype})

    @property
    def steps(self) -> tuple[str, ...]:
        """What is measured."""
        if self.later_tokens:
            return LATER_STEPS
        return (*STEPS, "train, no dead latents") if self.architecture == "topk" else ("train",)

    @property
    def sequences(self) -> int:
        """Of the corpus, held-out ones included."""
        return max(2 * BATCHES * self.batch_size, 2 * self.later_tokens // self.context_length)

    @property
    def find_config(self) -> FindConfig:
        """A search that reads as much at once as there is, and tries features in the model a little."""
        return FindConfig(
            sample_tokens=max(self.later_tokens, 1024),
            chunk_rows=max(self.later_tokens // 4, 64),
            ablation_contexts=1 if self.width <= 4096 else 0,
            attribution_contexts=1 if self.width <= 4096 else 0,
            map=False,
        )

    @property
    def program_tokens(self) -> int:
        """What programs are searched and scored on."""
        return max(self.later_tokens, 1000)

    @property
    def capture_config(self) -> CaptureConfig:
        """What is captured."""
        return CaptureConfig(hooks=(self.hook,), batch_size=self.batch_size)

    def train_config(self, tokens: int, dead_after_tokens: int) -> TrainConfig:
        """A run of a few steps."""
        config = architecture_configs()[self.architecture]
        sparsity = {"k": K} if "k" in config.model_fields else {}
        return TrainConfig(
            hook=self.hook,
            sae=config(width=self.width, allow_wide=True, **sparsity),
            tokens=tokens,
            batch_size=self.sae_batch_size,
            buffer_rows=self.buffer_rows,
            dead_after_tokens=dead_after_tokens,
            patience=0,
        )


# The constants of the estimates were fitted to all but the last two.
CASES = {
    "tiny": Case("llama", 64, 2, 512, "float32", 8, 128, 256, buffer_rows=8192),
    "found_tiny": Case("llama", 64, 2, 512, "float32", 8, 128, 256, later_tokens=16_384),
    "small": Case("llama", 512, 8, 32_000, "float32", 16, 128, 4096),
    "found": Case("llama", 256, 4, 4096, "float32", 16, 128, 4096, later_tokens=131_072),
    "found_wide": Case("llama", 256, 4, 4096, "float32", 16, 128, 32_768, later_tokens=65_536),
    "wide": Case("llama", 512, 4, 4096, "float32", 16, 128, 65_536),
    "gpt2": Case("gpt2", 768, 12, 50_257, "float32", 4, 512, 16_384, sae_batch_size=4096),
    "letters": Case("llama", 768, 12, 512, "bfloat16", 32, 128, 8192, buffer_rows=262_144),
    "words": Case("llama", 512, 4, 256_000, "bfloat16", 8, 128, 1024),
    "converted": Case("llama", 512, 8, 32_000, "float32", 32, 256, 4096, sae_batch_size=8192, saved_as="bfloat16"),
    "large": Case("llama", 1024, 24, 32_000, "bfloat16", 4, 256, 2048),
    **{
        name: Case("llama", 512, 4, 4096, "float32", 8, 128, 4096, sae_batch_size=4096, architecture=name)
        for name in ("standard", "gated", "jumprelu")
    },
    "new": Case("llama", 640, 10, 16_000, "float32", 8, 256, 10_240, sae_batch_size=2048, buffer_rows=131_072),
    "new_gpt2": Case("gpt2", 1024, 8, 8192, "bfloat16", 12, 192, 6144, sae_batch_size=512),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=[], help=f"of {', '.join(CASES)}; all if none is named")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--step", help="run one step of one case here, in --folder, and print its memory")
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    if chosen.step:
        _run_step(CASES[chosen.cases[0]], chosen.step, chosen.folder, chosen.device)
        return
    rows = [line for name in chosen.cases or CASES for line in case_rows(name, chosen.device)]
    used = reporting.versions("mistudio", "transformers", "safetensors")
    machine = reporting.describe_machine(torch.device(chosen.device))
    reporting.publish("memory_estimate", "Estimated memory over measured peak", rows, machine, used)


def case_rows(name: str, device: str) -> list[Row]:
    """Estimate over measured peak of the steps of one case."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        _in_own_process(name, "prepare", folder, device)
        estimate = _estimate(case, resolve_source(f"{folder}/model"), device)
        what = (
            f"{name} ({case.family}, {estimate.num_parameters / 1e6:.0f} M, {case.dtype}, vocabulary "
            f"{case.vocab_size:,}, {case.batch_size} x {case.context_length}, {case.architecture}, "
            f"width {case.width:,})"
        )
        rows = []
        for step in case.steps:
            measured = _in_own_process(name, step, folder, device)
            estimated = estimate.steps[step.partition(",")[0]]
            if step not in (*STEPS, *LATER_STEPS):
                estimated -= estimate.parts["train"]["sae_auxiliary"]
            ratio = round(estimated / measured["peak"], 3)
            against = (
                f"{estimated / 1e6:.0f} MB to {measured['peak'] / 1e6:.0f} MB, "
                f"of which {measured['before'] / 1e6:.0f} MB before the step"
            )
            holds = abs(ratio - 1) <= TOLERANCE
            rows.append(row(f"{step}: {what}", ratio, "x", against, f"1 ± {TOLERANCE}", holds))
            sys.stderr.write(f"{name}, {step}: {ratio}, {against}\n")
        return rows


def _estimate(case: Case, source: SubjectSource, device: str) -> MemoryEstimate:
    work = MemoryConfig(
        layer=case.layer,
        context_length=case.context_length,
        batch_size=case.batch_size,
        width=case.width,
        sae_batch_size=case.sae_batch_size,
        buffer_rows=case.buffer_rows,
        architecture=case.architecture,
        active=K,
        find=case.find_config,
        explain=ExplainConfig(max_tokens=case.program_tokens),
        score=ScoreConfig(max_tokens=case.program_tokens),
    )
    return estimate_memory(source, case.subject_config(device), work)


def _in_own_process(name: str, step: str, folder: str, device: str) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.memory_estimate", name, "--step", step]
    command += ["--folder", folder, "--device", device]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _run_step(case: Case, step: str, folder: Path, device: str) -> None:
    store = open_store(str(folder / "store"))
    if step == "prepare":
        _save_model(case, folder / "model")
        _publish_inputs(case, store, folder)
    source = resolve_source(str(folder / "model"))
    uris = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    inputs = {kind: open_artifact(store, uri) for kind, uri in uris.items()}
    subject_config = case.subject_config(device)
    before = _now(device)

    def work() -> Produced:
        if step == "capture":
            return capture(store, inputs["corpus"], source, subject_config, case.capture_config)
        if step == "evaluate":
            return evaluate(store, inputs["sae"], source, subject_config, EvaluateConfig(ce_tokens=CE_TOKENS))
        if step == "find":
            return find_features(store, inputs["captured_sae"], source, subject_config, case.find_config)
        if step == "explain":
            settings = ExplainConfig(max_tokens=case.program_tokens)
            return explain(store, inputs["find"], source, subject_config, settings)
        if step == "score":
            settings = ScoreConfig(max_tokens=case.program_tokens)
            return score(store, inputs["explain"], source, subject_config, settings)
        config = case.train_config(TRAIN_STEPS * case.sae_batch_size, 1 << 40 if "no dead" in step else 1)
        runtime = TrainRuntime(device=device, checkpoint_every_steps=TRAIN_STEPS - 1)
        return train(store, inputs["activations"], config, runtime=runtime)

    if step != "prepare":
        keep_freed_memory(one_heap=True)  # as the step does that is started by the command line
        made = work()
        (folder / "inputs.json").write_text(json.dumps({**uris, step: made.artifact.uri}), encoding="utf-8")
    sys.stdout.write(json.dumps({"before": before, "peak": _peak(device)}) + "\n")


def _publish_inputs(case: Case, store: Store, folder: Path) -> None:
    """What the steps take, and where it is."""
    source = resolve_source(str(folder / "model"))
    corpus = _corpus(store, source, case, folder)
    activations = _activations(store, case, corpus, source)
    sae = train(store, activations, case.train_config(1, dead_after_tokens=1)).artifact
    uris = {"corpus": corpus.uri, "activations": activations.uri, "sae": sae.uri}
    if case.later_tokens:
        captured = _captured(store, case, corpus, source)
        learned = case.train_config(TRAIN_STEPS * case.sae_batch_size, dead_after_tokens=1 << 40)
        uris["captured_sae"] = train(store, captured, learned).artifact.uri
    (folder / "inputs.json").write_text(json.dumps(uris), encoding="utf-8")


def _save_model(case: Case, folder: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": case.vocab_size, "bos_token_id": 1, "eos_token_id": 2}
    if case.family == "gpt2":
        config: transformers.PreTrainedConfig = transformers.GPT2Config(
            n_embd=case.d_model, n_layer=case.num_layers, n_head=case.d_model // 64, n_positions=512, **sizes
        )
    else:
        config = transformers.LlamaConfig(
            hidden_size=case.d_model,
            intermediate_size=case.d_model * 8 // 3,
            num_hidden_layers=case.num_layers,
            num_attention_heads=case.d_model // 64,
            max_position_embeddings=512,
            **sizes,
        )
    dtype = getattr(torch, case.saved_as or case.dtype)
    transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    sized_tokenizer(case.vocab_size).save_pretrained(folder)


def sized_tokenizer(vocab_size: int) -> transformers.PreTrainedTokenizerFast:
    """Byte-pair encoding with as many tokens as the model has embeddings, for memory as large as a real one's."""
    lengths = (islice(product(_LETTERS, repeat=length), 200_000) for length in (1, 2, 3, 4))
    words = ["".join(letters) for letters in chain.from_iterable(lengths)]
    vocab = {word: number for number, word in enumerate(("<pad>", "<s>", "</s>", *words[: vocab_size - 3]))}
    merges = [(word[:-1], word[-1]) for word in words[: vocab_size - 3] if len(word) > 1]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def _corpus(store: Store, source: SubjectSource, case: Case, folder: Path) -> Artifact:
    """Random words, one token each, from the whole vocabulary; every sequence is a full one."""
    path, tokenizer = folder / "texts.jsonl", load_tokenizer(source)
    words, random = np.array(list(tokenizer.get_vocab())[3:]), np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(case.sequences):
            text = " ".join(random.choice(words, case.context_length))
            file.write(json.dumps({"text": f"{number} {text}"}) + "\n")
    config = IngestConfig(context_length=case.context_length, held_out_fraction=0.5)
    tokenizer_ref = InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest)
    return ingest(store, open_source(str(path), store), tokenizer, tokenizer_ref, config).artifact


def _captured(store: Store, case: Case, corpus: Artifact, source: SubjectSource) -> Artifact:
    """Activations of the corpus, by another batch size than is measured: a capture of the same would be found."""
    settings = case.capture_config.model_copy(update={"batch_size": case.batch_size + 1})
    return capture(store, corpus, source, case.subject_config("cpu"), settings).artifact


def _activations(store: Store, case: Case, corpus: Artifact, source: SubjectSource) -> Artifact:
    """Made-up activations, of the width of the subject's."""
    block_ND = torch.randn(BLOCK_ROWS, case.d_model, generator=torch.Generator().manual_seed(0))
    meta = {name: np.zeros(BLOCK_ROWS, dtype=np.int32) for name in META_COLUMNS}
    rows = {"train": case.buffer_rows + TRAIN_STEPS * case.sae_batch_size, "heldout": 2 * BLOCK_ROWS}
    inputs = {"corpus": corpus.ref, "subject": InputRef(uri=source.uri, digest=source.digest)}

    def build(draft: Draft) -> Summary:
        for split, count in rows.items():
            with (
                draft.stage(f"{case.hook}/{split}/shard-00000.arrow") as path,
                ShardWriter(path, case.d_model, "float16") as writer,
            ):
                for _ in range(-(-count // BLOCK_ROWS)):
                    writer.append(block_ND, meta)
        index_shards(draft)
        return {}

    return produce(store, Recipe(kind="activations", config={"rows": rows}, inputs=inputs), "bench", build).artifact


def _now(device: str) -> int:
    """What this process holds now, in bytes."""
    return _cuda_bytes() if device.startswith("cuda") else _status("VmRSS")


def _peak(device: str) -> int:
    """Most that this process held at once, in bytes."""
    return _cuda_bytes() if device.startswith("cuda") else _status("VmHWM")


def _cuda_bytes() -> int:
    """The allocator's most, and beside it what the driver says is used: the context, and other processes'."""
    free, total = torch.cuda.mem_get_info()
    return int(torch.cuda.max_memory_reserved() + total - free - torch.cuda.memory_reserved())


def _status(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


if __name__ == "__main__":
    main()
