"""What steps of a run on a cluster ended with, kept in the store: pods and their files are gone when they have ended.

A pod of a pipeline knows its run by ``KFP_RUN_ID``. Each step that ends there writes one small file
``runs/<run>/<time>-<step>-<pod>.json`` with the event of how it ended; ``mistudio result`` reads them.
"""

import logging
import os
import re
import time
import uuid
from collections.abc import Mapping

from mistudio.artifacts import RUNS, Store, open_store
from mistudio.errors import MistudioError
from mistudio.events import Event, Failed, Finished, parse_event

logger = logging.getLogger(__name__)

RUN_ENV = "KFP_RUN_ID"
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,99}")


def keep(store_url: str, event: Finished | Failed) -> None:
    """Keep how a step ended, if it is one of a run on a cluster. That this cannot be done is no reason to fail."""
    run_id = os.environ.get(RUN_ENV, "")
    if not _ID.fullmatch(run_id):
        return
    name = f"{RUNS}/{run_id}/{time.time_ns():020d}-{event.step}-{uuid.uuid4().hex[:8]}.json"
    try:
        open_store(store_url).create(name, event.model_dump_json().encode() + b"\n")
    except MistudioError as error:
        logger.warning("How %s ended is not kept in the store: %s", event.step, error)


def kept(store: Store, run_id: str, known: Mapping[str, Event]) -> dict[str, Event]:
    """How the steps of a run ended, by the names of their files and in the order of time.

    Args:
        store: where they have kept it.
        run_id: of the run.
        known: what was read before, and is not read again.
    """
    names = store.list(f"{RUNS}/{run_id}") if _ID.fullmatch(run_id) else ()
    events = {name: known.get(name) or parse_event(store.read(name), name) for name in names}
    return {name: event for name, event in events.items() if event is not None}
