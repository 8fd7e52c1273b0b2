"""Settings of the monitor as it is served."""

from pathlib import Path

from pydantic import Field

from mistudio.settings import Settings


class MonitorConfig(Settings):
    """What is watched, how much is read at once, and what is kept of it."""

    watch_list: Path | None = Field(
        None, description="file of the watch list: features, directions and probes; None: nothing is watched by name"
    )
    rules_file: Path | None = Field(None, description="file of the rules at the start; None: none")
    monitor_folder: Path | None = Field(
        None,
        description="folder of the history and of the state of rules and drift; None: one of this machine's own, which "
        "the log names",
    )
    reference: str | None = Field(
        None,
        description="artifact of kind features whose firing rates are the reference of drift; None: those of the "
        "autoencoders that are served",
    )
    encode_in_full: bool = Field(False, description="read all features of the autoencoders, which drift needs")
    monitor_queue: int = Field(
        4096, ge=1, le=1_000_000, description="events that wait to be read; further ones are dropped and counted"
    )
    monitor_queue_mb: int = Field(64, ge=1, le=1 << 16, description="megabytes of events that wait to be read")
    batch_tokens: int = Field(
        8192, ge=64, le=1 << 20, description="tokens that are read together, of what waits; or one exchange"
    )
    join_timeout_s: float = Field(
        30.0, gt=0, le=86_400, description="seconds for which a request waits for its answer, and an answer for it"
    )
    forward_url: str | None = Field(None, description="where events are passed on to; None: nowhere")
    tenant_header: str | None = Field(None, description="header of events that names the tenant; None: none does")
    retention_days: float = Field(30.0, gt=0, le=36_500, description="days for which history is kept")
    history_mb: int = Field(1024, ge=1, le=1 << 20, description="megabytes of history; the oldest goes first")
    keep_text: bool = Field(False, description="keep the words that were read beside what was seen in them")
    redact_file: Path | None = Field(
        None, description="file of regular expressions, a line each: what they match is left out of texts that are kept"
    )
    webhook_hosts: tuple[str, ...] = Field(
        (), description="hosts that webhooks and the forward URL may reach although they are private"
    )
    subscribers: int = Field(64, ge=0, le=10_000, description="clients that follow the live stream at once")
    subscriber_events: int = Field(
        1024, ge=1, le=100_000, description="events that wait for a client of the live stream; further ones are dropped"
    )
    conversation_tokens: int = Field(2048, ge=1, le=1 << 20, description="tokens of a conversation that is sent live")
    watch_generated: bool = Field(True, description="follow what this process generates, where it steers too")
