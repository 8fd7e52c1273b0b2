"""From settings to what the monitor is made of: the watch list with its thresholds, rules, reference, history."""

import logging
from collections.abc import Sequence
from pathlib import Path

from mistudio.artifacts.scratch import scratch_folder
from mistudio.errors import ConfigError, MistudioError
from mistudio.instrument.served import Served, ServedFeatures
from mistudio.monitor.config import MonitorConfig
from mistudio.monitor.drift.detector import DriftDetector, Labels
from mistudio.monitor.drift.reference import open_reference
from mistudio.monitor.history.config import HistoryConfig
from mistudio.monitor.history.history import History
from mistudio.monitor.judging import BOOK_STATE, DRIFT_STATE
from mistudio.monitor.rules.rule_book import RuleBook
from mistudio.monitor.rules.rules import Rules, read_rules
from mistudio.monitor.rules.saved import FILE_STATE, RULES_STATE, rules_at_start
from mistudio.monitor.traffic.recorder import EventRecorder
from mistudio.monitor.watch.columns import Column
from mistudio.monitor.watch.config import WatchConfig
from mistudio.monitor.watch.watch_list import Watched, WatchList, read_watch_list
from mistudio.settings import validated

logger = logging.getLogger(__name__)

_MOST_PATTERN_BYTES = 1 << 20
_DEFAULT_FEATURES = 32
_FOLDER = "monitor"


def open_watch_list(config: MonitorConfig, served: Served) -> WatchList:
    """What is watched, with its thresholds; where nothing names it, features that were explained.

    Raises:
        ConfigError: the file is refused, or nothing is there to be watched.
        NotFound: a calibration is not there.
    """
    found = read_watch_list(config.watch_list) if config.watch_list is not None else _chosen(served)
    if config.full:
        every = tuple(one.line.sae.uri for one in served.features)
        found = found.model_copy(update={"encode_in_full": tuple(dict.fromkeys((*found.encode_in_full, *every)))})
    return found


def open_rules(config: MonitorConfig) -> Rules:
    """The rules of the file; none where there is no file.

    Raises:
        ConfigError: it is refused.
    """
    return Rules() if config.rules is None else read_rules(config.rules)


def watch_config(config: MonitorConfig) -> WatchConfig:
    """How traffic is read: with its words, where these are kept."""
    keeps = config.watch.keep_strings or config.history.keep_text
    return config.watch.model_copy(update={"keep_strings": keeps})


def open_history(config: MonitorConfig, served: Served, columns: Sequence[Column]) -> History:
    """The history, in the folder that the settings name or in one of this machine's own.

    Columns that went by their names for something else before are told in the log.

    Raises:
        ConfigError: the file of patterns is refused.
        InputError: another process has the folder.
        StorageError: the folder cannot be written.
    """
    folder = config.folder
    if folder is None:
        folder = scratch_folder(served.store) / _FOLDER
        logger.warning(
            "History, and the state of rules and drift, are kept in %s: --monitor-folder names another.", folder
        )
    patterns = (*config.history.redact_patterns, *_patterns(config.redact_file))
    kept = validated(HistoryConfig, {**config.history.model_dump(), "redact_patterns": patterns})
    history = History(folder, kept, identities(columns))
    before = history.last_identities()
    for column in columns:
        was = before.get(column.name, column.identity)
        if was != column.identity:
            logger.warning(
                "Watched column %s reads something else than before (%s at %s; identity %s, was %s): what was counted "
                "of it begins anew, and the history has its old samples as %s@%s.",
                *(column.name, column.feature, column.hook, column.identity, was, column.name, was),
            )
    return history


def identities(columns: Sequence[Column]) -> dict[str, str]:
    """Of each column what its values are, by name."""
    return {column.name: column.identity for column in columns}


def open_recorder(config: MonitorConfig) -> EventRecorder | None:
    """What keeps traffic as it came; None where nothing does.

    Raises:
        StorageError: the folder cannot be written.
    """
    kept = config.record
    return None if kept.folder is None else EventRecorder(kept.folder, kept.max_file_bytes, kept.max_files)


def restored_rules(
    history: History, in_file: Rules, watch_list: WatchList, columns: Sequence[Column]
) -> tuple[Rules, RuleBook]:
    """The rules to begin with, and their book as it was left.

    Raises:
        ConfigError: the rules do not fit the watch list.
    """
    rules = rules_at_start(in_file, history.state(RULES_STATE).whole, history.state(FILE_STATE).whole)
    state, own = history.state(BOOK_STATE).whole, identities(columns)
    new = RuleBook(rules, watch_list, identities=own)
    try:
        book = new if state is None else RuleBook.restored(rules, watch_list, state, identities=own)
    except MistudioError as error:
        logger.warning("The rules begin anew, for their state cannot be read: %s", error)
        book = new
    history.commit((), (), {FILE_STATE: in_file.digest.encode()})
    return rules, book


def restored_drift(
    history: History, config: MonitorConfig, served: Served, columns: Sequence[Column]
) -> DriftDetector | None:
    """The watch for drift as it was left; None where there is no reference.

    Args:
        history: has its state.
        config: of drift and of its reference.
        served: the autoencoders.
        columns: that are watched.
    """
    profile = open_reference(config, served, history)
    if profile is None:
        return None
    saved, label, own = history.state(DRIFT_STATE), labels(served), identities(columns)
    try:
        detector = DriftDetector.restored(profile, config.drift, label, saved.whole, saved.deltas, own)
    except MistudioError as error:
        logger.warning("The watch for drift begins anew: %s", error)
        detector = DriftDetector(profile, config.drift, label, own)
    if detector.other_columns:
        logger.warning(
            "Drift is not looked for in %s: the reference profile was measured on something else of that name. Run "
            "mistudio monitor profile with this watch list.",
            ", ".join(detector.other_columns),
        )
    return detector


def labels(served: Served) -> Labels:
    """What was said of features, by URI and number."""
    known = {one.line.sae.uri: one for one in served.features}

    def label(uri: str, feature: int) -> str | None:
        return known[uri].label(feature) if uri in known else None

    return label


def _chosen(served: Served) -> WatchList:
    """Features that were explained, the strongest first; else the first ones."""
    if not served.features:
        message = "There is no autoencoder, and no watch list: say what to watch by --monitor-watch-list FILE."
        raise ConfigError(message)
    numbers = _telling(served.features[0], served.session.placed(0).sae.width)
    return WatchList(watched=tuple(Watched(name=f"feature-{number}", feature=number) for number in numbers))


def _telling(known: ServedFeatures, width: int) -> list[int]:
    explained = [number for number in range(width) if known.features is not None and known.label(number)]
    explained.sort(key=lambda number: -(known.maximum(number) or 0.0))
    return sorted(explained[:_DEFAULT_FEATURES]) or list(range(min(width, _DEFAULT_FEATURES)))


def _patterns(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_PATTERN_BYTES + 1)
        if len(content) > _MOST_PATTERN_BYTES:
            message = f"--monitor-redact-file {path} has more than {_MOST_PATTERN_BYTES:,} bytes."
            raise ConfigError(message)
        return [line for line in content.decode().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        message = f"--monitor-redact-file {path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}."
        raise ConfigError(message) from error
