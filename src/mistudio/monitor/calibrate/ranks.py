"""How many texts a rate of false positives takes, and which of their values is the threshold.

Of n texts that are drawn like those to come, the k-th largest value is exceeded by the next one with probability at
most k / (n + 1), whatever the values are spread like (conformal prediction; Vovk, Gammerman and Shafer 2005). So the
threshold for a rate is the k-th largest, with k = rate x (n + 1) rounded down; where that is 0, n is too small.
"""

import math

from mistudio.errors import InputError
from mistudio.monitor.calibrate.config import CalibrateConfig
from mistudio.monitor.watch.watch_list import WatchList


def rank_for(rate: float, count: int) -> int:
    """Which of the largest values is the threshold, from 1; 0: there are too few for the rate."""
    return math.floor(rate * (count + 1) + 1e-9)


def least_for(rate: float) -> int:
    """How many texts a rate takes at least."""
    return math.ceil(1 / rate - 1 - 1e-9)


def rates_of(watch_list: WatchList, config: CalibrateConfig) -> list[float]:
    """The rate of false positives that is asked for, of each column."""
    return [one.false_positive_rate or config.false_positive_rate for one in watch_list.watched]


def check_enough(least_rate: float, count: int, what: str, share: float) -> None:
    """Refuse texts that are too few for a rate.

    Raises:
        InputError: they are; the message says how many it takes.
    """
    least = least_for(least_rate)
    if count >= least:
        return
    # A rate of 1 is no way out: it would be that of a threshold below every value.
    further = f", or ask for a rate of {1 / (count + 1):.2g} or more" if count else ""
    message = (
        f"A false-positive rate of {least_rate:g} takes at least {least:,} {what} to find a threshold on, and there "
        f"are {count:,}: give {round(least / share) + 1:,} reference {what} or more{further}."
    )
    raise InputError(message)
