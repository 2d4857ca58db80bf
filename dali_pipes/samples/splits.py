"""Divide samples into training and validation: the release's own split, or folds of whole scenes.

    training, validation = Division("scene", folds=5, fold=0, seed=0).divide(train, validation)

All validation scenes of the official split are also in training, and a network can recognise a scene. With `scene`,
both splits are therefore merged, and each scene belongs to one of `folds` folds. Fold number `fold` is for validation.
Tiles only overlap within a scene, so no picture of a chimney is on both sides.

A chimney that was photographed on two days is in two scenes, and nothing in the data links them: labels have no
coordinates, `chi_id` counts within a tile, and different chimneys may have equal heights. From such a pair a network
could learn the height of a chimney from another angle, but not the scale of the scene. This is not prevented.
"""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..release.members import Members, Merged
from ..release.names import name_key
from ..units import count
from .labels import LeftOut
from .table import SampleTable, scene_of
from .via import Reason

VALIDATION, DEVELOPMENT = "validation", "development"  # the groups of samples that are not trained on
MOST_SHARED = 0.2  # of either split's tiles; a larger share means wrong paths
FOLDS = 0xF01D  # second word of the seed, so that folds and held-out scenes are independent


@dataclass(frozen=True)
class Division:
    """How samples are divided into training and validation.

    `folds`, `fold` and `seed` apply only to "scene". Raises InputError if there is no such fold.
    """

    by: Literal["official", "scene"] = "official"
    folds: int = 5
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in ("official", "scene"):
            raise InputError(f"--split takes official or scene, found {self.by!r}")
        if self.folds < 2 or not 0 <= self.fold < self.folds:
            raise InputError(f"expected two folds or more, numbered from 0, found fold {self.fold} of {self.folds}")

    def divide(self, train: SampleTable, validation: SampleTable) -> tuple[SampleTable, SampleTable]:
        """Divide the tables of the release's splits into (training, validation), each with its list of skipped samples.

        Raises InputError if there are fewer scenes than folds.
        """
        if self.by == "official":
            return train, validation
        both = merge(train, validation)
        names, scene, sizes = np.unique(both.scene, return_inverse=True, return_counts=True)
        if len(names) < self.folds:
            raise InputError(f"expected at least as many scenes as folds, found {len(names)} scenes for {self.folds}")
        validates = assign_folds(sizes, self.folds, self.seed) == self.fold
        of_fold = set(names[validates].tolist())
        rows = validates[scene]
        sides = []
        for inside in (False, True):
            left_out = tuple(item for item in both.left_out if (scene_of(item.file) in of_fold) == inside)
            sides.append(replace(both.select(rows == inside), left_out=left_out))
        return sides[0], sides[1]

    def __str__(self) -> str:
        """Describe the validation samples in a sentence."""
        if self.by == "official":
            return "The release's own validation split."
        return (
            f"Fold {self.fold} of {self.folds} (from 0, seed {self.seed}) of the release's training and validation"
            " tiles together, divided by scene: none of its scenes was left in training."
        )


def shared_tiles(train: SampleTable, validation: SampleTable) -> dict[int, int]:
    """Return number in `train.images` → number in `validation.images` of each tile that both tables use.

    Two tiles are the same if they have the same name, or the same picture: its size and CRC-32, which most archives
    state. Pictures are read only where no CRC is stated and another picture has the same size.
    """
    names: dict[str, int] = {}
    sizes: dict[int, list[int]] = {}
    for i in np.unique(validation.image).tolist():
        names[name_key(validation.images.names[i])] = i
        sizes.setdefault(validation.images.size(i), []).append(i)
    known: dict[int, int] = {}  # checksums in validation
    shared = {}
    for i in np.unique(train.image).tolist():
        twin = names.get(name_key(train.images.names[i]))
        if twin is None:
            alike = sizes.get(train.images.size(i), ())
            known.update({j: _checksum(validation.images, j) for j in alike if j not in known})
            own = _checksum(train.images, i) if alike else None
            twin = next((j for j in alike if known[j] == own), None)
        if twin is not None:
            shared[i] = twin
    return shared


def _checksum(images: Members, i: int) -> int:
    recorded = images.crc(i)
    return zlib.crc32(images.read(i).data) if recorded is None else recorded


