"""A run as its callers see it, and what every place that runs can do: this machine, and a cluster."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from mistudio.events import Event, Finished

State = Literal["pending", "running", "finished", "failed", "cancelled", "died"]
Settings = Mapping[str, object]  # such as JSON has


class Target(BaseModel):
    """What to run: a pipeline or a single step, by its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pipeline", "step"]
    name: str

    def __str__(self) -> str:
        return self.name


class RunArtifact(BaseModel):
    """An artifact that a run made, or found published."""

    model_config = ConfigDict(frozen=True)

    step: str
    uri: str
    digest: str
    found: bool


class Run(BaseModel):
    """One run: what was asked for, and what became of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    target: Target
    settings: dict[str, JsonValue]
    store: str = Field(description="where it publishes")
    state: State = Field(
        description="pending: waits for a machine; died: its process ended without a word, as one that is killed"
    )
    created_at: AwareDatetime
    ended_at: AwareDatetime | None = None
    exit_code: int | None = None
    message: str = Field(default="", description="why it did not end well")
    artifacts: tuple[RunArtifact, ...] = ()
    process_group: int | None = Field(default=None, description="of a run on this machine")
    log: str = Field(default="", description="file that holds what it printed, of a run on this machine")
    name: str = Field(default="", description="what people call it, of a run on a cluster")
    version: str = Field(default="", description="of the pipeline, of a run on a cluster")
    link: str = Field(default="", description="its page in the dashboard, of a run on a cluster")

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state not in ("pending", "running")

    @property
    def seconds(self) -> float | None:
        """By the clock, with the starting of each step; None where nobody saw the end."""
        return None if self.ended_at is None else (self.ended_at - self.created_at).total_seconds()


class Runner(Protocol):
    """A place that runs pipelines and steps."""

    def start(self, target: Target, settings: Settings) -> Run:
        """Start a run, and return at once.

        Raises:
            ConfigError: a setting looks like a secret, or there is no such step.
        """
        ...

    def list(self) -> list[Run]:
        """All runs, the newest first."""
        ...

    def get(self, run_id: str) -> Run:
        """One run.

        Raises:
            NotFound: there is none of that id.
        """
        ...

    def events(self, run_id: str, *, follow: bool = False) -> Iterator[Event]:
        """What the run has told, in order; ``follow``: and what it tells until it ends.

        Raises:
            NotFound: there is no run of that id.
        """
        ...

    def log(self, run_id: str, step: str = "", *, follow: bool = False) -> Iterator[bytes]:
        """What a run has printed, or one of its steps; ``follow``: and what it prints until it ends.

        Raises:
            NotFound: there is no run of that id, or it has no such step.
            InputError: this place keeps no log by step, or follows none.
        """
        ...

    def finished(self, run_id: str) -> Sequence[Finished]:
        """What the steps of a run published or found.

        Raises:
            NotFound: there is no run of that id.
        """
        ...

    def retry(self, run_id: str) -> Run:
        """Go on with a run that did not end well: what it has published is found.

        Raises:
            NotFound: there is none of that id.
            InputError: it goes on, or has ended well.
        """
        ...

    def cancel(self, run_id: str) -> Run:
        """End a run with all its processes; what it has published stays, and running it again goes on from there.

        Raises:
            NotFound: there is no run of that id.
            InputError: it has ended already.
        """
        ...
