"""Draw one tile with its polyline, its labelled height and the height that a run predicted for it.

    python -m bench.picture runs/picture-release runs/picture --out docs/tile.png

The release must be the one that the run was trained on. The predictions are those of the run's `predictions.csv`, so no
network is loaded. The sample is a typical one: among the validation samples of scenes not seen in training (of all
scenes if all were seen), it is the one whose calibrated error has the median size.

The picture is a PNG on a white ground, so that it is legible on light and dark pages. Its colours are reduced to a
palette, which makes the file a third of the size.
"""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from dali_pipes import SampleTable
from dali_pipes.command import parse
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import read_text, write_whole
from dali_pipes.samples.csv_text import unescaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

WIDTH, HEIGHT = 10.0, 4.6  # inches, at 100 pixels each
LARGEST = 128 << 20  # bytes of predictions.csv
COLOURS = 192
INK, MUTED = "#111827", "#6b7280"
LABEL, PREDICTED, INTERVAL = "#E8590C", "#0072B2", "#B2D4E8"  # distinct for colour-blind readers


@dataclass(frozen=True)
class Arguments:
    """Draw a tile, its polyline and both heights."""

    release: tyro.conf.Positional[Path]
    """The release that the run was trained on."""
    run: tyro.conf.Positional[Path]
    """The run folder, which contains predictions.csv."""
    out: Path
    """The PNG file to write."""


@dataclass(frozen=True)
class Sample:
    """One row of predictions.csv. `polyline`: (P, 2) pixels, base first; the other numbers are metres."""

    tile: str
    polyline: NDArray[np.float64]
    height: float
    mu: float
    low: float
    high: float
    seen: bool

    @classmethod
    def of(cls, row: dict[str, str]) -> Sample:
        """Read one row of the file."""
        points = np.array([point.split() for point in row["polyline"].split(";")], float)
        mu, low, high = (float(row[f"calibrated_{name}_m"]) for name in ("mu", "low", "high"))
        return cls(unescaped(row["tile"]), points, float(row["height_m"]), mu, low, high, row["scene_seen"] == "true")


def typical(run: Path) -> Sample:
    """The validation sample whose error has the median size. Raises InputError if no sample has an interval."""
    path = run / "predictions.csv"
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, LARGEST), newline=""), strict=True)
        rows = [row for row in reader if row["group"] == "validation" and row["calibrated_high_m"]]
        samples = [Sample.of(row) for row in rows]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"{run} holds no finished run: {path.name} cannot be read ({error})") from None
    samples = [sample for sample in samples if not sample.seen] or samples
    if not samples:
        raise InputError(f"expected calibrated intervals in {path}, found none; hold out more scenes by --data.holdout")
    return sorted(samples, key=lambda sample: abs(sample.mu - sample.height))[len(samples) // 2]


def tile_of(release: Path, sample: Sample) -> NDArray[np.uint8]:
    """The sample's tile, (H, W, 3) uint8 RGB. Raises InputError if `release` does not contain it."""
    from PIL import Image

    table = SampleTable.from_release(release, "validation")
    rows = np.flatnonzero(table.tile == sample.tile)
    if not len(rows):
        raise InputError(f"expected the tile {sample.tile} in {release}, found none; name the release of the run")
    jpeg = table.images.read(int(table.image[rows[0]]))
    return np.asarray(Image.open(io.BytesIO(jpeg.tobytes())).convert("RGB"))


def draw(sample: Sample, tile: NDArray[np.uint8]) -> Image.Image:
    """The picture: the tile on the left, the heights on the right."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(WIDTH, HEIGHT + 1e-6), dpi=100, facecolor="white")  # matplotlib 3.9 cuts 459.99 pixels off
    _draw_tile(figure.add_axes((0.012, 0.026, HEIGHT * 0.948 / WIDTH, 0.948)), sample, tile)
    _draw_heights(figure.add_axes((0.50, 0.30, 0.47, 0.26)), sample)
    for y, size, colour, text in (
        (0.86, 21, PREDICTED, f"{sample.mu:.0f} m predicted"),
        (0.775, 13, PREDICTED, f"90 % interval {sample.low:.0f} to {sample.high:.0f} m"),
        (0.665, 15, LABEL, f"{sample.height:.0f} m in the label"),
        (0.10, 10, MUTED, f"A rendered tile. Training has {'also' if sample.seen else 'not'} seen its scene."),
        (0.05, 10, MUTED, "Half of the validation samples of such scenes have larger errors."),
    ):
        figure.text(0.50, y, text, fontsize=size, color=colour, va="center")
    pixels = io.BytesIO()
    figure.savefig(pixels, format="png", facecolor="white")
    # This method keeps the colours of lines and text, which are too rare for the others.
    picture = Image.open(pixels).convert("RGB")
    return picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _draw_tile(axes: Axes, sample: Sample, tile: NDArray[np.uint8]) -> None:
    axes.imshow(tile, interpolation="antialiased")
    x, y = sample.polyline.T
    axes.plot(x, y, color="white", linewidth=3.6, solid_capstyle="round")
    axes.plot(x, y, color=LABEL, linewidth=2, solid_capstyle="round")
    axes.plot(x[[0, -1]], y[[0, -1]], "o", color=LABEL, markersize=7, markeredgecolor="white", markeredgewidth=1.5)
    for end, name in ((0, "base"), (-1, "top")):
        away = (sample.polyline[end] - sample.polyline[-1 - end]) / np.ptp(sample.polyline, axis=0).max()
        axes.annotate(
            name, sample.polyline[end], xytext=(16 * away[0], -16 * away[1]), textcoords="offset points", color=INK,
            fontsize=11, ha="center", va="center", bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "lw": 0},
        )  # fmt: skip
    axes.set(xlim=(0, tile.shape[1]), ylim=(tile.shape[0], 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _draw_heights(axes: Axes, sample: Sample) -> None:
    """The interval, the predicted height and the label on one axis in metres."""
    axes.plot([sample.low, sample.high], [1, 1], color=INTERVAL, linewidth=9, solid_capstyle="butt")
    axes.plot([sample.mu], [1], "o", color=PREDICTED, markersize=11)
    axes.plot([sample.height] * 2, [0.55, 1.45], color=LABEL, linewidth=3)
    top = 10 * np.ceil(1.15 * max(sample.high, sample.height) / 10)
    axes.set(xlim=(0, top), ylim=(0.3, 1.7), yticks=[])
    axes.set_xlabel("height, m", fontsize=11, color=INK)
    axes.tick_params(labelsize=11, colors=INK)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence():
        arguments = parse(Arguments, argv, module="bench.picture", description=__doc__)
        sample = typical(arguments.run)
        picture: Any = draw(sample, tile_of(arguments.release, sample))
        try:
            write_whole(arguments.out, lambda file: picture.save(file, format="png", optimize=True))
        except OSError as error:
            raise InputError(f"--out {arguments.out} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
