"""What people drew and decided, in a JSON file next to the input, which is never changed.

    decisions = Decisions(Path("VL_KS_LINE.decisions.json"))
    conflicts = decisions.apply("K3_….jpg", [Change("0", since=0, line=Line(points, "drop"))])

The file holds only the polylines that differ from the input. It is written whole and atomically after each change, so
it survives a kill. Each line carries the version of the file that last wrote it. A change states the version of the
line that its page has seen; if another page wrote the line since then, the change is refused, and all others of the
same request are still made. A lock makes this hold for two processes, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from dali_pipes.errors import InputError
from dali_pipes.files import alone, write_text
from dali_pipes.samples.via import MOST_POINTS, TALLEST

Verdict = Literal["drawn", "accept", "correct", "drop"]
Points = tuple[tuple[float, float], ...]

FORMAT = 1
MOST_BYTES = 1 << 28
LONGEST_ID = 40
MOST_LINES = 200  # of one tile; a release has at most a dozen


@dataclass(frozen=True)
class Line:
    """A polyline that was drawn, or a label that was decided on.

    `points`: pixels (x, y), base first. `verdict`: "drawn" for a new line; "accept", "correct" or "drop" for a label.
    `height`: metres, if a person stated one. Raises ValueError if a value is impossible.
    """

    points: Points
    verdict: Verdict = "drawn"
    height: float | None = None

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"expected one of {', '.join(get_args(Verdict))}, found {self.verdict!r}")
        if not 2 <= len(self.points) <= MOST_POINTS or not all(0 <= x < 1e6 for point in self.points for x in point):
            raise ValueError(f"expected 2 to {MOST_POINTS} points inside the picture")
        if len(set(self.points)) < 2:
            raise ValueError("expected a polyline with a length")
        if self.height is not None and not (math.isfinite(self.height) and 0 < self.height < TALLEST):
            raise ValueError(f"expected a height above 0 and below {TALLEST} m")

    @classmethod
    def of(cls, values: Any) -> Line:
        """Read a line from JSON. Raises ValueError or TypeError if it is none."""
        points = tuple((float(x), float(y)) for x, y in values["points"])
        height = values.get("height")
        return cls(points, values.get("verdict", "drawn"), None if height is None else float(height))


@dataclass(frozen=True)
class Change:
    """A new value of one line; None deletes it. `since`: the version of the line that the page has seen, 0 if none."""

    id: str
    since: int
    line: Line | None


@dataclass(frozen=True)
class Decided:
    """A line of the file, and the version of the file that wrote it."""

    version: int
    line: Line


class Decisions:
    """The decisions of all tiles, read from `path` if it exists.

    Raises InputError if the file exists and is not one of this program, or if its folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_name(f".{path.name}.lock")
        with alone(self._lock):  # also shows at once that the folder can be written
            self._version, self._tiles = self._read()
        self._stamp = self._stamped()

    def tiles(self) -> Mapping[str, Mapping[str, Decided]]:
        """Tile → id → line, as the file holds them now."""
        if self._stamped() != self._stamp:
            with alone(self._lock):
                self._version, self._tiles = self._read()
                self._stamp = self._stamped()
        return self._tiles

    def apply(self, tile: str, changes: Sequence[Change]) -> list[str]:
        """Make the changes of one tile, and return the ids that another page has changed since, which stay.

        Raises InputError if the tile would have too many lines, and OSError if the file cannot be written.
        """
        with alone(self._lock):
            version, tiles = self._read()
            lines = dict(tiles.get(tile, {}))
            conflicts = [change.id for change in changes if _version_of(lines, change.id) != change.since]
            made = [change for change in changes if change.id not in conflicts]
            for change in made:
                if change.line is None:
                    lines.pop(change.id, None)
                else:
                    lines[change.id] = Decided(version + 1, change.line)
            if len(lines) > MOST_LINES:
                raise InputError(f"expected at most {MOST_LINES} polylines on {tile}, found {len(lines)}; delete some")
            if made:
                version, tiles = version + 1, {**tiles, tile: lines}
                self._write(version, tiles)
            self._version, self._tiles, self._stamp = version, tiles, self._stamped()
        return conflicts

    def _stamped(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> tuple[int, dict[str, dict[str, Decided]]]:
        try:
            if self.path.stat().st_size > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES >> 20} MiB")
            document = json.loads(self.path.read_bytes().decode("utf-8"))
            if document["format"] != FORMAT:
                raise ValueError("another format")
            tiles = {
                str(tile): {str(id_): Decided(int(line["version"]), Line.of(line)) for id_, line in lines.items()}
                for tile, lines in document["tiles"].items()
            }
            return int(document["version"]), tiles
        except FileNotFoundError:
            return 0, {}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise InputError(
                f"expected decisions of chimney measure in {self.path}, found something else"
                f" ({type(error).__name__}); move the file away, or name another one with --decisions"
            ) from None

    def _write(self, version: int, tiles: Mapping[str, Mapping[str, Decided]]) -> None:
        document = {
            "format": FORMAT,
            "version": version,
            "tiles": {
                tile: {id_: {"version": decided.version, **asdict(decided.line)} for id_, decided in lines.items()}
                for tile, lines in tiles.items()
                if lines
            },
        }
        write_text(self.path, json.dumps(document, ensure_ascii=False, allow_nan=False))


def _version_of(lines: Mapping[str, Decided], id_: str) -> int:
    return lines[id_].version if id_ in lines else 0
