"""Making an artifact once.

``produce`` is the only way to publish: it returns the artifact at once if it is there, and otherwise calls ``build``
with a :class:`Draft` that knows which files a killed run has left finished.
"""

import datetime
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from mistudio.artifacts.artifact import Artifact, open_artifact
from mistudio.artifacts.draft import Draft
from mistudio.artifacts.kinds import qualified_kind
from mistudio.artifacts.manifest import MANIFEST_NAME, WORK, JsonScalar, Manifest, Producer, Recipe
from mistudio.artifacts.signing import signing_key
from mistudio.artifacts.store import Store
from mistudio.errors import ConfigError, NotFound, StorageError
from mistudio.version import COMMIT_ENV, IMAGE_ENV, __version__

logger = logging.getLogger(__name__)

Summary = Mapping[str, JsonScalar]


class Produced(NamedTuple):
    """What ``produce`` returns."""

    artifact: Artifact
    found: bool  # published before: nothing was computed


def produce(
    store: Store, recipe: Recipe, step: str, build: Callable[[Draft], Summary], prefix: str | None = None
) -> Produced:
    """Return the artifact of ``recipe``; build and publish it if it is not there yet.

    ``build`` writes the files through the draft and returns the summary. A killed run is gone on with:
    ``build`` asks ``draft.has`` and the working files what is already done.

    Args:
        store: where it is published, or found; only the latter where the store is read only.
        recipe: all that determines its bytes.
        step: who makes it.
        build: how.
        prefix: where, for an artifact with a name of its own; what is found there may have another recipe.

    Raises:
        StorageError: the store cannot be written.
    """
    prefix = prefix or recipe.prefix
    signing_key()  # one that cannot be used is known before the work
    found = _published(store, prefix)
    if found:
        tidy(store, prefix)
        return Produced(found, found=True)
    with store.lease(prefix):
        found = _published(store, prefix)  # another process may have published it while we waited
        if found:
            return Produced(found, found=True)
        started = time.monotonic()
        draft = Draft(store, prefix)
        summary = build(draft)
        manifest = Manifest(
            kind=qualified_kind(recipe.kind, recipe.schema_version),
            config=recipe.config,
            seed=recipe.seed,
            inputs=recipe.inputs,
            files=draft.entries(),
            summary=dict(summary),
            producer=_producer(step, time.monotonic() - started),
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        produced = _publish(store, prefix, manifest)
        _drop_work(draft)
    return produced


def tidy(store: Store, uri: str) -> int:
    """Drop what a published artifact was made with, where a kill left it; say how many files.

    Left by a process that ended between publication and its own tidying. A store that cannot be written stays as it is.
    """
    if store.read_only or f"{uri}/{WORK}" not in store.folders(uri):
        return 0
    try:
        with store.lease(uri):
            return _drop_work(Draft(store, uri)) if store.size(f"{uri}/{MANIFEST_NAME}") is not None else 0
    except StorageError as error:
        logger.info("What %s was made with stays: %s", uri, error)
        return 0


def _drop_work(draft: Draft) -> int:
    """Drop working files, and what killed writers left half written; the lease is held."""
    names = draft.work_names()
    for name in names:
        draft.remove_work(name)
    return len(names) + draft.store.sweep(draft.prefix)


def produce_together(
    store: Store, recipes: Sequence[Recipe], step: str, build: Callable[[dict[int, Draft]], dict[int, Summary]]
) -> list[Produced]:
    """Return the artifacts of ``recipes``; build all that are not there yet in one go, and publish them.

    ``build`` gets the drafts of those that are not there, by their place in ``recipes``, and returns their
    summaries.

    Raises:
        ConfigError: two recipes are the same.
        StorageError: the store cannot be written.
    """
    prefixes = [recipe.prefix for recipe in recipes]
    if len(set(prefixes)) < len(prefixes):
        message = f"The same {recipes[0].kind} is asked for twice. Leave out one of the two."
        raise ConfigError(message)
    drafts: dict[int, Draft] = {}
    summaries: dict[int, Summary] = {}
    produced: dict[int, Produced] = {}

    def go_on(numbers: list[int]) -> None:
        """Hold the leases of all that are missing, one within the other, around the one build."""
        if not numbers:
            summaries.update(build(drafts) if drafts else {})
            return
        number, others = numbers[0], numbers[1:]

        def hold(draft: Draft) -> Summary:
            drafts[number] = draft
            go_on(others)
            return summaries[number]

        produced[number] = produce(store, recipes[number], step, hold)
        if number not in drafts:  # it was there
            go_on(others)

    go_on(sorted(range(len(recipes)), key=prefixes.__getitem__))  # one order for all, or two could wait for each other
    return [produced[number] for number in range(len(recipes))]


def find(store: Store, recipe: Recipe) -> Artifact | None:
    """The published artifact of ``recipe``, if there is one."""
    return _published(store, recipe.prefix)


def _published(store: Store, prefix: str) -> Artifact | None:
    try:
        return open_artifact(store, prefix)
    except NotFound:
        return None


def _publish(store: Store, prefix: str, manifest: Manifest) -> Produced:
    """Write the manifest; where another was first, its artifact is the one that counts."""
    content = manifest.to_json()
    if store.create(f"{prefix}/{MANIFEST_NAME}", content):
        key = signing_key()
        if key is not None:
            key.sign(store, prefix, content)
        return Produced(Artifact(store, prefix, manifest), found=False)
    first = open_artifact(store, prefix)
    if first.digest != manifest.digest:
        logger.warning(
            "%s was published by another process meanwhile, with digest %s; made here it has %s. What was published "
            "first is kept.",
            prefix,
            first.digest[:12],
            manifest.digest[:12],
        )
    return Produced(first, found=True)


def _producer(step: str, seconds: float) -> Producer:
    return Producer(
        step=step,
        version=__version__,
        git_commit=os.environ.get(COMMIT_ENV) or _git_commit(),
        image=os.environ.get(IMAGE_ENV),
        seconds=round(seconds, 3),
    )


@lru_cache(maxsize=1)
def _git_commit() -> str | None:
    """The commit of the checkout that this library runs from, if it runs from one."""
    root = Path(__file__).parents[3]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    command = [git, "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- no shell, no input
    return done.stdout.strip() or None
