"""Predict the heights of chimneys from tiles and the polylines drawn on them.

python -m train.predict --checkpoint best.pt --images DIR --polylines VIA.json --out heights.csv

In a notebook, the same in three lines:

    from train.predict import load
    model = load("best.pt")
    heights = model.predict("DIR", "VIA.json")  # heights.mu, heights.sigma, heights.low, heights.high: metres
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.progress import Progress

from dali_pipes import Loader, command
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.release.find import open_images
from dali_pipes.samples.polylines import read_polylines, table_of
from model import BackboneError, CheckpointError
from model.calibration import Calibration

from . import evaluate
from .deploy.heights import Float64, Heights, check_suffix
from .engine.step import Forward
from .environment import choose_device
from .report.findings import count
from .scores.predictions import Predictions
from .scores.uncertainty import LEVEL, Forecast

Images = str | Path | Sequence[str | Path]
Polylines = str | Path | Mapping[str, Sequence[ArrayLike]]
Pool = Literal["none", "scene"]


class HeightModel:
    """A trained network, ready to predict; `load` makes one.

    `trained` is what the checkpoint holds; the network runs on `forward.device` in `forward.dtype`.
    """

    def __init__(self, trained: evaluate.Trained, forward: Forward) -> None:
        self.trained = trained
        self.forward = forward

    def predict(
        self, images: Images, polylines: Polylines, *, pool: Pool = "none", console: Console | None = None
    ) -> Heights:
        """Predict all polylines, each on its image, through the same graph that trains.

        `images`: a folder, a ZIP or tar, or JPEGs; any size, no metadata.  `polylines`: VIA's JSON or CSV, a CSV with
        the columns tile and polyline, or {"tile.jpg": [[(x, y), (x, y)], …]} in pixels, base first.  `pool`: "scene"
        lets the polylines of one scene, which share a scale, learn from each other; the scene is what stands before
        the last underscore of a tile's name.  `console`: where progress is shown, by default nowhere.

        Raises InputError if a polyline's image is missing or broken, or a polyline cannot be used.
        """
        console = console or Console(quiet=True)
        paths = [Path(images)] if isinstance(images, (str, Path)) else [Path(path) for path in images]
        wanted = read_polylines(Path(polylines) if isinstance(polylines, (str, Path)) else polylines)
        table = table_of(wanted, open_images(paths), console=console)
        loader = Loader(
            table,
            self.forward.batch_size,
            device=self.forward.device,
            size=self.trained.size,
            view=self.trained.view,
            statistics=self.trained.statistics,
        )
        with Progress(console=console, disable=not console.is_terminal) as progress:
            shown = partial(progress.track, total=len(loader), description="predicting")
            raw_mu, raw_sigma = evaluate.predict(self.forward, loader, self.trained.target, shown)
        loader.close()
        asked = Predictions("asked", "What was asked for.", table, raw_mu, raw_sigma, np.zeros(len(table), bool))
        said = list(evaluate.refine(self.trained, [asked], pool)[0].forecasts().values())
        return Heights(wanted, table, *_columns(said[-1]), *_columns(said[0]))  # the most refined, the network's own


def _columns(forecast: Forecast) -> tuple[Float64, Float64, Float64, Float64]:
    """mu, sigma and the ends of the 90 % interval, (N,) each; no height is below 0."""
    low, high = forecast.intervals[LEVEL]
    return forecast.mu, forecast.sigma, np.maximum(low, 0.0), high


def load(checkpoint: str | Path, *, device: str = "auto", batch_size: int = 64) -> HeightModel:
    """Read a checkpoint or a run folder of this project, or a checkpoint of the reference system.

    `device`: "cpu", "cuda", "cuda:N", or "auto", a GPU if there is one.  Raises CheckpointError if the file cannot be
    used, InputError if the device is not there.
    """
    where = choose_device(device)
    trained = evaluate.load(Path(checkpoint))
    return HeightModel(trained, evaluate.forward_of(trained, where, batch_size))


@dataclass(frozen=True)
class Arguments:
    """Predict heights of polylines: metres, their σ and their 90 % interval, raw and calibrated."""

    checkpoint: Path
    """A run folder, a best.pt or last.pt of one, or a .pth in the reference's layout."""

    images: tuple[Path, ...]
    """A folder of JPEGs at any depth, a ZIP or tar of them, or the files themselves; any size, no metadata."""

    polylines: Path
    """VIA's JSON or CSV, or a CSV with the columns tile and polyline ("x y;x y" in pixels, base first)."""

    out: Path
    """heights.csv, heights.json (a VIA project) or heights.geojson (in pixels)."""

    pool: Pool = "none"
    """scene: let the polylines of one scene, which share a scale, learn from each other."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""

    batch_size: int = 64
    """Samples a step."""


def write(arguments: Arguments) -> None:
    """Predict as the command line says.  Raises InputError, CheckpointError or BackboneError on bad input."""
    check_suffix(arguments.out)
    command.check_out(arguments.out)
    console = Console()
    model = load(arguments.checkpoint, device=arguments.device, batch_size=arguments.batch_size)
    heights = model.predict(arguments.images, arguments.polylines, pool=arguments.pool, console=console)
    heights.write(arguments.out)
    told = f"{len(heights)} heights of {len(set(heights.table.tile.tolist()))} tiles: {arguments.out}"
    console.print(told, highlight=False, markup=False, soft_wrap=True)
    if caveat := _caveat(model.trained.calibration, pooled=arguments.pool == "scene"):
        console.print(caveat, highlight=False, soft_wrap=True)


def _caveat(calibration: Calibration | None, *, pooled: bool) -> str:
    """What must be known of the intervals that a file holds, unless they promise their level on a new scene."""
    if calibration is None:
        return "the checkpoint holds no calibration: σ and intervals are the network's own"
    reach = (calibration.pooled_quantiles if pooled else calibration.quantiles).get(LEVEL)
    if reach is None:
        return (
            f"the checkpoint's calibration has no intervals: they are its Gaussian's, and {LEVEL:.0%} is not promised"
        )
    if math.isinf(reach):
        scenes = count(calibration.scenes, "scene")
        return f"calibrated on {scenes}, too few to promise {LEVEL:.0%}: intervals have no upper end"
    return ""


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        write(command.parse(Arguments, argv, module="train.predict", description=__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
