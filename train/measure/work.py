"""What is open: pictures, the polylines that were given, the decisions, and the heights.

work = Work.opened(model, images, given, Path("VL_KS_LINE.decisions.json"))
work.tile(0)                    everything that the page shows of a tile
work.change(0, changes)         decide or draw; returns what another page has changed in the meantime
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipes.errors import InputError
from dali_pipes.geometry import polyline_length_px
from dali_pipes.release.names import SUFFIXES, NumberOf
from dali_pipes.samples.picture import Pictures, open_pictures
from dali_pipes.samples.table import scene_of

from ..deploy.height_model import HeightModel
from ..deploy.map_file import check_places
from .decisions import Change, Decided, Decisions, Points
from .heights import Drawn, Heights
from .pictures import Thumbnails, picture
from .polylines import Given, read_given
from .review import Review

MOST_POOLED = 300  # unknown polylines of other tiles that one answer waits for; names such as IMG_1 share a "scene"
SUFFIX = ".decisions.json"


@dataclass(frozen=True)
class Shown:
    """A polyline as it is now: `given` if nobody changed it, `decided` if somebody drew or decided it."""

    points: Points
    label: float | None
    """The height that the label states, metres."""
    given: Points | None
    """The points of the label; None for a drawn line."""
    decided: Decided | None

    @property
    def dropped(self) -> bool:
        """Whether it is to be left out of everything."""
        return self.decided is not None and self.decided.line.verdict == "drop"


class Work:
    """Opened pictures with all that belongs to them. `key` identifies it in the page's addresses."""

    def __init__(self, model: HeightModel, images: Pictures, given: Given, decisions: Decisions) -> None:
        self.images, self.given, self.decisions = images, given, decisions
        self.key = hashlib.sha256(str(decisions.path.absolute()).encode("utf-8", "backslashreplace")).hexdigest()[:16]
        self.numbers = [i for i, name in enumerate(images.names) if name.lower().endswith(SUFFIXES["pictures"])]
        if not self.numbers:
            raise InputError(
                f"expected pictures in {images.where}, found none; open a folder or archive of JPEGs, PNGs or TIFFs"
            )
        self.number_of = NumberOf(images.names)
        self.heights = Heights(model, images)
        self.thumbnails = Thumbnails(images)
        self.review = Review(self.heights, given)
        self._offers_maps: bool | None = None
        self._of_scene: dict[str, list[int]] = {}
        for i in self.numbers:
            self._of_scene.setdefault(scene_of(images.names[i]), []).append(i)

    @classmethod
    def opened(cls, model: HeightModel, images: Sequence[Path], polylines: Sequence[Path], kept: Path | None) -> Work:
        """Open paths; `kept` is the file of the decisions, by default next to the input. Raises InputError."""
        members = open_pictures(images)
        given = read_given(polylines, members) if polylines else Given()
        path = kept or decisions_path((*polylines, *images)[0])
        try:
            return cls(model, members, given, Decisions(path))
        except OSError as error:
            raise InputError(
                f"the decisions cannot be kept in {path}: {error.strerror or error}; name another file with --decisions"
            ) from None

    def name(self, image: int) -> str:
        """The file name of a picture. Raises InputError if there is no such picture."""
        if image not in range(len(self.images.names)):
            raise InputError(
                f"expected the number of one of {len(self.numbers)} pictures, found {image}; reload the page"
            )
        return self.images.names[image]

    def picture(self, image: int) -> tuple[bytes, str]:
        """The picture as a browser shows it, and its media type. Raises InputError if it is not a usable one."""
        return picture(self.images, image)

    def decided(self) -> list[dict[str, Any]]:
        """All lines that were drawn or decided, for the table of decisions."""
        rows = []
        for name, lines in self.decisions.tiles().items():
            image = self.number_of(name)
            if image is None:
                continue
            given = self.given.lines(name)
            for id_, each in lines.items():
                label = given[id_].height if id_ in given else None
                drawn = image, each.line.points
                height = self.heights.answers([drawn], pooled=False)[0].height if self.heights.knows(drawn) else None
                rows.append(
                    {"i": image, "name": name, "id": id_, "label": label, "height": height}
                    | {"verdict": each.line.verdict, "stated": each.line.height}
                )
        return sorted(rows, key=lambda row: (str(row["name"]), str(row["id"])))

    def offers_maps(self) -> bool:
        """Whether any picture has a place on Earth. Lines on the others are left out of maps, and counted."""
        if self._offers_maps is None:
            self._offers_maps = any(self.is_located(image) for image in self.numbers)
        return self._offers_maps

    def is_located(self, image: int) -> bool:
        """Whether a picture has a place on Earth."""
        try:
            check_places(self.images, np.array([image]))
        except InputError:
            return False
        return True

    def lines(self, image: int) -> dict[str, Shown]:
        """All polylines of a picture, dropped ones too: those of the label first, then those that were drawn."""
        name = self.images.names[image]
        decided = self.decisions.tiles().get(name, {})
        shown = {
            id_: Shown(
                decided[id_].line.points if id_ in decided else line.points, line.height, line.points, decided.get(id_)
            )
            for id_, line in self.given.lines(name).items()
        }
        drawn = {id_: Shown(each.line.points, None, None, each) for id_, each in decided.items() if id_ not in shown}
        return {**shown, **drawn}

    def listed(self) -> list[dict[str, Any]]:
        """One small object for each picture, for the list of thumbnails."""
        decided = self.decisions.tiles()
        counts = {name: len(self.given.images[name].get("regions") or ()) for name in self.given.images}
        rows = []
        for i in self.numbers:
            name = self.images.names[i]
            mine = decided.get(name, {})
            drawn = sum(not id_.isdigit() for id_ in mine)
            rows.append(
                {
                    "i": i,
                    "name": name,
                    "scene": scene_of(name),
                    "lines": counts.get(name, 0) + drawn,
                    "decided": len(mine),
                }
            )
        return sorted(rows, key=lambda row: (str(row["scene"]), str(row["name"])))

    def tile(self, image: int) -> dict[str, Any]:
        """A picture's size and polylines. Raises InputError if the picture cannot be used."""
        name = self.name(image)
        width, height = self.heights.size(image)
        scale = self.given.metres_per_pixel(name)
        return {
            "i": image,
            "name": name,
            "scene": scene_of(name),
            "width": width,
            "height": height,
            "lines": [self._line(name, id_, line, scale) for id_, line in self.lines(image).items()],
        }

    def change(self, image: int, changes: Sequence[Change]) -> list[str]:
        """Write changes of a picture; the ids of those that another page was faster with. Raises InputError."""
        name = self.name(image)
        width, height = self.heights.size(image)
        known = self.given.lines(name)
        for change in changes:
            line = change.line
            if line is not None and any(x > width or y > height for x, y in line.points):
                raise InputError(
                    f"expected a polyline inside {name} ({width} × {height} px), found points outside; draw again"
                )
            if change.id.isdigit() and (change.id not in known or (line is not None and line.verdict == "drawn")):
                raise InputError(
                    f"expected a decision on a label of {name}, found one on line {change.id}; reload the page"
                )
        return self.decisions.apply(name, changes)

    def answer(self, image: int, lines: Mapping[str, Points], *, pool: bool) -> dict[str, Any]:
        """The heights of `lines` on a picture, with what is unusual about them, while the others are as they are.

        `pool`: estimate one scale for all polylines of the scene. Raises InputError if the picture cannot be used.
        """
        self.name(image)
        mine: list[Drawn] = [(image, points) for points in lines.values()]
        others = self._others(image) if pool else []
        drawn = [*mine, *others]
        if not mine:
            return {"heights": {}, "pooled": 0}
        answers = self.heights.answers(drawn, pooled=pool and len(drawn) > 1)
        shown = {
            id_: {**_texts(answer._asdict()), "unusual": self.heights.unusual(each)}
            for id_, answer, each in zip(lines, answers, mine, strict=False)
        }
        return {"heights": shown, "pooled": len(drawn) if pool and len(drawn) > 1 else 0}

    def _others(self, image: int) -> list[Drawn]:
        """The polylines of the scene's other pictures; none of them if too many would have to be predicted first."""
        others: list[Drawn] = []
        for other in self._of_scene[scene_of(self.images.names[image])]:
            if other != image:
                others += [(other, line.points) for line in self.lines(other).values() if not line.dropped]
        if sum(not self.heights.knows(each) for each in others) > MOST_POOLED:
            return []
        return [each for each in others if self._is_usable(each[0])]

    def _is_usable(self, image: int) -> bool:
        try:
            self.heights.size(image)
        except InputError:  # shown where that picture is opened
            return False
        return True

    def _line(self, name: str, id_: str, line: Shown, scale: float | None) -> dict[str, Any]:
        decided = line.decided
        return {
            "id": id_,
            "points": line.points,
            "given": line.given,
            "label": line.label,
            "formula": None if scale is None else scale,
            "length": float(polyline_length_px(line.points)),
            "version": decided.version if decided else 0,
            "verdict": decided.line.verdict if decided else "",
            "height": decided.line.height if decided else None,
            "flags": self.review.flags.get((name, id_), []),
        }


def decisions_path(source: Path) -> Path:
    """Where the decisions on an input are kept: DIR/VL_KS_LINE.zip → DIR/VL_KS_LINE.decisions.json."""
    absolute = source.absolute()
    stem = absolute.name if absolute.is_dir() else absolute.stem
    return absolute.with_name(f"{stem or 'pictures'}{SUFFIX}")


def _texts(answer: Mapping[str, float]) -> dict[str, Any]:
    """Numbers as texts with one decimal, which a browser would round in another way; infinity becomes None."""
    return {name: f"{value:.1f}" if abs(value) < float("inf") else None for name, value in answer.items()} | {
        "metres": answer["height"]
    }
