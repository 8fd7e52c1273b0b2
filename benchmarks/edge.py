"""What fits a small device: ``mistudio check-memory`` for models of known sizes.

Makes a folder a model, with the sizes that its authors published, a tokenizer of as many tokens, and weights that take
no room on the disk (a file with a hole: nothing reads them); then asks what each step needs. Prints a table and writes
``build/bench/edge.json``. ``python -m benchmarks.edge --budget-gb 7 -- --dtype bfloat16`` hands options on.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.memory_estimate import sized_tokenizer
from benchmarks.reporting import Row, describe_machine, publish, row, versions

STEPS = ("capture", "train", "evaluate", "find", "explain", "score")


_DTYPE = "bfloat16"  # of all these models' files


def _llama(width: int, mlp: int, layers: int, heads: int, kv_heads: int, vocab: int) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        dtype=_DTYPE,
        architectures=["LlamaForCausalLM"],
    )


MODELS = {
    "SmolLM2-135M": _llama(576, 1536, 30, 9, 3, 49_152),
    "SmolLM2-360M": _llama(960, 2560, 32, 15, 5, 49_152),
    "Llama-3.2-1B": _llama(2048, 8192, 16, 32, 8, 128_256),
    "SmolLM2-1.7B": _llama(2048, 8192, 24, 32, 32, 49_152),
    "Llama-3.2-3B": _llama(3072, 8192, 28, 24, 8, 128_256),
}


def rows(budget_gb: float, options: list[str]) -> Iterator[Row]:
    """The memory of each step of each model, in GB, with what allocators keep."""
    for name, config in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            _save(config, Path(folder))
            answer = _asked(folder, budget_gb, options)
        kept = answer["required_bytes"] / max(answer["steps"].values())
        for step in STEPS:
            needed_gb = round(answer["steps"][step] * kept / 1e9, 1)
            yield row(f"{name}, {step}", needed_gb, "GB", f"{budget_gb:g} GB", budget_gb, needed_gb <= budget_gb)
        if not answer["fits"]:
            yield row(f"{name}, what would fit", json.dumps(answer["recommended"]), "settings")


def _asked(folder: str, budget_gb: float, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "mistudio", "check-memory", folder, "--device", "cpu", "--json"]
    command += ["--budget-gb", str(budget_gb), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _save(config: transformers.LlamaConfig, folder: Path) -> None:
    """The configuration, a tokenizer, and a file of weights with a header and a hole."""
    config.save_pretrained(folder)
    sized_tokenizer(config.vocab_size).save_pretrained(folder)
    with torch.device("meta"):
        weights = transformers.AutoModelForCausalLM.from_config(config).state_dict()
    del weights["lm_head.weight"]  # tied: the file has it once
    header, place = {}, 0
    for name, tensor in weights.items():
        end = place + tensor.numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge", description=__doc__)
    parser.add_argument("--budget-gb", type=float, default=7, help="memory that the steps may take (%(default)s)")
    parser.add_argument("options", nargs="*", help="options of check-memory, after --")
    given = parser.parse_args()
    title = f"Memory of steps on a CPU {' '.join(given.options)}".strip()
    publish("edge", title, list(rows(given.budget_gb, given.options)), describe_machine(), versions("transformers"))


if __name__ == "__main__":
    main()
