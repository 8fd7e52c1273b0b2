"""Artifacts: what steps publish, where, and how it is checked when read."""

from mistudio.artifacts.artifact import Artifact, open_artifact, open_input
from mistudio.artifacts.draft import Draft
from mistudio.artifacts.hashing import hash_file
from mistudio.artifacts.inventory import artifact_uris, dependents, list_artifacts, remove_artifact
from mistudio.artifacts.manifest import FileEntry, InputRef, JsonScalar, Manifest, Producer, Recipe, canonical_json
from mistudio.artifacts.names import check_name
from mistudio.artifacts.opening import default_store_url, open_store
from mistudio.artifacts.publishing import Produced, Summary, find, produce, produce_together
from mistudio.artifacts.scratch import scratch_folder
from mistudio.artifacts.store import Store, StoredFile

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
    "StoredFile",
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
    "scratch_folder",
]
