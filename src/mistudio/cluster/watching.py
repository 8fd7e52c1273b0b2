"""The share of requests that fail, watched for a while: those made for it, and those that the predictor counts."""

import time

from mistudio.cluster.asking import Asking, Counts
from mistudio.cluster.config import DeployConfig
from mistudio.errors import MistudioError, RolloutFailed
from mistudio.progress import say


def watch_errors(asking: Asking, config: DeployConfig) -> str:
    """Ask again and again, at least once; what was seen, in words.

    Raises:
        RolloutFailed: a larger share failed than may.
    """
    until = time.monotonic() + config.watch_s
    own, counted, before = Counts(), Counts(), asking.counts()
    while True:
        own += Counts(1, int(_fails(asking, config)))
        now = asking.counts()
        if now is not None and before is not None:
            counted += now.since(before)
        before = now or before
        left_s = until - time.monotonic()
        if left_s <= 0:
            break
        time.sleep(min(config.check_every_s, left_s))
    for what, each in (("requests made to try it", own), ("requests that the predictor counts", counted)):
        if each.failed > config.max_error_rate * each.total:
            message = (
                f"{each.failed} of {each.total} {what} failed within {config.watch_s:g} s, more than "
                f"{config.max_error_rate:.1%}"
            )
            raise RolloutFailed(message)
    told = max(own, counted, key=lambda each: each.total)
    return f"{told.total} requests, {told.failed} failed"


def _fails(asking: Asking, config: DeployConfig) -> bool:
    try:
        asking.smoke(config.smoke_prompt, config.smoke_tokens, config.smoke_feature)
    except MistudioError as error:
        say(f"A request failed: {error}")
        return True
    return False
