"""MLflow's registry of models as a mirror of the names in the store, which are what counts.

What is registered, its numbers and its aliases are the store's (:mod:`mistudio.artifacts.models`). The mirror is made
to look like that: versions that MLflow lacks are made, aliases are moved. So it may be made at any time and again.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mistudio.redaction import redact
from mistudio.tracking import models
from mistudio.tracking.client import connected
from mistudio.tracking.connection import Connection
from mistudio.tracking.models import DIGEST_TAG, Model

_VERSIONS_TAG = "mlflow.modelVersions"
_ABOUT = "Versions of an autoencoder, registered by miStudio; the weights lie in its store, at `sae.uri`."


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered autoencoder.

    Attributes:
        number: the store's.
        model: the autoencoder.
        tags: its lineage and figures.
        description: Markdown.
    """

    number: int
    model: Model
    tags: Mapping[str, object] = field(default_factory=dict)
    description: str = ""


def mirrored_digests(store_url: str, connection: Connection, name: str) -> set[str]:
    """Digests of the autoencoders that MLflow's registry has as versions of a model."""
    return connection.ask(lambda: set(_versions(connected(store_url)[0], name))) or set()


def mirror_registry(
    store_url: str, connection: Connection, name: str, new: Sequence[RegisteredVersion], aliases: Mapping[str, str]
) -> None:
    """Make MLflow's registry say of a model what the store says.

    Args:
        store_url: the store.
        connection: what MLflow is asked by; what fails is told by it, in one line.
        name: of the registered model.
        new: the versions that the registry lacks, the first first.
        aliases: alias -> digest of the autoencoder that it stands for.
    """
    connection.ask(lambda: _mirror(*connected(store_url), name, new, aliases))


def _mirror(
    client: Any, experiment: str, name: str, new: Sequence[RegisteredVersion], aliases: Mapping[str, str]
) -> None:
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it is there; if it is not, what follows says so
        client.create_registered_model(name, description=_ABOUT)
    there = _versions(client, name)  # another process may have been here since
    for version in new:
        if version.model.digest not in there:
            there[version.model.digest] = _create(client, experiment, name, version)
    current = client.get_registered_model(name).aliases
    for alias, digest in aliases.items():
        if str(current.get(alias, "")) != there[digest]:
            client.set_registered_model_alias(name, alias, there[digest])


def _versions(client: Any, name: str) -> dict[str, str]:
    """Digest -> number in MLflow, of all versions of a model that were registered from here."""
    found: dict[str, str] = {}
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found |= {each.tags[DIGEST_TAG]: str(each.version) for each in page if DIGEST_TAG in each.tags}
        token = page.token
        if not token:
            return found


def _create(client: Any, experiment: str, name: str, version: RegisteredVersion) -> str:
    """Make a version out of the logged model, which says where it comes from; its number in MLflow."""
    logged = models.find_or_log(client, experiment, version.model, None)
    tags = {**version.tags, "sae.uri": version.model.uri, DIGEST_TAG: version.model.digest, "version": version.number}
    made = client.create_model_version(
        name,
        logged.artifact_location,
        logged.source_run_id,
        {key: redact(str(value)) for key, value in tags.items()},
        description=redact(version.description),
        model_id=logged.model_id,
    )
    client.set_logged_model_tags(logged.model_id, {_VERSIONS_TAG: _with_version(logged.tags, made)})
    return str(made.version)


def _with_version(tags: Mapping[str, str], made: Any) -> str:
    """The versions that a logged model has become, by which MLflow's pages of models link to them."""
    known: list[dict[str, str]] = json.loads(tags.get(_VERSIONS_TAG, "[]"))
    return json.dumps([*known, {"name": made.name, "version": str(made.version)}])
