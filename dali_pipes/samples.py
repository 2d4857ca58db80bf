"""The table of samples: one row a polyline, columns of numpy, built from a release and checked on the way.

What cannot be used is left out of the table and listed in `left_out` with its reason; nothing is dropped in
silence.  Exact duplicate polylines, of which the published release has three, stay: figures on its validation
split would otherwise not be comparable with other people's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from . import via
from .errors import InputError
from .geometry import normalised_length
from .jpeg import JpegHeader, read_header
from .release import open_split
from .via import Reason

Split = Literal["train", "validation"]


class Images(Protocol):
    """Random access to the JPEG bytes of a release: an `Archive`, or anything that reads like one."""

    names: list[str]

    def read(self, index: int) -> NDArray[np.uint8]:
        """The bytes of image `index` → (n,) uint8."""


class LeftOut(NamedTuple):
    """A region that is not in the table; `region` is its index in the tile, -1 for the tile as a whole."""

    file: str
    region: int
    reason: Reason


class Statistics(NamedTuple):
    """The reference's tuple: mean and population standard deviation (+ 1e-8) of length and of height in metres."""

    length_mean: float
    length_std: float
    height_mean: float
    height_std: float


@dataclass(frozen=True)
class SampleTable:
    """N samples in columns of numpy, rows in the order of the labels' archive.

    `tile` and `scene`: (N,) str, the image's file name and what stands before its last underscore;
    `polyline`: (N, P, 2) float64 px (x, y), base first, short ones repeat their last point;
    `length`: (N,) float64, the reference's normalised length; `height`: (N,) float64, the chimney's in metres;
    `width`, `height_px`: (N,) int64, the image's size in pixels;
    `gsd`: (N,) float64 metres a pixel, `roll`, `pitch`: (N,) float64 degrees, NaN where the label has none;
    `image`: (N,) int64, the row's index into `images`.
    """

    tile: NDArray[np.str_]
    scene: NDArray[np.str_]
    polyline: NDArray[np.float64]
    length: NDArray[np.float64]
    height: NDArray[np.float64]
    width: NDArray[np.int64]
    height_px: NDArray[np.int64]
    gsd: NDArray[np.float64]
    roll: NDArray[np.float64]
    pitch: NDArray[np.float64]
    image: NDArray[np.int64]
    images: Images
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.tile)

    @classmethod
    def from_release(
        cls, release: str | Path, split: Split = "train", *, images: Path | None = None, labels: Path | None = None
    ) -> SampleTable:
        """Read the labels and the images' headers of one split of `release`, in any form that `open_split` reads.

        `images` and `labels` name either outright.  Raises InputError if one is missing or damaged, or if no sample
        is left.
        """
        if split not in ("train", "validation"):
            raise InputError(f'a release has the splits "train" and "validation", found {split!r}')
        jpegs, texts = open_split(Path(release), split, images=images, labels=labels)
        return cls.from_labels(texts, jpegs, where=texts.where)

    @classmethod
    def from_labels(cls, labels: Images, images: Images, where: str = "the labels") -> SampleTable:
        """Build the table from any source of VIA label files and of JPEGs, matched by file name."""
        left_out: list[LeftOut] = []
        rows = list(_rows(labels, images, left_out))
        if not rows:
            common = Counter(item.reason for item in left_out).most_common(1)
            because = f"; most often because {common[0][0].value}" if common else ""
            raise InputError(f"expected polylines with heights in {where}, found none that can be used{because}")
        return cls._from_rows(rows, images, tuple(left_out))

    @classmethod
    def _from_rows(cls, rows: list[_Row], images: Images, left_out: tuple[LeftOut, ...]) -> SampleTable:
        most = max(len(row.region.points) for row in rows)
        polyline = np.stack(
            [np.pad(row.region.points, ((0, most - len(row.region.points)), (0, 0)), "edge") for row in rows]
        )
        width = np.array([row.jpeg.width for row in rows], np.int64)
        height_px = np.array([row.jpeg.height for row in rows], np.int64)
        tile = np.array([row.label.filename for row in rows])
        return cls(
            tile=tile,
            scene=np.array([name.rpartition("_")[0] or name for name in tile.tolist()]),
            polyline=polyline,
            length=normalised_length(polyline, height_px, width),
            height=np.array([row.region.height for row in rows]),
            width=width,
            height_px=height_px,
            gsd=np.array([row.label.gsd for row in rows]),
            roll=np.array([row.label.roll for row in rows]),
            pitch=np.array([row.label.pitch for row in rows]),
            image=np.array([row.image for row in rows], np.int64),
            images=images,
            left_out=left_out,
        )

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> SampleTable:
        """The table of some rows, by index or by mask (N,); it keeps `images` and `left_out`."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {
            name: column[rows] for name, column in columns.items() if isinstance(column, np.ndarray)
        }
        return replace(self, **chosen)

    def statistics(self) -> Statistics:
        """Mean and standard deviation of length and height over all rows, as the reference normalises them."""
        return Statistics(
            float(self.length.mean()),
            float(self.length.std() + 1e-8),
            float(self.height.mean()),
            float(self.height.std() + 1e-8),
        )

    def hold_out_scenes(self, fraction: float, seed: int) -> tuple[SampleTable, SampleTable]:
        """Split by scene into (kept, held out), about `fraction` of the samples held out, none for 0.

        Scenes are drawn in an order that depends on `seed` and their names alone.  Raises InputError if the
        fraction leaves no scene on one side.
        """
        names, inverse, counts = np.unique(self.scene, return_inverse=True, return_counts=True)
        order = np.argsort(np.random.PCG64(seed).random_raw(len(names)), kind="stable")
        before = np.cumsum(counts[order]) - counts[order]
        chosen = order[before < fraction * len(self)]
        if len(chosen) == len(names):
            raise InputError(
                f"holding out {fraction:g} of the samples by scene leaves none of the {len(names)} scenes to train on;"
                " hold out less"
            )
        held_out = np.isin(inverse, chosen)
        return self.select(~held_out), self.select(held_out)


@dataclass(frozen=True)
class _Row:
    label: via.TileLabel
    region: via.Region
    image: int
    jpeg: JpegHeader


def _rows(labels: Images, images: Images, left_out: list[LeftOut]) -> Iterator[_Row]:
    index = {name: i for i, name in enumerate(images.names)}
    for i, name in enumerate(labels.names):
        if not name.endswith(".json"):
            continue
        try:
            tiles = via.parse(labels.read(i).tobytes())
        except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            left_out.append(LeftOut(name, -1, Reason.BROKEN_LABEL))
            continue
        for tile in tiles:
            left_out.extend(LeftOut(tile.filename, *vars(rejected).values()) for rejected in tile.rejected)
            if tile.regions:
                yield from _rows_of_tile(tile, index.get(tile.filename), images, left_out)


def _rows_of_tile(tile: via.TileLabel, image: int | None, images: Images, left_out: list[LeftOut]) -> Iterator[_Row]:
    if image is None:
        left_out.append(LeftOut(tile.filename, -1, Reason.NO_IMAGE))
        return
    jpeg = read_header(images.read(image).data)
    fault = _fault(jpeg)
    if jpeg is None or fault is not None:
        left_out.append(LeftOut(tile.filename, -1, fault or Reason.NOT_A_JPEG))
        return
    for region in tile.regions:
        if (region.points < 0).any() or (region.points > (jpeg.width, jpeg.height)).any():
            left_out.append(LeftOut(tile.filename, region.index, Reason.OUTSIDE))
        else:
            yield _Row(tile, region, image, jpeg)


def _fault(jpeg: JpegHeader | None) -> Reason | None:
    if jpeg is None:
        return Reason.NOT_A_JPEG
    if not jpeg.complete:
        return Reason.TRUNCATED
    if jpeg.orientation != 1:
        return Reason.ROTATED
    if jpeg.components not in (1, 3):
        return Reason.COLOURS
    return None
