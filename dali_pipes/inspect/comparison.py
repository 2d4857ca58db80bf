"""What changed between two releases, split by split: pictures by their bytes, labels by their content.

    compare(before, after) -> SplitChanges      two tables of one split

A picture is identified by its file name. It was added, removed, or changed if its bytes have another CRC-32. Where an
archive states the CRCs of its members, they are used, and no picture is read.

A label has no name, and its index in the tile moves when another label is inserted before it. Therefore the labels of a
tile are paired in four passes: equal labels (two equal ones count twice), then labels with the same polyline, with the
same height, and with the same index. Labels that are paired but not equal have changed; those without a partner were
added or removed. Only usable labels are compared; each release's own list says why others are skipped.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from ..errors import InputError
from ..geometry import without_padding
from ..release.members import Members
from ..samples.table import SampleTable
from .audit import regions

CONTENT = ("polyline", "height", "metadata")  # of a label; its tile and its index there identify it


class Label(NamedTuple):
    """One label: its tile, its index there, (x, y) px, metres, and (gsd, roll, pitch) or None each."""

    tile: str
    region: int
    polyline: tuple[tuple[float, float], ...]
    height: float
    metadata: tuple[float | None, float | None, float | None]


class ChangedLabel(NamedTuple):
    """A label whose polyline, height or metadata changed; `what` names those that did."""

    what: tuple[str, ...]
    before: Label
    after: Label


@dataclass
class SplitChanges:
    """The changes of one split: names of pictures, and labels, in the order of their release."""

    pictures_same: int
    pictures_added: list[str]
    pictures_removed: list[str]
    pictures_changed: list[str]
    labels_same: int = 0
    labels_added: list[Label] = field(default_factory=list)
    labels_removed: list[Label] = field(default_factory=list)
    labels_changed: list[ChangedLabel] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        """Whether both releases are the same."""
        return not any(value for value in vars(self).values() if isinstance(value, list))


def compare(before: SampleTable, after: SampleTable) -> SplitChanges:
    """Compare two tables of one split; the pictures' bytes are read where an archive states no CRC."""
    old, new = ({name: i for i, name in enumerate(table.images.names)} for table in (before, after))
    common = [name for name in new if name in old]
    changed = [name for name in common if checksum(before.images, old[name]) != checksum(after.images, new[name])]
    changes = SplitChanges(
        pictures_same=len(common) - len(changed),
        pictures_added=[name for name in new if name not in old],
        pictures_removed=[name for name in old if name not in new],
        pictures_changed=changed,
    )
    old_labels, new_labels = _labels_by_tile(before), _labels_by_tile(after)
    for tile in dict.fromkeys((*old_labels, *new_labels)):
        _compare_tile(changes, old_labels.get(tile, []), new_labels.get(tile, []))
    return changes


def checksum(images: Members, index: int) -> int | None:
    """CRC-32 of a picture's bytes, as the archive states it or computed from the bytes; None if they cannot be read."""
    stated = images.crc(index)
    try:
        return zlib.crc32(images.read(index).data) if stated is None else stated
    except InputError:
        return None


def _labels_by_tile(table: SampleTable) -> dict[str, list[Label]]:
    columns = (table.tile, regions(table), table.height, table.gsd, table.roll, table.pitch)
    tiles: dict[str, list[Label]] = defaultdict(list)
    rows = zip(table.polyline, *(column.tolist() for column in columns), strict=True)
    for polyline, tile, region, height, *metadata in rows:
        points = tuple((x, y) for x, y in without_padding(polyline).tolist())
        known = tuple(None if value != value else value for value in metadata)  # NaN would not equal itself
        tiles[tile].append(Label(tile, region, points, height, known))  # type: ignore[arg-type]
    return tiles


def _compare_tile(changes: SplitChanges, before: list[Label], after: list[Label]) -> None:
    """Add the labels of one tile to `changes`."""
    pairs, before, after = _paired(before, after, attrgetter(*CONTENT))
    changes.labels_same += len(pairs)
    for key in ("polyline", "height", "region"):
        pairs, before, after = _paired(before, after, attrgetter(key))
        for old, new in pairs:
            what = tuple(name for name in CONTENT if getattr(old, name) != getattr(new, name))
            changes.labels_changed.append(ChangedLabel(what, old, new))
    changes.labels_removed += before
    changes.labels_added += after


def _paired(
    before: list[Label], after: list[Label], key: Callable[[Label], Hashable]
) -> tuple[list[tuple[Label, Label]], list[Label], list[Label]]:
    """Pair labels of equal key, first with first → (pairs, the rest of `before`, the rest of `after`)."""
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
