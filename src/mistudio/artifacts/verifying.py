"""Whether artifacts are what was published, and how far that can be proved.

What is checked, for each: that every file is what the manifest lists and that there are no others; that kind,
settings, inputs and seed are those that its prefix was made from; that its digest is the one that others name, which
were made from it or are a name for it; and its signature, where this process has the key.

Nothing but a signature proves the figures of an artifact that nobody else names, nor who made it and when, which are no
part of a digest. And whoever can write the store can make all of it anew.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from pydantic import ValidationError

from mistudio.artifacts.artifact import Artifact, checked_uri, open_artifact
from mistudio.artifacts.inventory import artifact_uris
from mistudio.artifacts.kinds import KINDS, NAMED_KINDS, split_kind
from mistudio.artifacts.manifest import MANIFEST_NAME, Manifest, Recipe, is_reserved
from mistudio.artifacts.refs import references
from mistudio.artifacts.signing import SIGNING_KEY_ENV, signing_key
from mistudio.artifacts.store import Store
from mistudio.errors import ConfigError, DamagedArtifact, NotFound

Proof = Literal["signature", "digest", "none"]

_DIGITS_SHOWN = 12


class Verdict(NamedTuple):
    """What a check of one artifact found."""

    uri: str
    problems: tuple[str, ...]  # a line each
    proof: Proof  # what says that the manifest is the one that was published, where there are no problems
    is_unsigned: bool = False  # although this process has a key


class _Claim(NamedTuple):
    """That somebody names an artifact by its digest."""

    who: str
    digest: str


def verify(store: Store, uris: Iterable[str] | None = None) -> Iterator[Verdict]:
    """Check artifacts, each file by its hash; all of the store where none are named.

    Raises:
        NotFound: a prefix that was named is no artifact.
        StorageError: the store cannot be read.
    """
    claims, damaged_names = _claims(store)
    named = None if uris is None else [uri.strip("/") for uri in uris]
    for uri in artifact_uris(store) if named is None else named:
        try:
            yield _verdict(open_artifact(store, uri), claims)
        except DamagedArtifact as error:
            yield Verdict(uri, (str(error),), "none")
        except NotFound:
            if named is not None:
                raise
            continue  # removed since it was listed
    if named is None and damaged_names:
        yield Verdict("refs", tuple(damaged_names), "none")


def sign(store: Store, uri: str) -> None:
    """Sign the manifest of an artifact that was checked.

    Raises:
        NotFound: the prefix is no artifact.
        DamagedArtifact: it is not what was published, as far as can be told without a signature.
        ConfigError: this process has no key.
        StorageError: the store cannot be written.
    """
    key = signing_key()
    if key is None:
        message = f"There is no key to sign with: set {SIGNING_KEY_ENV}."
        raise ConfigError(message)
    uri = checked_uri(store, uri)
    with store.lease(uri):
        content = store.read(f"{uri}/{MANIFEST_NAME}")
        artifact = Artifact(store, uri, Manifest.from_json(content, f"{uri}/{MANIFEST_NAME}"))
        problems = _problems(artifact, _claims(store)[0])
        if problems:
            message = f"{uri} is not signed, for it is damaged: {problems[0]}."
            raise DamagedArtifact(message)
        key.sign(store, uri, content)


def _verdict(artifact: Artifact, claims: Mapping[str, list[_Claim]]) -> Verdict:
    store, uri, key = artifact.store, artifact.uri, signing_key()
    signed = key.finds(store, uri, store.read(f"{uri}/{MANIFEST_NAME}")) if key else None
    proof: Proof = "signature" if signed == "right" else "digest" if uri in claims else "none"
    return Verdict(uri, tuple(_problems(artifact, claims)), proof, is_unsigned=signed == "missing")


def _problems(artifact: Artifact, claims: Mapping[str, list[_Claim]]) -> list[str]:
    return [
        *_recipe_problems(artifact),
        *_listing_problems(artifact),
        *_contradictions(artifact, claims.get(artifact.uri, [])),
        *artifact.problems(),
    ]


def _recipe_problems(artifact: Artifact) -> Iterator[str]:
    """Whether the prefix is that of kind, settings, inputs and seed; an artifact with a name of its own has none."""
    manifest, folder = artifact.manifest, artifact.uri.partition("/")[0]
    kind, version = split_kind(manifest.kind)
    try:
        recipe = Recipe(
            kind=kind, schema_version=version, config=manifest.config, inputs=manifest.inputs, seed=manifest.seed
        )
    except ValidationError:
        yield f"{artifact.uri} says that it is of kind {manifest.kind}, which is none"
        return
    has_own_name = folder not in KINDS and folder != kind and (kind in NAMED_KINDS or kind not in KINDS)
    if recipe.prefix != artifact.uri and not has_own_name:
        yield (
            f"{artifact.uri}/{MANIFEST_NAME} was edited or moved: kind, settings, inputs and seed in it are those of "
            f"{recipe.prefix}"
        )


def _listing_problems(artifact: Artifact) -> Iterator[str]:
    """Files that the manifest does not list, or lists twice or under names with another use."""
    store, start = artifact.store, f"{artifact.uri}/"
    listed = Counter(entry.path for entry in artifact.manifest.files)
    for path, times in listed.items():
        if times > 1:
            yield f"{start}{MANIFEST_NAME} lists {path} {times} times"
        if is_reserved(path):
            yield f"{start}{MANIFEST_NAME} lists {path}, which is no file of an artifact"
    for name in store.list(artifact.uri):
        path = name.removeprefix(start)
        if path not in listed and not is_reserved(path):
            yield f"{name} is not listed in the manifest"
    for name in store.strays(artifact.uri):
        if name.removeprefix(start) not in listed:  # else it is missing, and said to be so
            yield f"{name} is a link or no plain file, and no part of the artifact"


def _contradictions(artifact: Artifact, claims: Iterable[_Claim]) -> Iterator[str]:
    for claim in claims:
        if claim.digest != artifact.digest:
            yield (
                f"{artifact.uri} has digest {artifact.digest[:_DIGITS_SHOWN]}, and {claim.who} names it with "
                f"{claim.digest[:_DIGITS_SHOWN]}: one of the two was edited, or {artifact.uri} was made anew"
            )


def _claims(store: Store) -> tuple[dict[str, list[_Claim]], list[str]]:
    """Who names which artifact with which digest, read from the manifests themselves; and damaged names."""
    claims: dict[str, list[_Claim]] = defaultdict(list)
    for uri in artifact_uris(store):
        try:
            manifest = open_artifact(store, uri).manifest
        except (DamagedArtifact, NotFound):
            continue
        for ref in manifest.inputs.values():
            claims[ref.uri].append(_Claim(uri, ref.digest))
    problems: list[str] = []
    try:
        for reference in references(store):
            target = reference.target
            if target.uri is not None and target.digest is not None:
                claims[target.uri].append(_Claim(f"the name {reference.kind}/{reference.name}", target.digest))
    except DamagedArtifact as error:
        problems.append(str(error))
    return dict(claims), problems
