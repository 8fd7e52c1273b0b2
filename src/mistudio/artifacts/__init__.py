"""Artifacts: what steps publish, where, and how it is checked when read."""

from typing import TYPE_CHECKING

from mistudio.artifacts.artifact import Artifact, open_artifact, open_input
from mistudio.artifacts.draft import Draft
from mistudio.artifacts.graph import Edge, Graph, Node, ancestry
from mistudio.artifacts.hashing import HashingWriter, hash_file
from mistudio.artifacts.inventory import artifact_uris, remove_artifact, tidy_store
from mistudio.artifacts.kinds import check_version
from mistudio.artifacts.line import Line
from mistudio.artifacts.manifest import FileEntry, InputRef, JsonScalar, Manifest, Producer, Recipe, canonical_json
from mistudio.artifacts.names import check_name
from mistudio.artifacts.opening import open_if_there, open_store, open_to_read, store_url
from mistudio.artifacts.publishing import Produced, Summary, find, produce, produce_together
from mistudio.artifacts.record import Action, actions, record_action, verify_actions
from mistudio.artifacts.refs import RUNS, Reference, add_reference, find_reference, reference_history, references
from mistudio.artifacts.scratch import scratch_folder
from mistudio.artifacts.signing import SIGNING_KEY_ENV
from mistudio.artifacts.store import Store, StoredFile
from mistudio.artifacts.urls import default_store_url
from mistudio.artifacts.verifying import Verdict, sign, verify

if TYPE_CHECKING:
    from mistudio.artifacts.catalog import Catalog
    from mistudio.artifacts.index import Entry
else:  # they import SQLite, which no step needs
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "catalog", "index")

__all__ = [
    "Action",
    "Artifact",
    "Catalog",
    "Draft",
    "Edge",
    "Entry",
    "FileEntry",
    "Graph",
    "HashingWriter",
    "InputRef",
    "JsonScalar",
    "Line",
    "Manifest",
    "Node",
    "Produced",
    "Producer",
    "RUNS",
    "Recipe",
    "Reference",
    "SIGNING_KEY_ENV",
    "Store",
    "StoredFile",
    "Summary",
    "Verdict",
    "actions",
    "add_reference",
    "ancestry",
    "artifact_uris",
    "canonical_json",
    "check_name",
    "check_version",
    "default_store_url",
    "find",
    "find_reference",
    "hash_file",
    "open_artifact",
    "open_input",
    "open_if_there",
    "open_store",
    "open_to_read",
    "produce",
    "produce_together",
    "record_action",
    "reference_history",
    "references",
    "remove_artifact",
    "scratch_folder",
    "sign",
    "store_url",
    "tidy_store",
    "verify",
    "verify_actions",
]
