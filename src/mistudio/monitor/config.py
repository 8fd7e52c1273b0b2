"""Settings of the monitor as it is served."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from mistudio.monitor.drift.config import DriftConfig
from mistudio.monitor.history.config import HistoryConfig
from mistudio.monitor.traffic.config import RecordSettings, TrafficSettings
from mistudio.monitor.watch.config import WatchConfig
from mistudio.settings import Settings


class MonitorConfig(Settings):
    """What is watched, how much is read at once, and what is kept of it."""

    watch_list: Path | None = Field(
        None, description="file of the watch list; None: the most telling features of what is served"
    )
    rules: Path | None = Field(None, description="file of the rules to begin with; None: none")
    folder: Path | None = Field(
        None,
        description="folder of the history and of the state of rules and drift; None: one of this machine's own, which "
        "the log names",
    )
    reference: str | None = Field(
        None,
        max_length=200,
        description="artifact of kind profile, with the firing rates that drift is measured against; None: those of "
        "the corpus that the autoencoders were trained on",
    )
    reference_texts: int = Field(
        1000, ge=0, le=1_000_000, description="texts of that corpus, from its start; 0: drift is not looked for"
    )
    reference_unit: Literal["document", "sequence"] = Field(
        "document", description="what a text of the corpus is: a document, or a sequence of its context length"
    )
    full: bool = Field(
        True, description="read all features of the autoencoders too, as drift needs; else the watch list alone"
    )
    at_once_tokens: int = Field(
        8192,
        ge=64,
        le=1 << 20,
        description="tokens, about, of waiting exchanges that are read together; or one exchange",
    )
    forward_url: str | None = Field(
        None, max_length=2000, description="where events are passed on to, as a logger has one sink; None: nowhere"
    )
    redact_file: Path | None = Field(
        None, description="file of regular expressions, a line each: what they match is left out of texts that are kept"
    )
    follow_generated: bool = Field(True, description="follow what this process generates, where it steers too")
    tell_words: bool = Field(
        False, description="tell clients of the live stream the words that are generated here, whoever asked for them"
    )
    subscribers: int = Field(64, ge=0, le=10_000, description="clients that follow the live stream at once")
    subscriber_events: int = Field(
        1024, ge=1, le=100_000, description="events that wait for a client of the live stream; further ones are dropped"
    )
    conversation_tokens: int = Field(
        2048, ge=1, le=1 << 20, description="tokens of a conversation that a client sends piece by piece"
    )
    direct_waiting: int = Field(
        64, ge=1, le=100_000, description="requests to read something at once that wait; further ones are refused"
    )
    traffic: TrafficSettings = Field(TrafficSettings(), description="how traffic comes in")
    record: RecordSettings = Field(RecordSettings(), description="whether it is kept as it came")
    watch: WatchConfig = Field(WatchConfig(), description="how it is read")
    drift: DriftConfig = Field(DriftConfig(), description="when features are told to fire otherwise than before")
    history: HistoryConfig = Field(HistoryConfig(), description="how much is kept, and for how long")
