"""Drift: which features fire more or less often than they used to, told as soon as it is sure enough.

::

    detector = DriftDetector(profile, DriftConfig(), label)
    alerts = detector.update(observations)            # of whole exchanges, in the order of traffic
    history.commit(observations, alerts, {}, {"drift": detector.delta()})

Shape legend: A features that fired in a text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from mistudio.monitor.drift_config import DriftConfig
from mistudio.monitor.profile import Profile
from mistudio.monitor.records import Alert, Observation

RULE = "drift"  # name of the test in alerts
Labels = Callable[[str, int], str | None]  # what was said of a feature, by URI of its autoencoder and number


@dataclass(frozen=True)
class Change:
    """What changed in a feature or a column, in one stream.

    Attributes:
        group: the stream, such as ``model/endpoint``, and after ``against`` what it was compared with.
        watched: the feature as ``uri#number``, or the column as ``name>cut``.
        label: what was said of the feature.
        direction: more or less often than before.
        log10_e: how much the texts speak for a change, as a power of ten of the e-value.
        log10_needed: what an alert takes.
        before: share of texts before the change, as estimated.
        now: share of texts since.
        now_low: lower end of its interval, which holds at every moment and wherever it begins.
        now_high: upper end.
        since_text: text of the stream from which on ``now`` is counted.
        num_texts: texts since.
        num_fired: those of them in which it fired.
        reference: share of the texts of the profile; None: they say nothing of it.
        is_told: whether an alert was raised that nobody has acknowledged.
    """

    group: str
    watched: str
    label: str | None
    direction: Literal["up", "down"]
    log10_e: float
    log10_needed: float
    before: float
    now: float
    now_low: float
    now_high: float
    since_text: int
    num_texts: int
    num_fired: int
    reference: float | None
    is_told: bool


class DriftDetector:
    """Tests of drift over all features and columns of a profile, for each stream of traffic.

    Args:
        profile: what is usual.
        config: rate of false alarms, tolerance, and streams.
        label: what was said of a feature; None: nothing is told.
    """

    def __init__(self, profile: Profile, config: DriftConfig = DriftConfig(), label: Labels | None = None) -> None:
        raise NotImplementedError

    def update(self, observations: Sequence[Observation]) -> list[Alert]:
        """Count texts, and tell what changed.

        Args:
            observations: of whole exchanges, those of one exchange one after the other: they count as one text.
        """
        raise NotImplementedError

    def ranked(self, count: int = 20, group: str | None = None) -> list[Change]:
        """What changed most, by its e-value; of one stream or of all."""
        raise NotImplementedError

    @property
    def groups(self) -> dict[str, int]:
        """Texts of each stream."""
        raise NotImplementedError

    @property
    def num_left_out(self) -> int:
        """Texts that were left out, because there were too many streams."""
        raise NotImplementedError

    def acknowledge(self, watched: Sequence[str] = (), group: str | None = None) -> int:
        """Start the tests of what was told anew, so that it can be told again; how many there were.

        Args:
            watched: features or columns as in alerts; none: all that were told.
            group: of one stream alone.
        """
        raise NotImplementedError

    def rebaseline(self, group: str | None = None) -> None:
        """Take what came since a change for what is usual, where one was told; and start all tests anew."""
        raise NotImplementedError

    def state(self) -> bytes:
        """All that was counted, without pickle; what :meth:`delta` gives from here on adds to it."""
        raise NotImplementedError

    def delta(self) -> bytes:
        """What was counted since the last :meth:`state` or :meth:`delta`: in proportion to what fired."""
        raise NotImplementedError

    @classmethod
    def restored(
        cls,
        profile: Profile,
        config: DriftConfig,
        label: Labels | None,
        state: bytes | None,
        deltas: Sequence[bytes] = (),
    ) -> Self:
        """A detector that goes on where another was.

        Args:
            profile: the same as the other's.
            config: the same as the other's.
            label: what was said of a feature.
            state: of the other; None: it had not given any.
            deltas: what it gave after that, in their order.

        Raises:
            InputError: they are of another profile or other settings.
            DamagedArtifact: they cannot be read.
        """
        raise NotImplementedError
