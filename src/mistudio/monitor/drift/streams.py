"""The tests of one stream of traffic: of the features of each autoencoder, of watched columns, and against a primary.

Shape legend: F features of an autoencoder, W watched columns, L levels of a column, A those that happened in a text,
H things of a family.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.drift.profile import Profile
from mistudio.monitor.drift.rates import RateTests, new_tests
from mistudio.monitor.drift.texts import TextSeen

COLUMNS = ""  # in place of an autoencoder's URI: the watched columns
Ints = NDArray[np.int64]


class FamilyKey(NamedTuple):
    """Which tests these are."""

    group: tuple[str, ...]
    uri: str  # of the autoencoder, or COLUMNS
    is_against: bool  # against the primary's texts in place of the profile


class Family:
    """Tests of one kind of thing in one stream, and which of them changed since they were last saved.

    Args:
        key: which.
        tests: that have seen no text yet.
    """

    def __init__(self, key: FamilyKey, tests: RateTests) -> None:
        self.key, self.tests = key, tests
        self._is_touched_H = np.zeros(tests.num_tests, dtype=np.bool_)

    def touch(self, which_A: Ints) -> None:
        """Note that some changed."""
        self._is_touched_H[which_A] = True

    def take_touched(self) -> Ints:
        """Those that changed since this was last asked, ascending."""
        which_I = np.flatnonzero(self._is_touched_H)
        self._is_touched_H[which_I] = False
        return which_I


class Happening:
    """What happens in texts, by autoencoder and for the watched columns.

    Args:
        profile: what is usual.
        identities: of the columns that observations have by name, in their order; None: those of the profile.

    Attributes:
        others: names of columns that are of another identity than the profile's: these are not tested.
    """

    def __init__(self, profile: Profile, identities: Mapping[str, str] | None = None) -> None:
        self.profile = profile
        self.others: tuple[str, ...] = ()
        self._place_V, self._known_V = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        if profile.columns is not None:
            usual = dict(zip(profile.columns.names, profile.columns.identities, strict=True))
            own = usual if identities is None else identities
            self.others = tuple(name for name in usual if name in own and own[name] != usual[name])
            known = [number for number, name in enumerate(usual) if name in own and name not in self.others]
            self._known_V = np.array(known, dtype=np.int64)
            places = list(own)
            self._place_V = np.array([places.index(profile.columns.names[each]) for each in known], dtype=np.int64)

    @property
    def uris(self) -> tuple[str, ...]:
        """What there are tests of."""
        return (*self.profile.fired, COLUMNS) if len(self._known_V) else tuple(self.profile.fired)

    @property
    def num_tests(self) -> int:
        """Things that are tested in one stream."""
        return sum(len(self.reference(uri)[0]) for uri in self.uris)

    @property
    def columns(self) -> tuple[str, ...]:
        """Watched columns that are tested, as ``name@identity``."""
        found = self.profile.columns
        return () if found is None else tuple(f"{found.names[each]}@{found.identities[each]}" for each in self._known_V)

    def reference(self, uri: str) -> tuple[Ints, int]:
        """In how many texts of the profile each happened [H], and how many there are."""
        if uri != COLUMNS:
            return self.profile.fired[uri].texts_F, self.profile.fired[uri].num_texts
        assert self.profile.columns is not None  # noqa: S101 -- else there is no such URI
        return self.profile.columns.above_WL[self._known_V].ravel(), self.profile.columns.num_texts

    def known(self, uri: str) -> tuple[Ints, int] | None:
        """The same of an autoencoder; None where the profile has not got it."""
        return self.reference(uri) if uri in self.profile.fired else None

    def new_family(self, key: FamilyKey) -> Family:
        """Tests that have seen no text yet."""
        yes_H, num_texts = self.reference(key.uri)
        return Family(key, new_tests(np.zeros_like(yes_H), 0) if key.is_against else new_tests(yes_H, num_texts))

    def in_text(self, text: TextSeen) -> Iterator[tuple[str, Ints]]:
        """What happened in a text, by URI; what was not read of it is left out."""
        for uri in self.profile.fired:
            if uri in text.fired:
                yield uri, text.fired[uri].feature_A
        if self.profile.columns is not None and len(self._known_V) and len(text.max_W) > int(self._place_V.max()):
            cut_VL = self.profile.columns.cut_WL[self._known_V]
            yield COLUMNS, np.flatnonzero(text.max_W[self._place_V][:, None] > cut_VL)

    def name(self, uri: str, number: int) -> str:
        """What one of them is called."""
        if uri != COLUMNS:
            return f"{uri}#{number}"
        assert self.profile.columns is not None  # noqa: S101 -- as above
        column, level = divmod(number, self.profile.columns.cut_WL.shape[1])
        known = int(self._known_V[column])
        return f"{self.profile.columns.names[known]}>{self.profile.columns.cut_WL[known, level]:g}"


def primary_of(group: tuple[str, ...], group_by: Sequence[str], primary: str | None) -> tuple[str, ...] | None:
    """The stream that a stream is compared with; None: there is none, or it is that one itself."""
    if primary is None or "endpoint" not in group_by:
        return None
    place = list(group_by).index("endpoint")
    if group[place] in (primary, ""):
        return None
    return (*group[:place], primary, *group[place + 1 :])


def shown(key: FamilyKey, primary: str | None) -> str:
    """A stream as people read it, and what it was compared with."""
    name = "/".join(key.group) or "all"
    return f"{name} against {primary}" if key.is_against else name
