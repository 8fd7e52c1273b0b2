"""Reference profiles as artifacts, and where they come from: captured activations, traffic, or a search alone.

An artifact of kind ``profile`` holds what :class:`~mistudio.monitor.drift.profile.Profile` does. One of stored
activations is found again by its recipe; of traffic, by the digest of what was counted.

Shape legend: F features of an autoencoder.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from mistudio.artifacts import Artifact, Draft, InputRef, Line, Produced, Recipe, Store, Summary, find, produce
from mistudio.corpus.statistics import Split
from mistudio.errors import DamagedArtifact, NotFound
from mistudio.monitor.drift.profile import ColumnProfile, FiringProfile, Profile
from mistudio.monitor.drift.stored_firing import Unit, stored_profile
from mistudio.settings import Settings

if TYPE_CHECKING:
    from mistudio.features import FeatureSet

KIND = "profile"
RECORD_NAME, COUNTS_NAME = "profile.json", "counts.safetensors"


class ProfileConfig(Settings):
    """What texts of a corpus are counted."""

    split: Split = Field("train", description="of the corpus")
    unit: Unit = Field(
        "document", description="what a text is: document, or sequence, which is as long as the context at most"
    )
    max_texts: int | None = Field(None, ge=1, description="texts at most, from the start; None: all")


class ProfileRecord(Settings):
    """The content of ``profile.json``."""

    num_texts: dict[str, int] = Field(description="by autoencoder, texts that were read")
    num_tokens: dict[str, int] = Field(description="by autoencoder, tokens of them")
    names: tuple[str, ...] = Field((), description="of the watched columns")
    identities: tuple[str, ...] = Field((), description="of the watched columns, digests of what each reads")
    num_column_texts: int = Field(0, ge=0, description="texts that columns were counted in")
    about: dict[str, str] = Field({}, description="what it was measured on, for people")


def line_profile(line: Line, config: ProfileConfig) -> Produced:
    """Publish what is usual in the corpus that an autoencoder's activations were captured from.

    Raises:
        InputError: the activations are not in the store.
    """

    def build(draft: Draft) -> Summary:
        return _write(draft, stored_profile(line, config.split, config.unit, config.max_texts))

    return produce(line.store, _recipe(line, config), "profile", build)


def usual_of(line: Line, config: ProfileConfig | None = None) -> Profile:
    """The same without publishing anything: read where it is there, counted where it is not.

    Where the activations are gone, the search alone is left: it says on how many tokens features fire, not in how many
    texts, so that what is usual has to be learnt from traffic.
    """
    config = config or ProfileConfig()
    try:
        published = find(line.store, _recipe(line, config))
        return (
            open_profile(published) if published else stored_profile(line, config.split, config.unit, config.max_texts)
        )
    except NotFound:
        from mistudio.features import FeatureSet

        if line.features is None:
            raise
        return searched_profile(FeatureSet(line.features), line.sae.uri)


def searched_profile(features: "FeatureSet", uri: str) -> Profile:
    """What a search says: tokens that each feature fires on, and nothing of texts."""
    tokens_F = features.column("count").to_numpy(zero_copy_only=False).astype(np.int64)
    fired = {uri: FiringProfile(0, features.about.num_tokens, np.zeros_like(tokens_F), tokens_F)}
    return Profile(fired, None, {"features": features.artifact.uri})


def publish_profile(store: Store, profile: Profile, inputs: Mapping[str, InputRef]) -> Produced:
    """Publish what was counted elsewhere, as in traffic."""
    recipe = Recipe(kind=KIND, config={"counted": profile.digest, "about": dict(profile.about)}, inputs=dict(inputs))
    return produce(store, recipe, "profile", lambda draft: _write(draft, profile))


def joined(profiles: Iterable[Profile]) -> Profile:
    """Profiles of several autoencoders as one; columns are those of the first that has any."""
    found = list(profiles)
    fired = {uri: each for one in found for uri, each in one.fired.items()}
    about = {name: text for one in found for name, text in one.about.items()}
    return Profile(fired, next((one.columns for one in found if one.columns is not None), None), about)


def open_profile(artifact: Artifact) -> Profile:
    """The profile of an artifact.

    Raises:
        DamagedArtifact: its files do not belong together.
    """
    from safetensors.numpy import load_file

    try:
        record = ProfileRecord.model_validate_json(artifact.file(RECORD_NAME).read_bytes())
        arrays = load_file(artifact.file(COUNTS_NAME))
        fired = {
            uri: FiringProfile(count, record.num_tokens[uri], arrays[f"{uri}.texts"], arrays[f"{uri}.tokens"])
            for uri, count in record.num_texts.items()
        }
        columns = None
        if record.names:
            identities = record.identities or ("",) * len(record.names)
            columns = ColumnProfile(record.names, identities, record.num_column_texts, arrays["cuts"], arrays["above"])
    except (ValidationError, KeyError) as error:
        message = f"{artifact.uri} is damaged: {error}"
        raise DamagedArtifact(message) from error
    return Profile(fired, columns, record.about)


def inputs_of(saes: Sequence[Artifact]) -> dict[str, InputRef]:
    """Autoencoders as inputs of an artifact."""
    return {"sae" if number == 0 else f"sae{number}": sae.ref for number, sae in enumerate(saes)}


def _recipe(line: Line, config: ProfileConfig) -> Recipe:
    inputs = {"sae": line.sae.ref, "activations": line.activations.ref}
    return Recipe(kind=KIND, config=config.model_dump(mode="json"), inputs=inputs)


def _write(draft: Draft, profile: Profile) -> Summary:
    from safetensors.numpy import save_file

    arrays: dict[str, NDArray[np.generic]] = {}
    for uri, own in profile.fired.items():
        arrays |= {f"{uri}.texts": own.texts_F, f"{uri}.tokens": own.tokens_F}
    columns = profile.columns
    if columns is not None:
        arrays |= {"cuts": columns.cut_WL, "above": columns.above_WL}
    with draft.stage(COUNTS_NAME) as path:
        save_file(arrays, path)
    record = ProfileRecord(
        num_texts={uri: own.num_texts for uri, own in profile.fired.items()},
        num_tokens={uri: own.num_tokens for uri, own in profile.fired.items()},
        names=columns.names if columns else (),
        identities=columns.identities if columns else (),
        num_column_texts=columns.num_texts if columns else 0,
        about=dict(profile.about),
    )
    draft.write(RECORD_NAME, json.dumps(record.model_dump(mode="json"), indent=1).encode())
    fired = list(profile.fired.values())
    return {
        "texts": max((own.num_texts for own in fired), default=0),
        "features": sum(len(own.texts_F) for own in fired),
        "never_fire": int(sum((own.texts_F == 0).sum() for own in fired)),
        "columns": len(record.names),
    }
