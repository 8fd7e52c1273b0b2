"""The columns of a watch list in a loaded model: what each is, at which hook point, and how it is read.

Columns of one autoencoder that are pooled alike are read together, and so are directions at one hook point. A direction
is read as the projection on its unit vector, less its offset.

Shape legend: D width of a hook point, U columns that are read together, W all columns.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mistudio.directions.artifact import find_direction
from mistudio.errors import InputError, NotFound
from mistudio.instrument.compiled import Nameable
from mistudio.instrument.served import Served
from mistudio.monitor.watch.realigned import ActsMap, Readings, open_readings
from mistudio.monitor.watch.topk_columns import column_reader
from mistudio.monitor.watch.watch_list import Watched, WatchList, column_digest
from mistudio.subject import HookPoint, ResolvedHook, resolve_hooks

BLOCK_COLUMNS = 2048  # read and pooled at once

Read = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Column:
    """What a column is.

    Attributes:
        watched: as the list has it.
        uri: of its autoencoder or direction.
        hook: name of its hook point.
        digest: of what is read and how it is pooled: a threshold holds for columns of the same digest.
        label: what was said of the feature.
        realignment: digest of the realignment through whose map of the activations it is read; empty: through none.
    """

    watched: Watched
    uri: str
    hook: str
    digest: str
    label: str | None = None
    realignment: str = ""

    @property
    def name(self) -> str:
        """As the list has it."""
        return self.watched.name

    @property
    def is_realigned(self) -> bool:
        """Whether it is read through a map of the activations."""
        return bool(self.realignment)

    @property
    def identity(self) -> str:
        """A short digest of what the values are: what was counted under a name holds for columns of the same one."""
        content = json.dumps([self.digest, self.hook, self.realignment])
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def feature(self) -> str:
        """The feature as ``uri#number``, or the direction's URI."""
        return self.uri if self.watched.feature is None else f"{self.uri}#{self.watched.feature}"


@dataclass(frozen=True, eq=False)
class Vector:
    """A direction at a hook point.

    Attributes:
        hook: where.
        vector_D: of any length.
        uri: of its artifact.
        digest: of its artifact.
    """

    hook: HookPoint
    vector_D: Tensor
    uri: str
    digest: str


@dataclass(frozen=True, eq=False)
class Block:
    """Columns that are read together.

    Attributes:
        hook: where.
        columns: which they are, by their numbers.
        read: gives their values [..., U] of activations [..., D], in float32.
    """

    hook: ResolvedHook
    columns: tuple[int, ...]
    read: Read


