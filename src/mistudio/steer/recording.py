"""The log of interventions, as the service writes it: a line before anything is changed, and one for what it led to."""

import logging
from concurrent.futures import ThreadPoolExecutor

from mistudio.errors import MistudioError, Unavailable
from mistudio.steer.audit import AuditLog
from mistudio.steer.audit_chain import Intervention, Outcome, notes_of
from mistudio.steer.callers import Caller
from mistudio.steer.tickets import Prepared

logger = logging.getLogger(__name__)


class Recorder:
    """Writes the lines of a log.

    Args:
        log: where they go.
        model: name of the model.
    """

    def __init__(self, log: AuditLog, model: str) -> None:
        self._log, self._model = log, model
        self._writer = ThreadPoolExecutor(1, "interventions")  # so that no step waits for a disk

    def admitted(self, prepared: Prepared, caller: Caller) -> None:
        """Write that a request is about to change the model.

        Raises:
            Unavailable: it cannot be written; so nothing may be changed.
        """
        try:
            self._log.append(self._line(prepared, caller, "admitted", None))
        except MistudioError as error:
            message = f"The log of interventions cannot be written, so that nothing is steered: {error}"
            raise Unavailable(message) from error

    def ended(self, prepared: Prepared, caller: Caller, outcome: Outcome, detail: str | None) -> None:
        """Write what came of it, some time soon."""
        line = self._line(prepared, caller, outcome, detail)
        try:
            self._writer.submit(self._write, line)
        except RuntimeError:  # it has ended: a request was written down while the service was closed
            self._write(line)

    def close(self) -> None:
        """Write what is to be written, and end."""
        self._writer.shutdown()

    def _write(self, line: Intervention) -> None:
        try:
            self._log.append(line)
        except MistudioError as error:
            logger.error("The log of interventions cannot be written: %s", error)  # noqa: TRY400 - it is said

    def _line(self, prepared: Prepared, caller: Caller, outcome: Outcome, detail: str | None) -> Intervention:
        edits, compiled = prepared.changes, prepared.edits
        steering = prepared.request.steering
        return Intervention(
            request=caller.request,
            key=caller.key,
            model=self._model,
            preset=steering.preset if steering is not None else None,
            edits=notes_of(edits),
            stop_when=len(edits.stop_when),
            steering=compiled.digest if compiled is not None else "",
            prompt=self._log.prompt_digest(list(prepared.prompt.ids)),
            outcome=outcome,
            detail=detail,
        )
