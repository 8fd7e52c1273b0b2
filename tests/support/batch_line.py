"""The batch line in one process, for tests that kill it: many small shards, frequent checkpoints.

Run as ``python -m tests.support.batch_line STORE SCRATCH``; prints the digest of each artifact as JSON.
"""

import json
import sys
from pathlib import Path

from mistudio.activations import CaptureConfig, capture
from mistudio.artifacts import open_store
from mistudio.find import FindConfig, find_features
from mistudio.sae import TopKConfig
from mistudio.subject import SubjectConfig
from mistudio.train import TrainConfig, TrainRuntime, train
from tests.support.tiny import tiny_corpus, tiny_llama

HOOK = "resid_post.1"
SHARD_BYTES = 1 << 16
CHECKPOINT_EVERY_STEPS = 20


def run(store_url: str, scratch: Path) -> dict[str, str]:
    """Ingest, capture, train and find on a tiny model; the digest of each artifact."""
    store = open_store(store_url)
    source = tiny_llama(scratch / "model")
    corpus = tiny_corpus(store, source, scratch / "text", num_documents=600)
    settings = CaptureConfig(hooks=(HOOK,), shard_bytes=SHARD_BYTES, batch_size=4)
    activations = capture(store, corpus, source, SubjectConfig(device="cpu"), settings).artifact
    config = TrainConfig(hook=HOOK, sae=TopKConfig(width=128, k=4), tokens=200_000, batch_size=256, buffer_rows=4096)
    runtime = TrainRuntime(checkpoint_every_steps=CHECKPOINT_EVERY_STEPS)
    sae = train(store, activations, config, runtime=runtime).artifact
    search = FindConfig(chunk_rows=64, map=False)  # a map takes seconds to compile, and is made after all shards
    features = find_features(store, sae, source, SubjectConfig(device="cpu"), search).artifact
    artifacts = {"capture": activations, "train": sae, "find": features}
    return {step: artifact.digest for step, artifact in artifacts.items()}


if __name__ == "__main__":
    json.dump(run(sys.argv[1], Path(sys.argv[2])), sys.stdout)
