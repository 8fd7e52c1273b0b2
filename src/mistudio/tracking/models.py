"""Autoencoders as MLflow knows them: logged models that say where the weights lie in the store, and hold none."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistudio.redaction import redact

DIGEST_TAG = "sae.digest"
_TYPE = "sparse autoencoder"
_REFUSED = str.maketrans(dict.fromkeys("/:.%\"'", "-"))  # in the name of a logged model
_NAME_CHARS = 250
_PARAM_CHARS = 500


@dataclass(frozen=True)
class Model:
    """An autoencoder in the store.

    Attributes:
        name: what tells it from others.
        digest: of its manifest, in hex.
        uri: its prefix in the store.
        params: its settings.
        tags: what it was made from, by whom.
        manifest: the bytes of its manifest, which are kept with it.
    """

    name: str
    digest: str
    uri: str
    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, object] = field(default_factory=dict)
    manifest: bytes = b""


def find_or_log(client: Any, experiment: str, model: Model, run_id: str | None) -> Any:
    """The logged model of an autoencoder, which is made where the experiment has none of its digest.

    Args:
        client: of MLflow.
        experiment: id of the experiment.
        model: the autoencoder.
        run_id: of the run that made it.
    """
    found = find(client, experiment, model.digest)
    return found or _logged(client, experiment, model, run_id)


def find(client: Any, experiment: str, digest: str) -> Any | None:
    """The logged model of the autoencoder with this digest, if the experiment has one."""
    page = client.search_logged_models([experiment], f"tags.`{DIGEST_TAG}` = '{digest}'", max_results=1)
    return next(iter(page), None)


def _logged(client: Any, experiment: str, model: Model, run_id: str | None) -> Any:
    from mlflow.entities import LoggedModelStatus

    params = {name: redact(str(value))[:_PARAM_CHARS] for name, value in model.params.items()}
    tags = {**model.tags, "sae.uri": model.uri, DIGEST_TAG: model.digest}
    logged = client.create_logged_model(
        experiment,
        redact(model.name).translate(_REFUSED)[:_NAME_CHARS],
        run_id,
        {name: redact(str(value)) for name, value in tags.items()},
        params,
        _TYPE,
    )
    if model.manifest:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "manifest.json"
            path.write_text(redact(model.manifest.decode()), encoding="utf-8")
            client.log_model_artifact(logged.model_id, str(path))
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
