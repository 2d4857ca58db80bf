"""What changed between two releases, split by split: pictures by their bytes, labels by what they say.

    compare(before, after) -> Comparison      two tables of one split

A picture is known by its file name.  It was added, removed, or changed if its bytes are no longer the same, which
is told by CRC-32: an archive that states its members' CRCs is believed, so that no picture need be read.

A label has no name, and its index in the tile moves when another is put before it.  Within a tile, therefore, equal
labels are set aside first (twice the same counts twice), then those with the same polyline are taken for one label
whose height or metadata changed, then those with the same height, and last those with the same index, for one whose
polyline changed.  What is left was added or removed.  Only labels that can be used are compared; why others are not,
each release's own list says.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from ..errors import InputError
from ..release.members import Members
from ..samples.table import SampleTable
from .audit import regions


class Label(NamedTuple):
    """What one label says: its tile, its index there, (x, y) px, metres, and (gsd, roll, pitch) or None each."""

    tile: str
    region: int
    polyline: tuple[tuple[float, float], ...]
    height: float
    metadata: tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Changed:
    """A label that says something else than before."""

    before: Label
    after: Label

    @property
    def what(self) -> tuple[str, ...]:
        """Which of polyline, height and metadata differ."""
        return tuple(
            name
            for name in ("polyline", "height", "metadata")
            if getattr(self.before, name) != getattr(self.after, name)
        )


@dataclass(frozen=True)
class Comparison:
    """What one split gained, lost and changed; names of pictures, and labels, in the order of their release."""

    pictures_same: int
    pictures_added: list[str]
    pictures_removed: list[str]
    pictures_changed: list[str]
    labels_same: int
    labels_added: list[Label]
    labels_removed: list[Label]
    labels_changed: list[Changed]

    @property
    def nothing(self) -> bool:
        """Whether the two are the same."""
        changes = (self.pictures_added, self.pictures_removed, self.pictures_changed)
        return not any((*changes, self.labels_added, self.labels_removed, self.labels_changed))


def compare(before: SampleTable, after: SampleTable) -> Comparison:
    """Compare two tables of one split; the pictures' bytes are read where no CRC is stated."""
    old, new = ({name: i for i, name in enumerate(table.images.names)} for table in (before, after))
    common = [name for name in new if name in old]
    changed = [name for name in common if checksum(before.images, old[name]) != checksum(after.images, new[name])]
    labels = _LabelChanges()
    was, now = _labels_by_tile(before), _labels_by_tile(after)
    for tile in dict.fromkeys((*was, *now)):
        labels.compare_tile(was.get(tile, []), now.get(tile, []))
    return Comparison(
        pictures_same=len(common) - len(changed),
        pictures_added=[name for name in new if name not in old],
        pictures_removed=[name for name in old if name not in new],
        pictures_changed=changed,
        labels_same=labels.same,
        labels_added=labels.added,
        labels_removed=labels.removed,
        labels_changed=labels.changed,
    )


def checksum(images: Members, index: int) -> int | None:
    """CRC-32 of a picture's bytes: the archive's own where it states one, else of what is read; None if damaged."""
    stated = images.crc(index)
    try:
        return zlib.crc32(images.read(index).data) if stated is None else stated
    except InputError:
        return None


def _labels_by_tile(table: SampleTable) -> dict[str, list[Label]]:
    columns = (table.tile, regions(table), table.polyline, table.height, table.gsd, table.roll, table.pitch)
    tiles: dict[str, list[Label]] = defaultdict(list)
    for tile, region, polyline, height, *metadata in zip(*(column.tolist() for column in columns), strict=True):
        known = tuple(None if value != value else value for value in metadata)  # NaN would not equal itself
        tiles[tile].append(Label(tile, region, _without_padding(polyline), height, known))  # type: ignore[arg-type]
    return tiles


def _without_padding(points: list[list[float]]) -> tuple[tuple[float, float], ...]:
    """The table repeats the last point of a short polyline up to the longest one's length, which may differ."""
    end = len(points)
    while end > 1 and points[end - 1] == points[end - 2]:
        end -= 1
    return tuple((x, y) for x, y in points[:end])


class _LabelChanges:
    """Collects, tile by tile, what became of the labels."""

    def __init__(self) -> None:
        self.same = 0
        self.added: list[Label] = []
        self.removed: list[Label] = []
        self.changed: list[Changed] = []

    def compare_tile(self, before: list[Label], after: list[Label]) -> None:
        pairs, before, after = _paired(before, after, attrgetter("polyline", "height", "metadata"))
        self.same += len(pairs)
        for alike in (attrgetter("polyline"), attrgetter("height"), attrgetter("region")):
            pairs, before, after = _paired(before, after, alike)
            self.changed += [Changed(old, new) for old, new in pairs]
        self.removed += before
        self.added += after


def _paired(
    before: list[Label], after: list[Label], key: Callable[[Label], Hashable]
) -> tuple[list[tuple[Label, Label]], list[Label], list[Label]]:
    """Pair each label with the first one left that has the same key: (pairs, the rest of before, the rest of after)."""
    waiting: dict[Hashable, list[Label]] = defaultdict(list)
    for old in before:
        waiting[key(old)].append(old)
    pairs, rest = [], []
    for new in after:
        if candidates := waiting.get(key(new)):
            pairs.append((candidates.pop(0), new))
        else:
            rest.append(new)
    unpaired = {id(old) for candidates in waiting.values() for old in candidates}
    return pairs, [old for old in before if id(old) in unpaired], rest
