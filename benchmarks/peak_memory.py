"""The peak memory of one step, in a process of its own.

Run as ``python -m benchmarks.peak_memory STEP STORE CORPUS`` by ``benchmarks.activations``; STEP is capture, or
train, which captures first (in another process, if it is not done yet). Prints bytes.
"""

import re
import sys
from pathlib import Path

from benchmarks import subjects
from mistudio.activations import CaptureConfig, capture
from mistudio.artifacts import open_artifact, open_store
from mistudio.sae import TopKConfig
from mistudio.subject import SubjectConfig
from mistudio.train import TrainConfig, train

HOOK = "resid_post.2"


def main(step: str, store_url: str, corpus_uri: str) -> None:
    store = open_store(store_url)
    corpus = open_artifact(store, corpus_uri)
    settings = CaptureConfig(hooks=(HOOK,), shard_bytes=32 << 20)
    activations = capture(store, corpus, subjects.trained(), SubjectConfig(device="cpu"), settings).artifact
    if step == "train":
        tokens = int(activations.manifest.summary["train_tokens"])  # type: ignore[arg-type]
        config = TrainConfig(
            hook=HOOK, sae=TopKConfig(width=256, k=8), tokens=tokens, batch_size=4096, buffer_rows=65_536, patience=0
        )
        train(store, activations, config)
    sys.stdout.write(f"{peak_bytes()}\n")


def peak_bytes() -> int:
    """Most memory this process had at once; not getrusage, where the parent's peak counts too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


if __name__ == "__main__":
    main(*sys.argv[1:])
