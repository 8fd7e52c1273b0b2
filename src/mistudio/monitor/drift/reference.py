"""What drift is measured against: how often each feature fires in the corpus that its autoencoder was trained on.

Counting that takes a while, and has to give the same after each start; so it is kept beside what was counted since.
"""

import io
import json
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Line, open_artifact
from mistudio.errors import MistudioError
from mistudio.instrument.served import Served
from mistudio.monitor.config import MonitorConfig
from mistudio.monitor.drift.profile import FiringProfile, Profile
from mistudio.monitor.drift.profile_artifact import KIND, ProfileConfig, joined, open_profile, usual_of
from mistudio.monitor.history.history import History

logger = logging.getLogger(__name__)

STATE = "reference"


def open_reference(config: MonitorConfig, served: Served, history: History) -> Profile | None:
    """The reference, as it was kept or counted anew; None where drift is not looked for, or nothing is known.

    Args:
        config: says how many texts, and what a text is.
        served: the autoencoders.
        history: keeps it.

    Raises:
        NotFound: there is no such artifact as the settings name.
        InputError: it is of another kind.
    """
    if not config.full or not served.features:
        return None
    if config.reference is not None:
        return open_profile(open_artifact(served.store, config.reference, KIND))
    if not config.reference_texts:
        return None
    lines = [one.line for one in served.features]
    key = _key(config, lines)
    saved = history.state(STATE).whole
    found = None if saved is None else unpacked(saved, key)
    if found is None:
        found = _counted(config, lines)
        if found is not None:
            history.commit((), (), {STATE: packed(found, key)})
    return found


def packed(profile: Profile, key: str) -> bytes:
    """A reference as it is kept: what it is of, and its numbers; without pickle."""
    head = {
        "key": key,
        "about": dict(profile.about),
        "fired": [[uri, own.num_texts, own.num_tokens] for uri, own in profile.fired.items()],
    }
    arrays: dict[str, NDArray[Any]] = {"head": np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)}
    for number, own in enumerate(profile.fired.values()):
        arrays |= {f"texts_{number}": own.texts_F, f"tokens_{number}": own.tokens_F}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpacked(content: bytes, key: str) -> Profile | None:
    """The reference that was kept; None where it is of something else, or cannot be read."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            head = json.loads(bytes(arrays["head"]))
            if head["key"] != key:
                return None
            fired = {
                uri: FiringProfile(num_texts, num_tokens, arrays[f"texts_{number}"], arrays[f"tokens_{number}"])
                for number, (uri, num_texts, num_tokens) in enumerate(head["fired"])
            }
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning("The reference of drift that was kept cannot be read, and is counted anew.")
        return None
    return Profile(fired, None, head["about"])


def _counted(config: MonitorConfig, lines: list[Line]) -> Profile | None:
    logger.info("Counting what is usual in up to %d texts of the corpus, for drift.", config.reference_texts)
    wanted = ProfileConfig(unit=config.reference_unit, max_texts=config.reference_texts)
    found: list[Profile] = []
    for line in lines:
        try:
            found.append(usual_of(line, wanted))
        except MistudioError as error:
            logger.warning("Drift is not looked for in features of %s: %s", line.sae.uri, error)
    return joined(found) if found else None


def _key(config: MonitorConfig, lines: list[Line]) -> str:
    what = [line.sae.digest for line in lines]
    return json.dumps([what, config.reference_texts, config.reference_unit])
