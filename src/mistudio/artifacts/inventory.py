"""The prefixes of what a store holds, and removing an artifact; see ``catalog`` for finding them."""

from collections.abc import Iterator

from mistudio.artifacts.artifact import checked_uri
from mistudio.artifacts.manifest import MANIFEST_NAME
from mistudio.artifacts.names import is_name
from mistudio.artifacts.publishing import tidy
from mistudio.artifacts.record import ACTIONS
from mistudio.artifacts.refs import REFS, RUNS
from mistudio.artifacts.store import Store


def artifact_uris(store: Store, folder: str = "") -> Iterator[str]:
    """Prefixes of all published artifacts below ``folder``, sorted; nothing inside an artifact is looked at."""
    for file in store.outermost(MANIFEST_NAME, folder, skip=(ACTIONS, REFS, RUNS)):
        yield file.name.removesuffix(f"/{MANIFEST_NAME}")


def tidy_store(store: Store) -> int:
    """Drop what killed processes left that nobody goes on with; say how many files.

    That is what published artifacts were made with, and files that were being written. What an unfinished step has done
    stays, for it to go on with.

    Raises:
        StorageError: the store cannot be written.
    """
    return sum(tidy(store, uri) for uri in artifact_uris(store)) + store.sweep()


def remove_artifact(store: Store, uri: str) -> None:
    """Remove an artifact, damaged or not. Of links that were put into it go the links, and nothing that they lead to.

    The manifest goes last. A removal that is killed leaves an artifact that misses files, which any reader
    refuses; without its manifest, the rest would pass for the good work of a killed run and be gone on with.

    Raises:
        NotFound: the prefix has no manifest.
    """
    uri = checked_uri(store, uri)
    with store.lease(uri):
        manifest_name = f"{uri}/{MANIFEST_NAME}"
        links = [name for name in store.strays(uri) if is_name(name)]
        for name in [*links, *(name for name in store.list(uri) if name != manifest_name)]:
            store.remove(name)
        store.sweep(uri)
        store.remove(manifest_name)
