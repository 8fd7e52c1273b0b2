"""Traffic kept as it came: one CloudEvent a line, in files of bounded size and number.

This keeps texts: it is switched on by who runs the server, and off by default. The files are for the user alone.
"""

import json
import os
import re
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from mistudio.errors import StorageError
from mistudio.monitor.traffic.events import REQUEST_TYPE, RESPONSE_TYPE, LoggedEvent
from mistudio.paths import given_path
from mistudio.plain_text import shortened

_NAME = re.compile(r"events-(\d{8})\.jsonl")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_MODE, _FOLDER_MODE = 0o600, 0o700


def event_line(event: LoggedEvent) -> str:
    """An event as CloudEvents 1.0 in JSON, without a line end."""
    content = {
        "specversion": "1.0",
        "type": REQUEST_TYPE if event.kind == "request" else RESPONSE_TYPE,
        "id": event.id,
        "source": event.source,
        "time": datetime.fromtimestamp(event.time, UTC).isoformat(),
        "datacontenttype": event.content_type,
        "inferenceservicename": event.service,
        "namespace": event.namespace,
        "component": event.component,
        "endpoint": event.endpoint,
        "metadata": event.metadata,
    }
    body = {"data_base64": b64encode(event.body).decode()}
    return json.dumps({name: value for name, value in content.items() if value} | body)


class EventRecorder:
    """Appends events to files in a folder; for one thread.

    Args:
        folder: made where there is none.
        max_file_bytes: a file is not gone on with above that.
        max_files: the oldest is removed where there are more.

    Raises:
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: Path, max_file_bytes: int = 64 << 20, max_files: int = 16) -> None:
        self._folder = given_path(folder, "recorded traffic")
        self._max_file_bytes, self._max_files = max_file_bytes, max_files
        try:
            self._folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            self._number = max(self._numbers(), default=0) + 1
            self._file = self._opened(self._number)
        except OSError as error:
            raise StorageError(self._refused(error)) from error

    def record(self, event: LoggedEvent) -> None:
        """Append an event; it is in the file, though not yet on the disk, when this returns.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            if self._file.tell() >= self._max_file_bytes:
                following = self._opened(self._number + 1)
                self._file.close()
                self._file, self._number = following, self._number + 1
            self._file.write(event_line(event).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(self._refused(error)) from error

    def close(self) -> None:
        """Write nothing more."""
        with suppress(OSError):  # what could not be written was told of then
            self._file.close()

    def _opened(self, number: int) -> BinaryIO:
        for old in sorted(self._numbers())[: -self._max_files + 1 or None]:
            self._path(old).unlink(missing_ok=True)
        return os.fdopen(os.open(self._path(number), _FLAGS, _MODE), "ab")

    def _numbers(self) -> list[int]:
        return [int(found[1]) for each in os.listdir(self._folder) if (found := _NAME.fullmatch(each))]

    def _path(self, number: int) -> Path:
        return self._folder / f"events-{number:08d}.jsonl"

    def _refused(self, error: OSError) -> str:
        return f"Traffic cannot be recorded in {shortened(str(self._folder))}: {error.strerror or error}."
