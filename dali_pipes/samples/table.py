"""The table of samples: one row per polyline, in numpy columns, built from a release and checked.

What cannot be used is skipped and listed in `left_out` with its reason. Exact duplicates of polylines are kept (the
published release has three), so that scores on its validation split are comparable with other work.

Images are checked by their headers, unless `check` does more. `index.py` decodes them all, and stores the result with
`save`. Columns that can be derived are not stored.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..console import open_console
from ..errors import InputError
from ..files import open_regular, write_whole
from ..geometry import length_in_sides, normalised_length
from ..notebook import as_html
from ..release.find import open_split
from ..release.members import Members
from ..release.paths import ReleasePaths
from ..release.paths import Split as Split
from ..release.stage import staged
from ..units import count, number
from . import via
from .labels import Check, LeftOut, check_headers, check_images, read_labels
from .via import Reason

LARGEST = 1 << 30  # bytes of a saved table
FORMAT = 3  # of a saved table; increase it when the same release would give another table


class Statistics(NamedTuple):
    """Mean and population standard deviation (+ 1e-8) of length and of height in metres, as in the reference."""

    length_mean: float
    length_std: float
    height_mean: float
    height_std: float


@dataclass(frozen=True)
class SampleTable:
    """N samples in numpy columns, rows in the order of the labels' archive.

    `tile` and `scene`: (N,) str, the image's file name, and its part before the last underscore;
    `polyline`: (N, P, 2) float64 px (x, y), base first; shorter ones repeat their last point;
    `length`: (N,) float64, the reference's normalised length; `height`: (N,) float64, of the chimney in metres;
    `width`, `height_px`: (N,) int64, size of the image in pixels;
    `gsd`: (N,) float64 metres per pixel; `roll`, `pitch`: (N,) float64 degrees; NaN if the label has none;
    `image`: (N,) int64, index of the row's image in `images`.
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
    images: Members
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.tile)

    def __repr__(self) -> str:
        tiles, scenes = (
            count(len(np.unique(column)), noun) for column, noun in ((self.tile, "tile"), (self.scene, "scene"))
        )
        return f"SampleTable({count(len(self), 'sample')} on {tiles} of {scenes}, {len(self.left_out):,} skipped)"

    def _repr_html_(self) -> str:
        rows = (
            {
                "tile": self.tile[i],
                "base (px)": "{:g}, {:g}".format(*self.polyline[i, 0]),
                "top (px)": "{:g}, {:g}".format(*self.polyline[i, -1]),
                "height (m)": number(self.height[i]),
            }
            for i in range(len(self))
        )
        return as_html(repr(self), rows, len(self))

    @classmethod
    def from_release(
        cls,
        release: str | Path,
        split: Split = "train",
        *,
        images: Path | None = None,
        labels: Path | None = None,
        stage: str | Path | None = None,
    ) -> SampleTable:
        """Read the labels and the headers of the images of one split of `release`, in any form.

        `images`, `labels`: where they are, if not in the release. `stage`: a local folder to copy them to first, as
        --stage does. Raises InputError if either is missing or damaged, or
        if no sample is left.
        """
        if split not in ("train", "validation"):
            raise InputError(f'a release has the splits "train" and "validation", found {split!r}')
        paths = ReleasePaths(Path(release), images=images, labels=labels)
        if stage is not None:
            paths = staged(replace(paths, stage=Path(stage)), open_console(stderr=True))
        jpegs, texts = open_split(paths, split)
        return cls.from_labels(texts, jpegs, where=texts.where)

    @classmethod
    def from_labels(
        cls, labels: Members, images: Members, where: str = "the labels", check: Check | None = None
    ) -> SampleTable:
        """Build the table from VIA label files and JPEGs of any source, matched by file name.

        `check` decides which images can be used, by default from their headers. Raises InputError if no sample is left.
        """
        left_out: list[LeftOut] = []
        rows = read_labels(labels, images, left_out)
        image, polyline = np.frombuffer(rows.image, np.int64), rows.polylines()
        size, usable = check_images(images, image, polyline, check or check_headers, left_out)
        stated = np.frombuffer(rows.stated).reshape(-1, 2)  # the size of the image on which the polyline was drawn
        faults = {
            Reason.TWO_LABELS: np.isin(image, list(rows.doubted)),
            Reason.OTHER_SIZE: (np.isfinite(stated) & (stated != size)).any(axis=1),
            Reason.OUTSIDE: ((polyline < 0) | (polyline > size[:, None])).any(axis=(1, 2)),
        }
        kept = usable
        for reason, faulty in faults.items():
            bad = np.flatnonzero(kept & faulty).tolist()
            left_out += [LeftOut(images.names[image[row]], rows.region[row], reason) for row in bad]
            kept = kept & ~faulty
        if not kept.any():
            reasons = [item.reason for item in left_out]
            causes = [reason for reason in reasons if reason is not Reason.NO_LABEL] or reasons  # it is a consequence
            common = Counter(causes).most_common(1)
            example = next((item.file for item in left_out if common[0][0] is item.reason), "")
            because = f"; most often because {common[0][0].value}, such as for {example}" if common else ""
            raise InputError(f"expected polylines with heights in {where}, found none that can be used{because}")
        numbers = np.frombuffer(rows.numbers).reshape(-1, 4)[kept]
        most = int(np.frombuffer(rows.points_of, np.int64)[kept].max())
        return cls._of(image[kept], polyline[kept, :most], numbers, size[kept], images, tuple(left_out))

    @classmethod
    def _of(
        cls,
        image: NDArray[np.int64],
        polyline: NDArray[np.float64],
        numbers: NDArray[np.float64],
        size: NDArray[np.int64],
        images: Members,
        left_out: tuple[LeftOut, ...],
    ) -> SampleTable:
        """Derive the other columns. `numbers` (N, 4): height, gsd, roll, pitch; `size` (N, 2) px: w, h."""
        used, inverse = np.unique(image, return_inverse=True)
        names = [images.names[i] for i in used.tolist()]
        width, height_px = np.ascontiguousarray(size.T)
        height, gsd, roll, pitch = np.ascontiguousarray(numbers.T)
        return cls(
            tile=np.array(names)[inverse],
            scene=np.array([scene_of(name) for name in names])[inverse],
            polyline=polyline,
            length=normalised_length(polyline, height_px, width),
            height=height,
            width=width,
            height_px=height_px,
            gsd=gsd,
            roll=roll,
            pitch=pitch,
            image=image,
            images=images,
            left_out=left_out,
        )

    @classmethod
    def without_heights(
        cls, image: NDArray[np.int64], polyline: NDArray[np.float64], size: NDArray[np.int64], images: Members
    ) -> SampleTable:
        """Return a table of polylines (N, P, 2) px to predict, on `image` (N,) of `size` (N, 2) px (w, h).

        `height`, `gsd`, `roll` and `pitch` are NaN.
        """
        return cls._of(image, polyline, np.full((len(image), 4), np.nan), size, images, ())

    def save(self, path: Path, key: str) -> None:
        """Write the table to `path`, whole or not at all; `load` needs the same `key`.

        Only the numbers of the images are stored: loading needs the images themselves. Raises OSError.
        """
        listed = [(item.file, item.region, item.reason.name) for item in self.left_out]
        write_whole(
            path,
            lambda file: np.savez(
                file,
                format=FORMAT,
                key=key,
                image=self.image,
                polyline=self.polyline,
                numbers=np.stack([self.height, self.gsd, self.roll, self.pitch], axis=1),
                size=np.stack([self.width, self.height_px], axis=1),
                left_out=np.frombuffer(json.dumps(listed).encode(), np.uint8),  # arrays are as wide as the longest name
            ),
        )

    @classmethod
    def load(cls, path: Path, images: Members, key: str) -> SampleTable:
        """Read a table that was saved with `key` and belongs to `images`; everything in the file is checked.

        Raises InputError if it is missing, damaged, of another format or key, or not of these images.
        """
        try:
            with open_regular(path, LARGEST) as file, np.load(_stored_only(file), allow_pickle=False) as stored:
                if int(stored["format"]) != FORMAT or str(stored["key"]) != key:
                    raise ValueError("it is of other data or of another version")
                image, polyline, numbers, size = (stored[name] for name in ("image", "polyline", "numbers", "size"))
                listed = json.loads(stored["left_out"].tobytes())
            left_out = tuple(LeftOut(str(file), int(region), Reason[reason]) for file, region, reason in listed)
            _check_columns(image, polyline, numbers, size, len(images.names))
        except Exception as error:  # a damaged file may raise anything in numpy and zipfile
            raise InputError(f"{path} is no table of these samples: {error}; delete it") from None
        return cls._of(image, polyline, numbers, size, images, left_out)

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> SampleTable:
        """Return the table of some rows, by index or by mask (N,), with the same `images` and `left_out`."""
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {
            name: column[rows] for name, column in columns.items() if isinstance(column, np.ndarray)
        }
        return replace(self, **chosen)

    @property
    def length_in_sides(self) -> NDArray[np.float64]:
        """Lengths of the polylines in units of their image's longer side, (N,) float64."""
        return length_in_sides(self.polyline, self.height_px, self.width)

    def statistics(self) -> Statistics:
        """Return the mean and standard deviation of length and height over all rows, as the reference normalises."""
        return Statistics(
            float(self.length.mean()),
            float(self.length.std() + 1e-8),
            float(self.height.mean()),
            float(self.height.std() + 1e-8),
        )

    def hold_out_scenes(self, fraction: float, seed: int) -> tuple[SampleTable, SampleTable]:
        """Split by scene into (kept, held out), with about `fraction` of the samples held out, none for 0.

        The order in which scenes are chosen depends only on `seed` and their names. Raises InputError if no scene is
        left to train on.
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
        return self.select(~held_out), replace(self.select(held_out), left_out=())  # the kept side has the list


def scene_of(file: str) -> str:
    """Return the scene of a tile: the part of its file name before the last underscore."""
    return file.rpartition("_")[0] or file


def _stored_only(file: BinaryIO) -> BinaryIO:
    """Return the file of a saved table. Raises ValueError if a column is compressed, and may so be of any size."""
    with zipfile.ZipFile(file) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed")
    file.seek(0)
    return file


def _check_columns(image: Any, polyline: Any, numbers: Any, size: Any, images: int) -> None:
    """Raise ValueError if columns from a file are not what `_of` takes."""
    n, most = len(image), polyline.shape[1]
    whole = [(image, (n,), np.int64), (size, (n, 2), np.int64)]
    real = [(polyline, (n, most, 2), np.float64), (numbers, (n, 4), np.float64)]
    if any(column.shape != shape or column.dtype != dtype for column, shape, dtype in [*whole, *real]):
        raise ValueError("its columns have other shapes or types")
    if not (n and 2 <= most <= via.MOST_POINTS and (image >= 0).all() and (image < images).all()):
        raise ValueError("its rows are of other images")
    inside = (polyline >= 0).all() and (polyline <= size[:, None]).all()  # false for NaN, too
    if not (inside and (size > 0).all() and np.isfinite(numbers[:, 0]).all() and (numbers[:, 0] > 0).all()):
        raise ValueError("its values are impossible")
