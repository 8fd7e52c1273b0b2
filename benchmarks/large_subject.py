"""A large language model in 4 bits: peak memory, and samples a second that pass a hook in the middle layer.

Run as ``python -m benchmarks.large_subject`` in the root of the checkout, on a machine with an NVIDIA GPU and
bitsandbytes. The model has the shape of Phi-4 (40 layers, 5,120 wide; 14.7 billion parameters) and random weights:
they are written to a folder once (30 GB), then read as any model is. Prints a table and writes
``build/bench/large_subject.json``. Reads the tokenizer beside the checkout (MISTUDIO_BENCH_DATA).

Other shapes run anywhere: ``--layers 2 --width 64 --heads 4 --kv-heads 2 --mlp 128 --vocab 512 --quantization none``.

Shape legend: B sequences, T tokens.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
import transformers

from benchmarks import reporting, subjects
from benchmarks.peak_memory import peak_bytes
from benchmarks.reporting import Row, row, timed
from mistudio.steps.memory import estimate_memory
from mistudio.steps.memory_config import MemoryConfig
from mistudio.subject import (
    HookPoint,
    SubjectConfig,
    SubjectSource,
    load_subject,
    load_tokenizer,
    pick_device,
    resolve_hooks,
    resolve_source,
    run_captured,
)

NUM_TOKENS = 512
REPEATS = 7


def random_phi(folder: Path, shape: argparse.Namespace, device: torch.device) -> SubjectSource:
    """A model of Phi-4's architecture with random weights in bfloat16, saved in ``folder``."""
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=16_384,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    with device:
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    load_tokenizer(subjects.trained()).save_pretrained(folder)
    return resolve_source(str(folder))


def measure(source: SubjectSource, config: SubjectConfig, layer: int, batch: int) -> list[Row]:
    """Load it, run batches as far as the hook, and compare the peak with what was estimated."""
    device = pick_device(config.device)
    work = MemoryConfig(layer=layer, context_length=NUM_TOKENS, batch_size=batch, width=16_384)
    estimate = estimate_memory(source, config, work)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    subject = load_subject(source, config)
    loaded = _peak(device)
    hooks = resolve_hooks(subject, [HookPoint("resid_post", layer)])
    ids_BT = torch.randint(subject.vocab_size, (batch, NUM_TOKENS), device=subject.device)

    def forward() -> None:
        run_captured(subject, hooks, ids_BT)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    forward()
    rate = batch / statistics.median(timed(forward) for _ in range(REPEATS))
    peak = _peak(device)
    what = f"{estimate.num_parameters:,} parameters, {config.quantization}, batch {batch} of {NUM_TOKENS} tokens"
    rows = [
        row(f"peak memory once loaded, {what}", round(loaded / 1e9, 2), "GB"),
        row(f"peak memory of capture at layer {layer}, {what}", round(peak / 1e9, 2), "GB"),
        row(f"samples a second, {what}", round(rate, 3), "samples/s", f"median of {REPEATS} batches"),
    ]
    if device.type == "cuda":  # on a CPU the process itself counts too
        share = estimate.steps["capture"] / peak
        rows.append(row("estimate of the peak over the peak", round(share, 3), "", "", 1.0, 0.85 < share < 1.15))
    return rows


def _peak(device: torch.device) -> int:
    """Most memory that PyTorch had reserved on a GPU; on a CPU, that the process had at once."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shape = {"layers": 40, "width": 5120, "heads": 40, "kv-heads": 10, "mlp": 17_920, "vocab": 100_352, "batch": 8}
    for name, default in shape.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--quantization", choices=["none", "int8", "nf4"], default="nf4")
    chosen = parser.parse_args()
    device = pick_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        source = random_phi(Path(folder), chosen, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        config = SubjectConfig(quantization=chosen.quantization)
        rows = measure(source, config, chosen.layers // 2, chosen.batch)
    used = reporting.versions("mistudio", "transformers")
    reporting.publish("large_subject", "A large subject", rows, reporting.describe_machine(device), used)


if __name__ == "__main__":
    main()