def without_shared_tiles(train: SampleTable, validation: SampleTable) -> tuple[SampleTable, str]:
    """Drop the tiles of `validation` from `train` → (training table, a sentence that names them, or "").

    Raises InputError if they are more than the share `MOST_SHARED` of either split's tiles.
    """
    shared = shared_tiles(train, validation)
    if not shared:
        return train, ""
    refuse_same_tiles(train, validation, shared)
    examples = []
    for i, j in list(shared.items())[:10]:
        name, twin = train.images.names[i], validation.images.names[j]
        examples.append(name if name == twin else f"{name} ({twin} there)")
    more = f" and {len(shared) - len(examples)} more" if len(shared) > len(examples) else ""
    dropped = tuple(LeftOut(train.images.names[i], -1, Reason.SHARED) for i in shared)
    kept = replace(train.select(~np.isin(train.image, list(shared))), left_out=train.left_out + dropped)
    return kept, f"dropped {count(len(shared), 'training tile')} also in validation: {', '.join(examples)}{more}"


def repeated_pictures(table: SampleTable) -> dict[int, int]:
    """Return number in `table.images` → number of the first picture with the same bytes, for each that is not first.

    Pictures are compared as in `shared_tiles`.
    """
    images, sizes = table.images, Counter[int]()
    used = np.unique(table.image).tolist()
    sizes.update(images.size(i) for i in used)
    first: dict[tuple[int, int], int] = {}
    twins = {}
    for i in used:
        if sizes[size := images.size(i)] > 1:
            twin = first.setdefault((size, _checksum(images, i)), i)
            if twin != i:
                twins[i] = twin
    return twins


def without_repeated_pictures(train: SampleTable) -> tuple[SampleTable, str]:
    """Drop pictures that `train` has under an earlier name → (table, a sentence that names them, or "").

    They would count twice, and on both sides of a division by scene if their names are of two scenes.
    """
    twins = repeated_pictures(train)
    if not twins:
        return train, ""
    names = train.images.names
    dropped = tuple(LeftOut(names[i], -1, Reason.REPEATED) for i in twins)
    kept = replace(train.select(~np.isin(train.image, list(twins))), left_out=train.left_out + dropped)
    examples = [f"{names[i]} (also {names[first]})" for i, first in list(twins.items())[:10]]
    more = f" and {len(twins) - len(examples)} more" if len(twins) > len(examples) else ""
    what = count(len(twins), "training tile")
    return kept, f"dropped {what} whose picture is also there under another name: {', '.join(examples)}{more}"


def refuse_same_tiles(train: SampleTable, validation: SampleTable, shared: dict[int, int]) -> None:
    """Raise InputError if the `shared` tiles are more than the share `MOST_SHARED` of either split's."""
    sides = (len(shared), train), (len(set(shared.values())), validation)
    if any(n > MOST_SHARED * len(np.unique(table.image)) for n, table in sides):
        i, j = next(iter(shared.items()))
        raise InputError(
            f"expected training and validation to share no tile, or at most {MOST_SHARED:.0%}, found {len(shared)} of"
            f" {train.images.where} also in {validation.images.where}, such as {train.images.names[i]} and"
            f" {validation.images.names[j]}; give each split its own --train-images, --train-labels,"
            " --validation-images and --validation-labels"
        )


def assign_folds(sizes: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Assign scenes of `sizes` (S,) samples to folds → fold of each scene (S,) int64, the same on every machine.

    Large scenes are assigned first, each to the smallest fold so far, so that two folds differ by at most the largest
    scene. Sizes are rounded down to powers of two, and scenes of equal rounded size are ordered at random. Otherwise
    the seed would hardly change the folds.
    """
    words = np.random.PCG64(np.random.SeedSequence((seed, FOLDS))).random_raw(len(sizes) + folds)
    magnitude = np.frexp(np.asarray(sizes, np.float64))[1]
    smallest = [(0, int(word), fold) for fold, word in enumerate(words[len(sizes) :])]  # ties: the random word decides
    heapq.heapify(smallest)
    fold_of = np.empty(len(sizes), np.int64)
    for scene in np.lexsort((words[: len(sizes)], -magnitude)).tolist():
        size, word, fold_of[scene] = smallest[0]
        heapq.heapreplace(smallest, (size + int(sizes[scene]), word, int(fold_of[scene])))
    return fold_of


def merge(*tables: SampleTable) -> SampleTable:
    """Concatenate tables, and their lists of skipped samples."""
    most = max(table.polyline.shape[1] for table in tables)
    images = Merged(*(table.images for table in tables))
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(table, field.name) for table in tables])
        for field in fields(SampleTable)
        if field.name not in ("polyline", "image", "images", "left_out")
    }
    return SampleTable(
        **columns,
        polyline=np.concatenate([np.pad(table.polyline, _more_points(table, most), "edge") for table in tables]),
        image=np.concatenate([table.image + first for table, first in zip(tables, images.first, strict=True)]),
        images=images,
        left_out=tuple(item for table in tables for item in table.left_out),
    )


def _more_points(table: SampleTable, most: int) -> tuple[tuple[int, int], ...]:
    return (0, 0), (0, most - table.polyline.shape[1]), (0, 0)
