"""Evaluations as the evaluate step publishes them, with given figures."""

import json
from collections.abc import Mapping
from typing import Any

from mistudio.artifacts import Artifact, InputRef, Recipe, Store, produce

SUBJECT = InputRef(uri="folder:stories260K", digest="7c9e1b52" * 8)


def publish_evaluation(
    store: Store,
    sae: dict[str, Any],
    seed: int = 0,
    *,
    l0: float = 8.0,
    ce_recovered: float | None = 0.98,
    explained_variance: float = 0.9,
    hook: str = "resid_post.2",
    layer: int = 2,
    ce_tokens: int = 100_000,
    outliers: Mapping[str, float] | None = None,
) -> Artifact:
    """The evaluation of one autoencoder; its activations are those of ``layer``; ``outliers`` are further figures."""

    def publish(kind: str, config: dict[str, Any], inputs: dict[str, InputRef], seed: int, files: dict[str, Any]):
        def build(draft: Any) -> dict[str, Any]:
            for name, content in files.items():
                draft.write(name, json.dumps(content).encode())
            return files.get("metrics.json", {})

        return produce(store, Recipe(kind=kind, config=config, inputs=inputs, seed=seed), kind, build).artifact

    activations = publish("activations", {"layer": layer}, {"subject": SUBJECT}, 0, {})
    config = {"hook": hook, "target_hook": None, "sae": sae}
    autoencoder = publish("sae", config, {"activations": activations.ref}, seed, {})
    metrics = {
        "l0": l0,
        "ce_recovered": ce_recovered,
        "explained_variance": explained_variance,
        "dead_fraction": 0.25,
        "control.random_ce_recovered": None if ce_recovered is None else -0.2,
        "control.random_explained_variance": 0.1,
        "tokens": 46_057,
        **(outliers or {}),
    }
    inputs = {"sae": autoencoder.ref, "subject": SUBJECT}
    return publish("evaluation", {"ce_tokens": ce_tokens}, inputs, 0, {"metrics.json": metrics})


def topk(k: int, width: int = 1024) -> dict[str, Any]:
    """Settings of a TopK autoencoder."""
    return {"architecture": "topk", "width": width, "k": k}


def jumprelu(target_l0: float | None, width: int = 1024) -> dict[str, Any]:
    """Settings of a JumpReLU autoencoder."""
    return {"architecture": "jumprelu", "width": width, "target_l0": target_l0, "l0_coefficient": 0.001}
