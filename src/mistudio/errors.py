"""Every error that miStudio raises on purpose.

::

    MistudioError
    ├── InputError              what was asked for cannot be done as asked
    │   ├── ConfigError         a parameter is unknown, out of range or in conflict with another
    │   ├── CorpusError         a corpus cannot be read, or holds nothing to use
    │   ├── SubjectError        a language model cannot be loaded, or has no such layer or hook
    │   │   └── HubUnreachable  the model hub cannot be reached from this machine
    │   └── NotFound            no artifact, corpus or file of that name
    ├── Unavailable             a service cannot take a request now
    │   ├── Busy                all is in use, and the queue is full
    │   └── Draining            it is about to end
    ├── ClusterError            a cluster does not do what it was asked
    │   ├── ClusterUnreachable  it cannot be reached, or does not answer in time
    │   ├── NotAllowed          it does not know who asks, or does not let them
    │   ├── Conflict            what was to be made is there already, or has changed meanwhile
    │   ├── RolloutFailed       what was deployed is not fit to serve, and the former state is back
    │   └── HostsFailed         the work on several hosts failed
    ├── GateFailed              figures fall short of what a run was asked for
    ├── DamagedArtifact         bytes in the store are not the bytes that were published
    └── StorageError            the store cannot be read or written
        └── StorageFull         no space is left; everything already written stays usable

A message says what was wrong, with which value, and what to do about it. The command line prints it
as one paragraph and exits with ``exit_code``; any other exception is a bug and keeps its traceback. Whatever value a
message repeats, secrets are taken out of it, and words that nobody would read to their end are cut: messages go to
screens, logs and records of runs.
"""

from mistudio.plain_text import without_long_words
from mistudio.redaction import redact


class MistudioError(Exception):
    """Base of all errors that miStudio raises on purpose."""

    exit_code = 2

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(_readable(each) if isinstance(each, str) else each for each in arguments))


def _readable(message: str) -> str:
    return without_long_words(redact(message))  # in this order: what is left of a secret would not be known for one


class InputError(MistudioError):
    """What was asked for cannot be done as asked."""


class ConfigError(InputError):
    """A parameter is unknown, out of range or in conflict with another."""


class CorpusError(InputError):
    """A corpus cannot be read, or holds nothing to use."""


class SubjectError(InputError):
    """A language model cannot be loaded, or has no such layer or hook point."""


class HubUnreachable(SubjectError):
    """The model hub cannot be reached from this machine."""


class NotFound(InputError):
    """No artifact, corpus or file of that name."""


class Unavailable(MistudioError):
    """A service cannot take a request now; the same request may be taken later."""


class Busy(Unavailable):
    """All is in use, and the queue is full.

    Attributes:
        retry_after_s: after how many seconds it is worth asking again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(Unavailable):
    """The service finishes what it has, and is about to end."""


class ClusterError(MistudioError):
    """A cluster does not do what it was asked.

    Attributes:
        status: of the API's answer; 0 where there was none.
        reason: the API's word for it, such as Conflict.
        retry_after_s: for how many seconds the API asks to be left alone.
    """

    def __init__(self, message: str, status: int = 0, reason: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.reason, self.retry_after_s = status, reason, retry_after_s


class ClusterUnreachable(ClusterError):
    """A cluster cannot be reached, or does not answer in time."""


class NotAllowed(ClusterError):
    """A cluster does not know who asks, or does not let them."""


class Conflict(ClusterError):
    """What was to be made on a cluster is there already, or has changed meanwhile."""


class RolloutFailed(ClusterError):
    """What was deployed is not fit to serve, and the former state is back."""


class HostsFailed(ClusterError):
    """The work on several hosts failed; ``exit_code`` is that of the host that failed first."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class GateFailed(MistudioError):
    """Figures fall short of what a run was asked for."""

    exit_code = 3


class DamagedArtifact(MistudioError):
    """Bytes in the store are not the bytes that were published."""


class StorageError(MistudioError):
    """The store cannot be read or written."""


class StorageFull(StorageError):
    """No space is left in the store; everything already written stays usable."""