class Columns:
    """The columns of a watch list.

    Args:
        served: the model, its autoencoders, and the store of directions.
        watch_list: names them.
        given: directions by name, beside those of the store.

    Raises:
        NotFound: an autoencoder, a feature or a direction is not there.
        InputError: a direction is of another model, or a name stands for several autoencoders; or the list's
            realignment is of another version, or has refused a column.
    """

    def __init__(self, served: Served, watch_list: WatchList, given: Mapping[str, Vector] | None = None) -> None:
        self.readings: Readings | None = open_readings(served, watch_list)
        self._maps: dict[int, ActsMap] = {}
        self._served, self._names = served, Nameable(served.session, [one.name for one in served.features])
        directions = dict(given or {})
        found: list[Column] = []
        by_sae: dict[tuple[int, bool, bool], list[int]] = {}
        by_hook: dict[tuple[HookPoint, bool, bool], list[int]] = {}
        for number, one in enumerate(watch_list.watched):
            if one.direction is not None:
                if one.direction not in directions:
                    directions[one.direction] = self._direction(one)
                direction = directions[one.direction]
                digest = column_digest(direction.digest, one)
                found.append(self._read(number, Column(one, direction.uri, str(direction.hook), digest)))
                by_hook.setdefault((direction.hook, one.pool == "top", number in self._maps), []).append(number)
            else:
                place = self._autoencoder(one)
                found.append(self._read(number, self._of_feature(one, place)))
                by_sae.setdefault((place, one.pool == "top", number in self._maps), []).append(number)
        self.columns = tuple(found)
        self.blocks = [
            *(block for (place, *_), numbers in by_sae.items() for block in self._feature_blocks(place, numbers)),
            *(
                block
                for (hook, *_), numbers in by_hook.items()
                for block in self._projections(hook, numbers, directions)
            ),
        ]
        order = [number for block in self.blocks for number in block.columns]
        self.place_W = torch.tensor(order).argsort()  # where in the order of the blocks each column is

    def _read(self, number: int, column: Column) -> Column:
        """The column as it is read in the version that is loaded."""
        each = None if self.readings is None else self.readings.of_column(column)
        if self.readings is None or each is None:
            return column
        self._maps[number] = each
        return replace(column, realignment=self.readings.digest)

    def _through(self, numbers: Sequence[int], read: Read) -> Read:
        """Columns of one hook point, all of them through its map or none."""
        each = self._maps.get(numbers[0])
        return read if each is None else lambda x_D: read(each(x_D))

    def _autoencoder(self, one: Watched) -> int:
        try:
            place = self._names.number(one.autoencoder)
            self._names.latent(place, int(one.feature or 0))
        except (NotFound, InputError) as error:
            message = f"watch list, {one.name}: {error}"
            raise type(error)(message) from error
        return place

    def _direction(self, one: Watched) -> Vector:
        try:
            direction = find_direction(self._served.store, str(one.direction))
            if self.readings is None:  # else it is of the old version, and what is said of it holds for it alone
                direction.check_subject(self._served.session.source)
        except (NotFound, InputError) as error:
            message = f"watch list, {one.name}: {error}"
            raise type(error)(message) from error
        return Vector(direction.hook, direction.vector_D, direction.uri, direction.digest)

    def _of_feature(self, one: Watched, place: int) -> Column:
        placed = self._served.session.placed(place)
        label = (
            self._served.features[place].label(int(one.feature or 0)) if place < len(self._served.features) else None
        )
        digest = column_digest(placed.digest, one)
        return Column(one, placed.uri, str(placed.ends.read.point), digest, label)

    def _feature_blocks(self, place: int, numbers: Sequence[int]) -> list[Block]:
        placed = self._served.session.placed(place)
        latents = {number: int(self.columns[number].watched.feature or 0) for number in numbers}
        # A feature is read once, however many columns pool it.
        blocks = []
        for some in _parts(numbers):
            read = column_reader(placed.sae, [latents[number] for number in some])
            blocks.append(Block(placed.ends.read, some, self._through(some, read)))
        return blocks

    def _projections(self, point: HookPoint, numbers: Sequence[int], directions: Mapping[str, Vector]) -> list[Block]:
        subject = self._served.session.subject
        (hook,) = resolve_hooks(subject, [point])
        blocks = []
        for some in _parts(numbers):
            own = [self.columns[number].watched for number in some]
            vectors = [directions[str(one.direction)].vector_D for one in own]
            for one, vector_D in zip(own, vectors, strict=True):
                if len(vector_D) != hook.width:
                    message = (
                        f"watch list, {one.name}: the direction has {len(vector_D):,} components, and activations at "
                        f"{point} have {hook.width:,}."
                    )
                    raise InputError(message)
            unit_UD = torch.nn.functional.normalize(torch.stack(vectors).double(), dim=1).float()
            offset_U = torch.tensor([one.offset for one in own])
            read = _projection(unit_UD.to(subject.device), offset_U.to(subject.device))
            blocks.append(Block(hook, some, self._through(some, read)))
        return blocks


def _parts(numbers: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(numbers[start : start + BLOCK_COLUMNS]) for start in range(0, len(numbers), BLOCK_COLUMNS)]


def _projection(unit_UD: Tensor, offset_U: Tensor) -> Read:
    return lambda x_D: torch.nn.functional.linear(x_D.float(), unit_UD, -offset_U)
