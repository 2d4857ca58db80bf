"""Which samples are trained on and which validate: the release's own split, or folds that share no scene.

    training, validation = Division("scene", folds=5, fold=0, seed=0).divide(train, validation)

All validation scenes of the official split occur in training, too, and a network can recognise a scene.  `scene`
therefore pools both of the release's splits and gives every scene as a whole to one of `folds` folds; fold number
`fold` validates.  Tiles overlap only inside a scene, so no picture of a chimney is on both sides.

One chimney photographed on two days stands in two scenes, and nothing in the data says that it is the same: labels
have no coordinates, `chi_id` counts within a tile, and equal heights are no evidence.  What a network could learn
from such a pair is a chimney's height and not its scene's scale, from another angle; it is not guarded against.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..release.members import Members
from .table import SampleTable, scene_of

FOLDS = 0xF01D  # the second word of the seed: folds and held-out scenes are drawn independently


@dataclass(frozen=True)
class Division:
    """How samples are divided into training and validation.

    `folds`, `fold` and `seed` count for "scene" alone.  Raises InputError if there is no such fold.
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
        """The release's (training, validation) tables → those of this division, each with what was left out of it.

        Raises InputError if there are fewer scenes than folds.
        """
        if self.by == "official":
            return train, validation
        both = pool(train, validation)
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
        """What the validation samples are, as a sentence."""
        if self.by == "official":
            return "The release's own validation split."
        return (
            f"Fold {self.fold} of {self.folds} (from 0, seed {self.seed}) of the release's training and validation"
            " tiles together, divided by scene: none of its scenes was left in training."
        )


def refuse_shared_tiles(train: SampleTable, validation: SampleTable) -> None:
    """Raise InputError if the release's splits were read from the same images and have tiles in common."""
    shared = np.intersect1d(train.tile, validation.tile)
    if len(shared) and train.images.fingerprint() == validation.images.fingerprint():
        raise InputError(
            f"expected training and validation to share no tile, found {len(shared)} tiles of {train.images.where} in"
            f" both, such as {shared[0]}; give each split its own --train-images, --train-labels, --validation-images"
            " and --validation-labels"
        )


def assign_folds(sizes: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Give scenes of `sizes` (S,) samples to folds → fold of each scene (S,) int64, the same on every machine.

    Large scenes come first, each to the fold that is smallest so far, so that two folds differ by no more than the
    largest scene.  "Large" is by powers of two, and the order within is drawn, else the seed would hardly matter.
    """
    words = np.random.PCG64(np.random.SeedSequence((seed, FOLDS))).random_raw(len(sizes) + folds)
    magnitude = np.frexp(np.asarray(sizes, np.float64))[1]
    smallest = [(0, int(word), fold) for fold, word in enumerate(words[len(sizes) :])]  # ties: by drawn word
    heapq.heapify(smallest)
    fold_of = np.empty(len(sizes), np.int64)
    for scene in np.lexsort((words[: len(sizes)], -magnitude)).tolist():
        size, word, fold_of[scene] = smallest[0]
        heapq.heapreplace(smallest, (size + int(sizes[scene]), word, int(fold_of[scene])))
    return fold_of


def pool(*tables: SampleTable) -> SampleTable:
    """The rows of all tables, one after the other, with all that was left out of them."""
    most = max(table.polyline.shape[1] for table in tables)
    images = PooledImages(*(table.images for table in tables))
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


class PooledImages(Members):
    """The images of several archives as one: those of the first, then those of the second, and so on."""

    def __init__(self, *parts: Members) -> None:
        self.parts = parts
        self.where = ", ".join(part.where for part in parts)
        self.names = [name for part in parts for name in part.names]
        self.first = list(accumulate((len(part.names) for part in parts[:-1]), initial=0))

    def read(self, index: int) -> NDArray[np.uint8]:
        """The bytes of image `index` → (n,) uint8."""
        images, its = self._part(index)
        return images.read(its)

    def fault(self, index: int) -> str:
        """Why image `index` cannot be read, or ""."""
        images, its = self._part(index)
        return images.fault(its)

    def crc(self, index: int) -> int | None:
        """CRC-32 of image `index`, or None where its archive states none."""
        images, its = self._part(index)
        return images.crc(its)

    def size(self, index: int) -> int:
        """How many bytes image `index` has, as its archive states."""
        images, its = self._part(index)
        return images.size(its)

    def fingerprint(self) -> str:
        """Changes when the data of any part do."""
        return " ".join(part.fingerprint() for part in self.parts)

    def _part(self, index: int) -> tuple[Members, int]:
        part = bisect_right(self.first, index) - 1
        return self.parts[part], index - self.first[part]


VALIDATION, DEVELOPMENT = "validation", "development"
