"""What a watch list sees in reference texts, kept so that a later version of the model can be held to it.

An artifact of kind ``reference``: token ids of texts, the value of each column in each, and activations at the hook
points on some of the tokens. The new version reads the same token ids; labels are needed neither now nor then.

Shape legend: S texts, T tokens of all texts, W columns, N tokens whose activations are kept, D width of a hook point.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, produce
from mistudio.errors import DamagedArtifact, InputError
from mistudio.monitor.revalidate.config import ReferenceConfig
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.settings import Settings

if TYPE_CHECKING:
    from mistudio.instrument.served import Served

KIND = "reference"
RECORD_NAME, TEXTS_NAME, ACTS_NAME = "reference.json", "texts.safetensors", "activations.safetensors"


class ReferenceRecord(Settings):
    """What an artifact says of itself: the content of ``reference.json``."""

    subject: str = Field(description="model that read the texts, for people")
    subject_digest: str = Field(description="of that model's content")
    watch_list: WatchList = Field(description="what was read")
    hooks: tuple[str, ...] = Field(description="hook points of its columns")
    num_prefix: int = Field(ge=0, description="special tokens at the start of each text")
    num_suffix: int = Field(ge=0, description="special tokens at the end")


@dataclass(frozen=True, eq=False)
class ReferenceTexts:
    """Reference texts, and what was seen in them.

    Attributes:
        record: of which model, and by which watch list.
        token_ids: of each text, special tokens included.
        value_SW: pooled values.
        acts: by hook point, of some tokens [N, D].
        row_N: which tokens those are, of all that are text, in the order of the texts.
    """

    record: ReferenceRecord
    token_ids: Sequence[NDArray[np.int32]]
    value_SW: NDArray[np.float32]
    acts: Mapping[str, NDArray[np.float32]]
    row_N: NDArray[np.int64]


def reference(
    served: "Served", corpus: Artifact, watch_list: WatchList, config: ReferenceConfig, seed: int = 0
) -> Produced:
    """Publish what a watch list sees in texts of a corpus.

    Args:
        served: the model with its autoencoders.
        corpus: artifact of kind ``corpus``, of this model's tokenizer.
        watch_list: what is read.
        config: how many texts.
        seed: of which ones.

    Raises:
        NotFound: an autoencoder, a feature or a direction is not there.
        InputError: a direction is of another model, or the list is one that was realigned.
    """
    if watch_list.realignment is not None:
        message = (
            f"The watch list is read through {watch_list.realignment}: make the reference on the old version, with the "
            "list as it was for that one. It serves for all later versions."
        )
        raise InputError(message)
    source = served.session.source
    inputs = {"corpus": corpus.ref} | {f"sae{n}": one.line.sae.ref for n, one in enumerate(served.features)}
    if source is not None:
        inputs["subject"] = InputRef(uri=source.uri, digest=source.digest)
    settings = {**config.model_dump(mode="json"), "watch_list": watch_list.model_dump(mode="json")}
    recipe = Recipe(kind=KIND, config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        return _write(draft, _read(served, corpus, watch_list, config, seed))

    return produce(served.store, recipe, "reference", build)


def open_reference(artifact: Artifact) -> ReferenceTexts:
    """The texts of an artifact of kind ``reference``.

    Raises:
        DamagedArtifact: its files do not belong together.
    """
    from safetensors.numpy import load_file

    try:
        record = ReferenceRecord.model_validate_json(artifact.file(RECORD_NAME).read_bytes())
        texts, acts = load_file(artifact.file(TEXTS_NAME)), load_file(artifact.file(ACTS_NAME))
        token_ids = np.split(texts["token_ids"], np.cumsum(texts["lengths"])[:-1])
        found = ReferenceTexts(record, token_ids, texts["values"], {hook: acts[hook] for hook in record.hooks},
                               texts["rows"])  # fmt: skip
    except (ValidationError, KeyError) as error:
        message = f"{artifact.uri} is damaged: {error}"
        raise DamagedArtifact(message) from error
    return found


def corpus_of(store: Store, served: "Served", uri: str | None) -> Artifact:
    """The corpus that was named, or that of the first autoencoder's line."""
    from mistudio.artifacts import open_artifact

    return open_artifact(store, uri, "corpus") if uri else served.features[0].line.corpus


def _read(
    served: "Served", corpus: Artifact, watch_list: WatchList, config: ReferenceConfig, seed: int
) -> ReferenceTexts:
    from mistudio.corpus.reader import TokenCorpus
    from mistudio.monitor.revalidate.reading import ColumnReader

    tokens = TokenCorpus(corpus)
    draw = np.random.default_rng(seed)
    numbers = np.sort(draw.permutation(tokens.num_sequences(config.split))[: config.max_texts]).astype(np.int64)
    token_ids = [np.asarray(ids, dtype=np.int32) for ids in tokens.batch(config.split, numbers).token_ids]
    reader = ColumnReader(served, watch_list)
    num_rows = sum(max(len(ids) - tokens.num_prefix - tokens.num_suffix, 0) for ids in token_ids)
    row_N = np.sort(draw.permutation(num_rows)[: config.max_tokens]).astype(np.int64)
    found = reader.read(token_ids, tokens.num_prefix, tokens.num_suffix, row_N)
    source = served.session.source
    record = ReferenceRecord(
        subject=source.uri if source else served.name,
        subject_digest=source.digest if source else "",
        watch_list=watch_list,
        hooks=reader.hooks,
        num_prefix=tokens.num_prefix,
        num_suffix=tokens.num_suffix,
    )
    return ReferenceTexts(record, token_ids, found.value_SW, found.acts, row_N)


def _write(draft: Draft, found: ReferenceTexts) -> Summary:
    from safetensors.numpy import save_file

    lengths_S = np.array([len(ids) for ids in found.token_ids], dtype=np.int64)
    texts: dict[str, NDArray[np.generic]] = {"token_ids": np.concatenate(found.token_ids), "lengths": lengths_S}
    texts |= {"values": found.value_SW, "rows": found.row_N}
    with draft.stage(TEXTS_NAME) as path:
        save_file(texts, path)
    with draft.stage(ACTS_NAME) as path:
        save_file(dict(found.acts), path)
    draft.write(RECORD_NAME, json.dumps(found.record.model_dump(mode="json"), indent=1).encode())
    return {
        "texts": len(lengths_S),
        "tokens": int(lengths_S.sum()),
        "columns": found.value_SW.shape[1],
        "hooks": ", ".join(found.record.hooks),
        "never_fires": int((found.value_SW == found.value_SW[:1]).all(axis=0).sum()),
    }
