"""Rules that were put in at run time, kept for the next start beside what the file of rules said then."""

import json
import logging

from pydantic import ValidationError

from mistudio.monitor.rules.rules import Rules

logger = logging.getLogger(__name__)

RULES_STATE, FILE_STATE = "rules", "rules-file"


def saved_rules(rules: Rules) -> bytes:
    """Rules as they are kept."""
    return json.dumps(rules.model_dump(mode="json"), separators=(",", ":")).encode()


def rules_at_start(in_file: Rules, saved: bytes | None, file_digest: bytes | None) -> Rules:
    """The rules to begin with: those that were put in last, unless the file has changed since.

    Args:
        in_file: what the file says now.
        saved: what was put in; None: nothing.
        file_digest: of what the file said when the monitor last ran.
    """
    if saved is None:
        return in_file
    if file_digest is None or file_digest.decode() != in_file.digest:
        logger.warning("The file of rules has changed: it takes the place of the rules that were put in.")
        return in_file
    try:
        return Rules.model_validate_json(saved)
    except ValidationError:
        logger.warning("The rules that were put in cannot be read any more: those of the file hold.")
        return in_file
