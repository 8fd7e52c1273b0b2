"""Corpus and activations as MLflow knows them: datasets that a run has read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mistudio.redaction import redact

_DIGEST_CHARS = 16
_NAME_CHARS = 200
_SOURCE_TYPE = "mistudio"


@dataclass(frozen=True)
class Dataset:
    """A corpus or activations in the store.

    Attributes:
        name: what people know it by.
        digest: of its manifest, in hex.
        uri: its prefix in the store.
        store: where the store is.
        context: what the run did with it, such as training or evaluation.
        figures: a few figures of it.
    """

    name: str
    digest: str
    uri: str
    store: str
    context: str
    figures: Mapping[str, object] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Name and digest, by which MLflow tells datasets apart."""
        return redact(self.name)[:_NAME_CHARS], self.digest[:_DIGEST_CHARS]


def log_datasets(client: Any, run_id: str, datasets: Sequence[Dataset]) -> None:
    """Say that a run has read these."""
    client.log_inputs(run_id, datasets=[_entity(each) for each in datasets])


def _entity(dataset: Dataset) -> Any:
    from mlflow.entities import Dataset as Entity
    from mlflow.entities import DatasetInput, InputTag

    name, digest = dataset.key
    source = {"store": dataset.store, "uri": dataset.uri, "digest": dataset.digest}
    entity = Entity(name, digest, _SOURCE_TYPE, _json(source), profile=_json(dataset.figures))
    return DatasetInput(entity, [InputTag("mlflow.data.context", dataset.context)])


def _json(content: Mapping[str, object]) -> str:
    """As JSON, without secrets: an address may hold one."""
    return json.dumps({name: redact(value) if isinstance(value, str) else value for name, value in content.items()})
