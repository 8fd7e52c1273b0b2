"""Artifacts: what steps publish, where, and how it is checked when read."""

from mistudio.artifacts.artifact import (
    Artifact,
    Draft,
    Produced,
    Summary,
    find,
    hash_file,
    open_artifact,
    open_input,
    produce,
    produce_together,
)
from mistudio.artifacts.inventory import artifact_uris, dependents, list_artifacts, remove_artifact
from mistudio.artifacts.manifest import FileEntry, InputRef, JsonScalar, Manifest, Producer, Recipe, canonical_json
from mistudio.artifacts.store import Store, check_name, default_store_url, open_store

__all__ = [
    "Artifact",
    "Draft",
    "FileEntry",
    "InputRef",
    "JsonScalar",
    "Manifest",
    "Produced",
    "Producer",
    "Recipe",
    "Store",
    "Summary",
    "artifact_uris",
    "canonical_json",
    "check_name",
    "default_store_url",
    "dependents",
    "find",
    "hash_file",
    "list_artifacts",
    "open_artifact",
    "open_input",
    "open_store",
    "produce",
    "produce_together",
    "remove_artifact",
]
