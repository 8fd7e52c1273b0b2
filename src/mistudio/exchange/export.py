"""Export of found features, with what was said of them, in one of four formats."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from mistudio.artifacts import Artifact, Line, Store
from mistudio.errors import ConfigError, InputError
from mistudio.exchange.names import Names
from mistudio.exchange.neuronpedia import (
    batch_feature,
    batch_head,
    tree_activations,
    tree_explanation,
    tree_feature,
    tree_metadata,
)
from mistudio.exchange.reading import Found, Origin, open_origin, read_found, read_places
from mistudio.exchange.writing import chunks, json_lines, new_folder, write_batch, write_table_lines
from mistudio.explain import read_explanations
from mistudio.explain.records import Explanation
from mistudio.features import EXPLANATIONS, FEATURES, LABELS, SCORES, FeatureSet, check_settings
from mistudio.features.overlay import OverlaidReader, Overlay
from mistudio.features.tables import TableReader
from mistudio.paths import given_path
from mistudio.plain_text import shortened
from mistudio.progress import progress

TREE, BATCHES, LINES, PARQUET = "neuronpedia", "neuronpedia-batch", "jsonl", "parquet"
FORMATS = (TREE, BATCHES, LINES, PARQUET)
WITH_EFFECTS = (LINES, PARQUET)  # have a place for what features do in the model
_VERSION = "v1"
_BATCH_FEATURES = 128
_TREE_ROWS = 1024


class Exported(NamedTuple):
    """What was written."""

    folder: Path
    num_files: int
    rows: dict[str, int]  # how many of each thing; ``left_out`` are explanations without a text


class _Given(NamedTuple):
    """What there is to export."""

    features: Artifact
    explanations: Artifact | None
    scores: Artifact | None
    trials: Artifact | None = None


def export_features(
    store: Store,
    features: Artifact,
    folder: Path,
    format_name: str,
    explanations: Artifact | None = None,
    scores: Artifact | None = None,
    names: Names | None = None,
    trials: Artifact | None = None,
) -> Exported:
    """Write found features, and what was said of them, into ``folder``, which appears whole or not at all.

    Args:
        store: holds the artifacts behind them.
        features: artifact of kind ``features``.
        folder: where to write; for neuronpedia the source gets a folder of its own in it.
        format_name: one of ``FORMATS``.
        explanations: artifact of kind ``explanations`` of these features.
        scores: artifact of kind ``scores``, of these explanations; they come with it if they are not given.
        names: what the export is called at Neuronpedia.
        trials: artifact of kind ``trials`` of these features, with the settings of their search: what was tried in the
            model later stands in the table of features as if find had tried it.

    Raises:
        ConfigError: the format is unknown or has no place for what is given, or the folder is not empty.
        InputError: explanations, scores or trials are of other features, or the trials have other settings.
        StorageError: the folder cannot be written.
    """
    if format_name not in FORMATS:
        message = f"Format {shortened(format_name)} is unknown: use one of {', '.join(FORMATS)}."
        raise ConfigError(message)
    folder = given_path(folder, "The export")
    _check_place(format_name, explanations, scores, trials)
    check_settings(features, trials)
    given = _Given(features, _explanations(store, explanations, scores), scores, trials)
    _check_features(given)
    if format_name in WITH_EFFECTS:
        return _tables(given, folder, format_name)
    origin = open_origin(store, features)
    filled = (names or Names()).filled(origin)
    if format_name == BATCHES:
        return _batches(origin, folder, filled)
    return _tree(given, origin, folder / _VERSION / filled.model_id / filled.source(origin), filled)


def _check_place(
    format_name: str, explanations: Artifact | None, scores: Artifact | None, trials: Artifact | None
) -> None:
    """Refuse what the format cannot hold."""
    given = {"explanations": explanations, "scores": scores, "trials": trials}
    no_place = {TREE: ("scores", "trials"), BATCHES: ("explanations", "scores", "trials")}.get(format_name, ())
    too_much = [name for name in no_place if given[name] is not None]
    if too_much:
        message = (
            f"The format {format_name} has no place for {' and '.join(too_much)}: leave them out, or use "
            f"{LINES} or {PARQUET}{f' or {TREE}' if too_much == ['explanations'] else ''}."
        )
        raise ConfigError(message)


def _explanations(store: Store, explanations: Artifact | None, scores: Artifact | None) -> Artifact | None:
    """The explanations that are given, or those that the scores are of."""
    if scores is None:
        return explanations
    scored = scores.manifest.inputs["explanations"]
    if explanations is not None and explanations.digest != scored.digest:
        message = (
            f"{scores.uri} holds scores of {scored.uri}, not of {explanations.uri}: give those that belong together."
        )
        raise InputError(message)
    return explanations or Line(store, scores).explanations


def _check_features(given: _Given) -> None:
    if given.explanations is None:
        return
    explained = given.explanations.manifest.inputs["features"]
    if explained.digest != given.features.digest:
        message = f"{given.explanations.uri} explains {explained.uri}, not {given.features.uri}: give those that do."
        raise InputError(message)


def _tables(given: _Given, folder: Path, format_name: str) -> Exported:
    """One file for each table."""
    wanted = [_features(given)]
    if given.explanations is not None:
        wanted += [TableReader(given.explanations, table) for table in (EXPLANATIONS, LABELS)]
    if given.scores is not None:
        wanted.append(TableReader(given.scores, SCORES))
    rows = {}
    with new_folder(folder) as partial, progress("Export tables", len(wanted), "tables") as bar:
        for reader in wanted:
            path = partial / f"{Path(reader.table.name).stem}.{format_name}"
            if format_name == PARQUET:
                rows[path.stem] = _write_parquet(reader, path)
            else:
                rows[path.stem] = write_table_lines(reader.groups(), path)
            bar.advance()
    return Exported(folder, len(wanted), rows)


def _features(given: _Given) -> TableReader:
    """The table of features, with what was tried later."""
    if given.trials is None:
        return TableReader(given.features, FEATURES)
    FeatureSet(given.features, trials=given.trials)  # refuses those of other features
    return OverlaidReader(given.features, Overlay(given.trials), of_contexts=False)


def _write_parquet(reader: TableReader, path: Path) -> int:
    """Write a table as one file; return how many rows there are."""
    rows = 0
    with pq.ParquetWriter(path, reader.table.schema, compression="zstd") as writer:
        for group in reader.groups():
            writer.write_table(group)
            rows += len(group)
    return rows


def _batches(origin: Origin, folder: Path, names: Names) -> Exported:
    num_files = rows = 0
    with new_folder(folder) as partial:
        for number, chunk in enumerate(chunks(_shown(origin), _BATCH_FEATURES)):
            features = (batch_feature(found, origin) for found in chunk)
            write_batch(partial / f"batch-{number}.json", batch_head(names, origin), "features", features)
            num_files = number + 1
        rows = origin.features.num_features
    return Exported(folder, num_files, {"features": rows})


def _tree(given: _Given, origin: Origin, folder: Path, names: Names) -> Exported:
    has_map = given.explanations is not None
    rows = {"features": 0, "activations": 0}
    with new_folder(folder) as partial:
        for name, row in tree_metadata(names, origin, has_map=has_map).items():
            with json_lines(partial / f"{name}.jsonl") as write:
                write(row)
        for number, chunk in enumerate(chunks(_shown(origin), _TREE_ROWS)):
            paths = (partial / table / f"batch-{number}.jsonl.gz" for table in rows)
            with json_lines(next(paths)) as write_feature, json_lines(next(paths)) as write_activation:
                for found in chunk:
                    write_feature(tree_feature(found, names, origin))
                    rows["features"] += 1
                    for activation in tree_activations(found, names, origin):
                        write_activation(activation)
                        rows["activations"] += 1
        if given.explanations is not None:
            rows |= _write_explanations(given.explanations, origin, partial / "explanations", names)
        num_files = sum(path.is_file() for path in partial.rglob("*"))
    return Exported(folder, num_files, rows)


def _write_explanations(explanations: Artifact, origin: Origin, folder: Path, names: Names) -> dict[str, int]:
    """Write those that have a text; features that never fire, and failures, have none to show."""
    density_F = origin.features.column("density").to_numpy()
    places = read_places(origin.features)
    rows = {"explanations": 0, "left_out": 0}

    def shown() -> Iterator[Explanation]:
        for explanation in read_explanations(explanations):
            told = explanation.status == "explained" and bool(explanation.text)
            rows["explanations" if told else "left_out"] += 1
            if told:
                yield explanation

    for number, chunk in enumerate(chunks(shown(), _TREE_ROWS)):
        with json_lines(folder / f"batch-{number}.jsonl.gz") as write:
            for explanation in chunk:
                feature = explanation.feature
                write(tree_explanation(explanation, places[feature], float(density_F[feature]), names, origin))
    return rows


def _shown(origin: Origin) -> Iterator[Found]:
    """The features, with a progress bar."""
    with progress("Export features", origin.features.num_features, "features") as bar:
        for found in read_found(origin):
            yield found
            bar.advance()
