"""Drift: which features fire more or less often than they used to, told as soon as it is sure enough.

::

    detector = DriftDetector(profile, DriftConfig(), label)
    alerts = detector.update(observations)            # of whole exchanges, in the order of traffic
    history.commit(observations, alerts, {}, {"drift": detector.delta()})

``drift_rates`` says what the statistic is and what is promised of it.

Shape legend: H things that are tested in one family, A those that happened in a text, I any of them.
"""

import hashlib
import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.drift.changes import RULE, Change, Telling, alert_of, changes
from mistudio.monitor.drift.config import DriftConfig
from mistudio.monitor.drift.profile import Profile
from mistudio.monitor.drift.rates import PRIOR_NO, PRIOR_YES
from mistudio.monitor.drift.repeats import RecentTexts, Signature, rare_keys
from mistudio.monitor.drift.shares import log_beyond
from mistudio.monitor.drift.state import Header, SavedFamily, apply_state, packed
from mistudio.monitor.drift.streams import COLUMNS, Family, FamilyKey, Happening, primary_of, shown
from mistudio.monitor.drift.texts import TextSeen, texts_of
from mistudio.monitor.records import Alert, Observation, Origin

__all__ = ["RULE", "Change", "DriftConfig", "DriftDetector", "Labels"]

Labels = Callable[[str, int], str | None]  # what was said of a feature, by URI of its autoencoder and number
Ints = NDArray[np.int64]


