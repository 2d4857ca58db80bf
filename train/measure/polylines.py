"""The polylines that were given with the pictures: VIA's objects by tile, and the label files that they come from.

    given = read_given([Path("VL_KS_LINE.zip")], images)
    given.lines("K3_….jpg")

Unlike a prediction, a review must also show what is wrong. Label files that cannot be read, and regions that cannot be
used, are therefore counted and shown instead of refused.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dali_pipes.errors import InputError
from dali_pipes.geometry import closed_form_height
from dali_pipes.release.find import open_files
from dali_pipes.release.members import Members
from dali_pipes.release.names import SUFFIXES, NumberOf
from dali_pipes.samples.polylines import read_polylines
from dali_pipes.samples.via import images_of, read_tile, without_repeats

from .decisions import Decided, Points

HEIGHT = "chi_height_m"


class GivenLine(NamedTuple):
    """A region of a label: its points in pixels, base first, and its height in metres if it states one."""

    points: Points
    height: float | None


@dataclass(frozen=True)
class Given:
    """Polylines by tile.

    `images`: tile → VIA's object; `files`: the label files, or None if the polylines came from a CSV or there are none;
    `file_of`: tile → number of its label file; `unread`: names of label files that cannot be read; `lost`: tiles that
    have polylines and no picture.
    """

    images: Mapping[str, Any] = field(default_factory=dict)
    files: Members | None = None
    file_of: Mapping[str, int] = field(default_factory=dict)
    unread: Sequence[str] = ()
    lost: Sequence[str] = ()

    def lines(self, tile: str) -> dict[str, GivenLine]:
        """The usable polylines of a tile by their number in its list of regions, as a text."""
        if tile not in self.images:
            return {}
        heights = {region.index: region.height for region in read_tile(self.images[tile]).regions}
        return {
            str(region.index): GivenLine(_points(region.points), heights.get(region.index))
            for region in read_tile(self.images[tile], heights=False).regions
        }

    def metres_per_pixel(self, tile: str) -> float | None:
        """Height ÷ length by the closed form; None if the label has no angles. It only checks labels."""
        if tile not in self.images:
            return None
        label = read_tile(self.images[tile])
        scale = float(closed_form_height(1.0, label.gsd, label.roll, label.pitch))
        return scale if math.isfinite(scale) else None

    def has_heights(self) -> bool:
        """Whether any polyline states a height."""
        return any(line.height is not None for tile in self.images for line in self.lines(tile).values())


def _points(points: Any) -> Points:
    return tuple((float(x), float(y)) for x, y in points)


def read_given(paths: Sequence[Path], images: Members) -> Given:
    """Read polylines in all forms that `chimney predict` takes. Raises InputError if nothing in `paths` has any."""
    tables = [path for path in paths if path.suffix.lower() == ".csv"]
    others = [path for path in paths if path not in tables]
    found: list[tuple[int | None, Any]] = []
    for path in tables:
        found += [(None, image) for image in read_polylines(path).images]
    files = open_files(others, "labels", "--polylines") if others else None
    unread = []
    for i, name in enumerate(files.names if files else []):
        if files is None or not name.lower().endswith(SUFFIXES["labels"]):
            continue
        try:
            found += [(i, image) for image in images_of(document_of(files, i))]
        except (InputError, ValueError, RecursionError):
            unread.append(name)
    return _matched(found, files, unread, images)


def document_of(files: Members, index: int) -> Any:
    """Parse a label file. Raises InputError or ValueError if it cannot be read or is not JSON."""
    return json.loads(files.read(index).tobytes().decode("utf-8-sig"), object_pairs_hook=without_repeats)


def _matched(
    found: Sequence[tuple[int | None, Any]], files: Members | None, unread: list[str], images: Members
) -> Given:
    number_of = NumberOf(images.names)
    by_tile: dict[str, Any] = {}
    file_of: dict[str, int] = {}
    lost = []
    for file, image in found:
        try:
            name = read_tile(image, heights=False).filename
        except ValueError:
            unread += [files.names[file]] if files is not None and file is not None else []
            continue
        number = number_of(name)
        if number is None:
            lost.append(name)
        elif images.names[number] not in by_tile:  # of two labels for one picture, the first is shown
            by_tile[images.names[number]] = image
            if file is not None:
                file_of[images.names[number]] = file
    if not by_tile and found:
        raise InputError(
            f"expected polylines of the {len(images.names)} opened pictures, found those of {len(lost)} others, such as"
            f" {lost[0] if lost else 'a broken label'}; open the pictures that belong to them"
        )
    return Given(by_tile, files, file_of, unread, lost)


def revised(image: Any, decided: Mapping[str, Decided], *, as_label: bool) -> dict[str, Any]:
    """VIA's object of an image with all decisions applied; `image` itself stays as it is.

    `as_label`: for training, so new lines without a height are not added. Otherwise for a prediction, so regions that
    are no usable polylines are not kept.
    """
    image = copy.deepcopy(image)
    regions = image.get("regions")
    regions = list(regions.values()) if isinstance(regions, dict) else list(regions or [])
    if not as_label:
        usable = {region.index for region in read_tile(image, heights=False).regions}
        regions = [region if i in usable else None for i, region in enumerate(regions)]
    kept = [_revised_region(region, decided.get(str(i))) for i, region in enumerate(regions)]
    new = [each.line for id_, each in decided.items() if not id_.isdigit()]
    for line in new:
        if not as_label or line.height is not None:
            attributes = {} if line.height is None else {HEIGHT: f"{line.height:.2f}"}
            if as_label:
                attributes = {"chi_id": str(len(kept) + 1), **attributes}
            kept.append({"shape_attributes": _shape(line.points), "region_attributes": attributes})
    image["regions"] = [region for region in kept if region is not None]
    image["size"] = image.get("size", -1)
    image["file_attributes"] = image.get("file_attributes") or {}
    return dict(image)


def _revised_region(region: Any, decided: Decided | None) -> Any:
    if region is None or decided is None or decided.line.verdict == "accept":
        return region
    if decided.line.verdict == "drop":
        return None
    attributes = dict(region.get("region_attributes") or {})
    if decided.line.height is not None:
        attributes[HEIGHT] = f"{decided.line.height:.2f}"
    shape = region["shape_attributes"]
    if decided.line.points != _points(zip(shape["all_points_x"], shape["all_points_y"], strict=True)):
        shape = {**shape, **_shape(decided.line.points)}
    return {**region, "shape_attributes": shape, "region_attributes": attributes}


def _shape(points: Points) -> dict[str, Any]:
    xs, ys = ([int(x) if x.is_integer() else x for x in axis] for axis in zip(*points, strict=True))
    return {"name": "polyline", "all_points_x": xs, "all_points_y": ys}


def without_label(tile: str) -> dict[str, Any]:
    """VIA's object of a tile that has no polylines yet."""
    return {"filename": tile, "size": -1, "regions": [], "file_attributes": {}}
