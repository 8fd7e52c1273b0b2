"""The step ``index``: from an autoencoder to an index of its decoder directions."""

from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, Draft, JsonScalar, Produced, Recipe, Store, Summary, open_input, produce
from mistudio.correlate.index.config import IndexConfig
from mistudio.correlate.index.files import FAISS_NAME, KIND, Record, write_record
from mistudio.errors import InputError

if TYPE_CHECKING:
    from mistudio.correlate.index.building import Built, Decoder


def index(
    store: Store, sae: Artifact, config: IndexConfig, seed: int = 0, explanations: Artifact | None = None
) -> Produced:
    """Publish an index of an autoencoder's decoder directions, and what share of the nearest it finds.

    Args:
        store: where it is published.
        sae: the autoencoder.
        config: which index.
        seed: of the queries that it is tried with, and of the rows that codes are fitted to.
        explanations: of the autoencoder's features, whose words are indexed too; servers then need not do it.

    Raises:
        ConfigError: there are too few features for the kind of index, or faiss is not installed.
        InputError: the decoder has no directions, or the explanations are of another autoencoder.
        DamagedArtifact: a file of the autoencoder is not what was published.
    """
    inputs = {"sae": sae.ref} | ({} if explanations is None else {"explanations": explanations.ref})
    recipe = Recipe(kind=KIND, config=config.model_dump(mode="json"), inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        texts = {} if explanations is None else {"texts": _write_texts(draft, sae, explanations)}
        return {**_make(draft, sae, config, seed), **texts}

    return produce(store, recipe, "index", build)


def _write_texts(draft: Draft, sae: Artifact, explanations: Artifact) -> int:
    """Write the index of the explanations' words, and say how many texts there are."""
    from mistudio.correlate.concepts.text_index import TEXTS_NAME, write_text_index
    from mistudio.features import FeatureSet

    features = open_input(explanations.store, explanations.manifest.inputs["features"], "features")
    if features.manifest.inputs["sae"].digest != sae.digest:
        message = f"{explanations.uri} explains features of {features.manifest.inputs['sae'].uri}, not of {sae.uri}."
        raise InputError(message)
    with draft.stage(TEXTS_NAME) as path:
        path.unlink(missing_ok=True)
        return write_text_index(FeatureSet(features, explanations), path)


def _make(draft: Draft, sae: Artifact, config: IndexConfig, seed: int) -> Summary:
    decoder = _decoder(sae, config, seed)
    built, notes = _chosen(decoder, config)
    num_features, width = decoder.decoder_FD.shape
    record = Record(
        kind=built.kind if built else "flat",
        made=built.made if built else "",
        num_features=num_features,
        width=width,
        candidates=built.candidates if built else 0,
        breadth=built.breadth if built else 0,
    )
    num_bytes = _write(draft, built)
    write_record(draft, record, decoder.scale_F)
    return {**_summary(record, decoder, built, config), "bytes": num_bytes, **notes}


def _decoder(sae: Artifact, config: IndexConfig, seed: int) -> "Decoder":
    from mistudio.correlate.index.building import Decoder
    from mistudio.correlate.index.decoder_rows import mapped_decoder, mapped_encoder, scales
    from mistudio.correlate.index.queries import sample_queries

    decoder_FD = mapped_decoder(sae)
    scale_F = scales(decoder_FD)
    return Decoder(decoder_FD, scale_F, sample_queries(decoder_FD, mapped_encoder(sae), config.queries, seed), seed)


def _chosen(decoder: "Decoder", config: IndexConfig) -> "tuple[Built | None, dict[str, JsonScalar]]":
    """What is made, None for flat, and what has to be said of it."""
    from mistudio.correlate.index.building import build_index

    if config.kind == "flat" or (config.kind == "auto" and decoder.decoder_FD.size <= config.flat_weights):
        return None, {}
    if config.kind != "auto":
        built = build_index(config.kind, decoder, config)
        short = _short(built, config)
        return built, {"warning": f"{short}: look-ups miss features"} if short else {}
    built = build_index("codes", decoder, config)
    short = _short(built, config)
    return (None, {"note": f"{short}: flat was made instead"}) if short else (built, {})


def _short(built: "Built", config: IndexConfig) -> str:
    """How an index falls short of what was asked for; empty where it does not."""
    if built.least_recall >= config.recall:
        return ""
    return f"{built.kind} finds {built.least_recall:.4f} of the nearest 10, and {config.recall:g} was asked for"


def _write(draft: Draft, built: "Built | None") -> int:
    """Write what faiss made, and say how large it is."""
    if built is None:
        return 0
    from mistudio.correlate.index.kinds import save_index

    with draft.stage(FAISS_NAME) as path:
        save_index(built.index, path)
        return path.stat().st_size


def _summary(record: Record, decoder: "Decoder", built: "Built | None", config: IndexConfig) -> dict[str, JsonScalar]:
    summary: dict[str, JsonScalar] = {"kind": record.kind, "made": record.made, "features": record.num_features}
    summary |= {"width": record.width, "zero_directions": int((decoder.scale_F == 0).sum())}
    summary |= {"decoder_bytes": decoder.decoder_FD.nbytes, "candidates": record.candidates, "breadth": record.breadth}
    summary |= {"recall_asked": config.recall, "recall_at_10": round(built.least_recall, 6) if built else 1.0}
    for kind, value in built.recall.items() if built else ():
        summary |= {f"recall_at_10.{kind}": round(value, 6), f"queries.{kind}": len(decoder.queries[kind]) // 2}
    return summary
