"""What tests of drift have counted, as bytes: arrays as safetensors with a header, compressed, and read within bounds.

A whole state has all entries of each family; what is added to one has those that changed, and which they are.

Shape legend: H things of a family, I those that changed.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mistudio.errors import DamagedArtifact, InputError
from mistudio.monitor.drift.rates import ARRAYS, RateTests
from mistudio.monitor.drift.repeats import NUM_HASHES, Signature
from mistudio.monitor.drift.streams import COLUMNS, Family, FamilyKey, Happening
from mistudio.settings import Settings

_HEADER, _WHICH, _RECENT = "header", "which", "recent"
_MOST_BYTES = 1 << 34  # of a state: a hundred streams of a million features
_LEVEL = 1  # of compression: what never fired shrinks to nothing, the rest is worth no time


Last = dict[tuple[str, ...], Signature]


class SavedFamily(NamedTuple):
    """Tests of a family, and those of them that are saved; None: all."""

    key: FamilyKey
    tests: RateTests
    which_I: NDArray[np.int64] | None


class Header(Settings):
    """What the arrays belong to."""

    version: Literal[1] = Field(1, description="of this form of bytes")
    basis: str = Field(max_length=1000, description="what counts mean anything with alone: profile, streams")
    columns: tuple[str, ...] = Field((), description="watched columns that are tested, as name@identity")
    groups: tuple[tuple[tuple[str, ...], int], ...] = Field((), description="texts of each stream")
    num_left_out: int = Field(0, ge=0, description="texts beyond the streams that are followed")
    num_repeats: int = Field(0, ge=0, description="texts that repeat another")
    told: tuple[tuple[str, int], ...] = Field((), description="of streams, the text at which something was told last")
    recent: tuple[tuple[str, ...], ...] = Field((), description="streams whose last texts are there")
    families: tuple[tuple[tuple[str, ...], str, bool, int, int], ...] = Field(
        (), description="of each family: stream, autoencoder, whether against a primary, texts, and texts learned"
    )


def packed(header: Header, saved: Sequence[SavedFamily], last: Mapping[tuple[str, ...], Signature]) -> bytes:
    """Counts, and the last texts of each stream, as bytes."""
    families = tuple((*own.key, own.tests.num_texts, own.tests.num_learned) for own in saved)
    content = header.model_copy(update={"families": families, "recent": tuple(last)}).model_dump_json().encode()
    arrays: dict[str, NDArray[np.generic]] = {_HEADER: np.frombuffer(content, dtype=np.uint8)}
    for number, own in enumerate(saved):
        which = slice(None) if own.which_I is None else own.which_I
        arrays |= {f"{number}.{name}": np.ascontiguousarray(getattr(own.tests, name)[which]) for name in ARRAYS}
        if own.which_I is not None:
            arrays[f"{number}.{_WHICH}"] = own.which_I
    arrays |= {f"{_RECENT}.{number}": last_NM for number, last_NM in enumerate(last.values())}
    return zlib.compress(save(arrays), _LEVEL)


def apply_state(
    saved: bytes, basis: str, happening: Happening, family: Callable[[FamilyKey], Family]
) -> tuple[Header, Last]:
    """Put counts where they belong; what else was saved, and the last texts of each stream.

    Tests of watched columns that were not among those that were saved begin anew.

    Args:
        saved: what :func:`packed` gave.
        basis: what the counts have to be of.
        happening: what there are tests of.
        family: gives the tests of a key, made anew where there are none.

    Raises:
        InputError: they are of another profile or other settings.
        DamagedArtifact: they cannot be read.
    """
    try:
        unpacking = zlib.decompressobj()
        arrays = load(unpacking.decompress(saved, _MOST_BYTES))
        header = Header.model_validate(json.loads(arrays[_HEADER].tobytes()))
        if header.basis == basis:
            for number, (group, uri, is_against, num_texts, num_learned) in enumerate(header.families):
                key = FamilyKey(tuple(group), uri, is_against)
                if uri != COLUMNS or header.columns == happening.columns:
                    _put(arrays, number, family(key).tests, num_texts, num_learned)
                elif happening.columns:
                    tests, fresh = family(key).tests, happening.new_family(key).tests
                    row_J = _moved_rows(header.columns, happening.columns, tests.num_tests)
                    _put(arrays, number, tests, num_texts, num_learned, row_J)
                    tests.renew(np.setdiff1d(np.arange(tests.num_tests), row_J), fresh)
        last = {group: _signatures(arrays[f"{_RECENT}.{number}"]) for number, group in enumerate(header.recent)}
    except (zlib.error, SafetensorError, KeyError, ValueError, IndexError, ValidationError) as error:
        message = f"The state of the tests of drift cannot be read: {error}. Remove it to start them anew."
        raise DamagedArtifact(message) from error
    if header.basis != basis:
        message = (
            "The state of the tests of drift is of another reference profile or other streams: give the same "
            "ones, or remove it to start the tests anew."
        )
        raise InputError(message)
    return header, last


def _signatures(found: NDArray[np.generic]) -> Signature:
    """Signatures of texts; a ValueError where they are none."""
    if found.dtype != np.uint16 or found.ndim != 2 or found.shape[1] != NUM_HASHES:
        message = "the last texts are of another form"
        raise ValueError(message)
    return found.astype(np.uint16)


def _put(
    arrays: Mapping[str, NDArray[np.generic]],
    number: int,
    tests: RateTests,
    num_texts: int,
    num_learned: int,
    row_J: NDArray[np.int64] | None = None,
) -> None:
    """Arrays of a family into its tests, where ``row_J`` says; a ValueError where they do not fit."""
    which_I = arrays.get(f"{number}.{_WHICH}")
    num_saved = tests.num_tests if row_J is None else len(row_J)
    to: slice | NDArray[np.generic] = slice(None) if which_I is None else which_I
    kept: slice | NDArray[np.bool_] = slice(None)
    if row_J is not None:
        to_I = row_J[to]
        kept = to_I >= 0
        to = to_I[kept]
    for name in ARRAYS:
        own, found = getattr(tests, name), arrays[f"{number}.{name}"]
        if found.dtype != own.dtype or (which_I is None and found.shape != (num_saved, *own.shape[1:])):
            message = f"{name} is of another size"
            raise ValueError(message)
        own[to] = found[kept]
    tests.num_texts, tests.num_learned = num_texts, num_learned


def _moved_rows(saved: Sequence[str], own: Sequence[str], num_tests: int) -> NDArray[np.int64]:
    """Of each test of the columns that were saved, which one it is of this detector's; -1: none."""
    num_levels = num_tests // len(own)
    first_W = np.array([own.index(each) * num_levels if each in own else -num_levels for each in saved], dtype=np.int64)
    rows: NDArray[np.int64] = np.maximum(first_W[:, None] + np.arange(num_levels), -1).ravel()
    return rows