class DriftDetector:
    """Tests of drift over all features and columns of a profile, for each stream of traffic.

    Args:
        profile: what is usual.
        config: rate of false alarms, tolerance, and streams; None: as usual.
        label: what was said of a feature; None: nothing is told.
        identities: of the columns that observations have by name, in their order; None: those of the profile.
    """

    def __init__(
        self,
        profile: Profile,
        config: DriftConfig | None = None,
        label: Labels | None = None,
        identities: Mapping[str, str] | None = None,
    ) -> None:
        self.profile, self.config = profile, config or DriftConfig()
        self._label, self._happening = label, Happening(profile, identities)
        self._families: dict[FamilyKey, Family] = {}
        self._num_texts: dict[tuple[str, ...], int] = {}
        self._recent: dict[tuple[str, ...], RecentTexts] = {}
        self._told_at: dict[str, int] = {}  # of streams as they are shown, the text at which something was told last
        self._num_left_out = self._num_repeats = 0

    @property
    def num_tests(self) -> int:
        """Features and cuts of columns that are tested in each stream."""
        return self._happening.num_tests

    @property
    def other_columns(self) -> tuple[str, ...]:
        """Columns that are not tested, for the profile was measured on others of their names."""
        return self._happening.others

    @property
    def groups(self) -> dict[str, int]:
        """Texts of each stream."""
        return {"/".join(group) or "all": count for group, count in self._num_texts.items()}

    @property
    def num_left_out(self) -> int:
        """Texts that were left out, because there were too many streams."""
        return self._num_left_out

    @property
    def num_repeats(self) -> int:
        """Texts that were not counted, because they repeat one of the last."""
        return self._num_repeats

    def update(self, observations: Sequence[Observation]) -> list[Alert]:
        """Count texts, and tell what changed.

        Args:
            observations: of whole exchanges, those of one exchange one after the other: they count as one text.
        """
        return [alert for text in texts_of(observations) for alert in self._count(text)]

    def ranked(self, count: int = 20, group: str | None = None) -> list[Change]:
        """What changed most, by its e-value; of one stream or of all."""
        found: list[Change] = []
        for family in self._chosen(group):
            found += changes(family.tests, family.tests.largest(count), self._telling(family.key))
        return heapq.nlargest(count, found, key=lambda change: change.log10_e - change.log10_needed)

    def acknowledge(self, watched: Sequence[str] = (), group: str | None = None) -> int:
        """Start the tests of what was told anew, so that it can be told again; how many there were.

        Args:
            watched: features or columns as in alerts; none: all that were told.
            group: of one stream alone, as alerts name it.
        """
        num_told = 0
        for family in self._chosen(group):
            told_I = self._told(family, watched)
            family.tests.restart(told_I)
            family.touch(told_I)
            num_told += len(told_I)
        return num_told

    def rebaseline(self, group: str | None = None, watched: Sequence[str] = ()) -> int:
        """Take what came since a change that was told for what is usual, and start its test anew; how many there were.

        Args:
            group: of one stream alone, as alerts name it.
            watched: features or columns as in alerts; none: all that were told.
        """
        num_told = 0
        for family in self._chosen(group):
            told_I = self._told(family, watched)
            family.tests.rebase(told_I)
            family.touch(told_I)
            num_told += len(told_I)
        return num_told

    def state(self) -> bytes:
        """All that was counted, without pickle; what :meth:`delta` gives from here on adds to it."""
        for family in self._families.values():
            family.take_touched()
        families = [SavedFamily(one.key, one.tests, None) for one in self._families.values()]
        return packed(self._header(), families, self._last_texts(is_whole=True))

    def delta(self) -> bytes:
        """What was counted since the last :meth:`state` or :meth:`delta`: in proportion to what fired."""
        changed = [SavedFamily(one.key, one.tests, one.take_touched()) for one in self._families.values()]
        return packed(self._header(), changed, self._last_texts(is_whole=False))

    @classmethod
    def restored(
        cls,
        profile: Profile,
        config: DriftConfig,
        label: Labels | None,
        state: bytes | None,
        deltas: Sequence[bytes] = (),
        identities: Mapping[str, str] | None = None,
    ) -> Self:
        """A detector that goes on where another was.

        Args:
            profile: the same as the other's.
            config: the same as the other's.
            label: what was said of a feature.
            state: of the other; None: it had not given any.
            deltas: what it gave after that, in their order.
            identities: of the columns that observations have; tests of those that the other had not begin anew.

        Raises:
            InputError: they are of another profile or other settings.
            DamagedArtifact: they cannot be read.
        """
        detector = cls(profile, config, label, identities)
        for saved in [state, *deltas] if state is not None else deltas:
            header, last = apply_state(saved, detector._basis(), detector._happening, detector._family)
            detector._num_texts, detector._told_at = dict(header.groups), dict(header.told)
            detector._num_left_out, detector._num_repeats = header.num_left_out, header.num_repeats
            for group, signature_NM in last.items():
                detector._recent_of(group).push(signature_NM)
                detector._recent_of(group).mark_saved()
        return detector

    def _count(self, text: TextSeen) -> Iterator[Alert]:
        group = tuple(str(getattr(text.origin, name)) for name in self.config.group_by)
        if group not in self._num_texts and len(self._num_texts) >= self.config.most_groups:
            self._num_left_out += 1
            return
        if self._is_repeat(group, text):
            self._num_repeats += 1
            return
        self._num_texts[group] = self._num_texts.get(group, 0) + 1
        kinds = (False,) if self._primary(group) is None else (False, True)
        sure: dict[bool, list[Change]] = {is_against: [] for is_against in kinds}
        for uri, which_A in self._happening.in_text(text):
            for is_against in kinds:
                sure[is_against] += self._sure(self._family(FamilyKey(group, uri, is_against)), which_A)
            for key, family in self._families.items():
                if key.is_against and key.uri == uri and self._primary(key.group) == group:
                    family.tests.learn(which_A)
                    family.touch(which_A)
        for found in sure.values():
            if found:
                yield self._alert(found, group, text)

    def _alert(self, found: Sequence[Change], group: tuple[str, ...], text: TextSeen) -> Alert:
        """One alert of all that is told at one text of one stream."""
        self._told_at[found[0].group] = self._num_texts[group]
        origin = Origin(**dict(zip(self.config.group_by, group, strict=True)))
        return alert_of(found, origin, text.exchange, text.time, self.config.texts_per_false_alarm)

    def _is_repeat(self, group: tuple[str, ...], text: TextSeen) -> bool:
        if self.config.repeat_likeness is None:
            return False
        return self._recent_of(group).is_repeat(rare_keys(text, self._happening.known))

    def _recent_of(self, group: tuple[str, ...]) -> RecentTexts:
        if group not in self._recent:
            self._recent[group] = RecentTexts(self.config.recent_texts, self.config.repeat_likeness or 1.0)
        return self._recent[group]

    def _sure(self, family: Family, which_A: Ints) -> list[Change]:
        """Count what happened, and note as told what is sure enough and large enough, unless something just was."""
        tests = family.tests
        log_e_A, telling = tests.count(which_A), self._telling(family.key)
        family.touch(which_A)
        told_at = self._told_at.get(telling.group)
        since = None if told_at is None else self._num_texts[family.key.group] - told_at
        if since is not None and since < self.config.gather_texts:
            return []
        if tests.num_texts % self.config.sweep_texts == 0 or since == self.config.gather_texts:
            which_A = np.flatnonzero((tests.most_log_evidence() >= telling.log_needed) & ~tests.told_H)
            log_e_A = tests.log_evidence(which_A)
        sure_I = which_A[(log_e_A >= telling.log_needed) & ~tests.told_H[which_A]]
        if not len(sure_I):
            return []
        beyond_I = log_beyond(tests.segments(sure_I), self.config.tolerance, (PRIOR_YES, PRIOR_NO))
        new_I = sure_I[beyond_I >= math.log(self.config.texts_per_small_change)]
        tests.told_H[new_I] = True
        family.touch(new_I)
        return list(changes(tests, new_I, telling))

    def _telling(self, key: FamilyKey) -> Telling:
        yes_H, num_texts = self._happening.reference(key.uri)
        return Telling(
            group=shown(key, self.config.primary),
            name=partial(self._happening.name, key.uri),
            label=lambda number: self._label(key.uri, number) if self._label and key.uri != COLUMNS else None,
            reference=lambda number: None if key.is_against or not num_texts else float(yes_H[number] / num_texts),
            log_needed=self._log_needed(key.group),
            confidence=self.config.confidence,
        )

    def _log_needed(self, group: tuple[str, ...]) -> float:
        """Each text of a stream that is compared with a primary is in two tests of each thing."""
        num_tests = self.num_tests * (1 if self._primary(group) is None else 2)
        return math.log(num_tests * self.config.texts_per_false_alarm)

    def _primary(self, group: tuple[str, ...]) -> tuple[str, ...] | None:
        return primary_of(group, self.config.group_by, self.config.primary)

    def _family(self, key: FamilyKey) -> Family:
        if key not in self._families:
            self._families[key] = self._happening.new_family(key)
        return self._families[key]

    def _chosen(self, group: str | None) -> list[Family]:
        """Families of a stream, as alerts or :attr:`groups` name it."""
        return [
            family
            for key, family in self._families.items()
            if group in (None, shown(key, self.config.primary), "/".join(key.group) or "all")
        ]

    def _told(self, family: Family, watched: Sequence[str]) -> Ints:
        told_I = np.flatnonzero(family.tests.told_H)
        if not watched:
            return told_I
        named = [number for number in told_I.tolist() if self._happening.name(family.key.uri, number) in watched]
        return np.array(named, dtype=np.int64)

    def _basis(self) -> str:
        """What counts mean anything with alone: the profile, and what streams and tests are made by."""
        content = f"{self.profile.digest} {self.config.group_by} {self.config.primary} {self.config.recent_texts}"
        return hashlib.sha256(content.encode()).hexdigest()

    def _header(self) -> Header:
        return Header(
            basis=self._basis(),
            columns=self._happening.columns,
            groups=tuple(self._num_texts.items()),
            told=tuple(self._told_at.items()),
            num_left_out=self._num_left_out,
            num_repeats=self._num_repeats,
        )

    def _last_texts(self, *, is_whole: bool) -> dict[tuple[str, ...], Signature]:
        found = {group: recent.last(is_whole=is_whole) for group, recent in self._recent.items()}
        return {group: last for group, last in found.items() if len(last)}
