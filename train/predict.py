"""Predict the heights of chimneys from tiles and the polylines that are drawn on them.

python -m train.predict --checkpoint best.pt --images DIR --polylines VIA.json --out heights.csv

The same in Python:

    from train.predict import load
    model = load("best.pt")
    heights = model.predict("DIR", "VIA.json")  # heights.mu, heights.sigma, heights.low, heights.high: metres
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dali_pipes import command
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.units import count
from model import BackboneError, CheckpointError
from model.calibration import Calibration

from .deploy.height_model import HeightModel, Pooling, load
from .deploy.predicted_heights import check_suffix
from .scores.uncertainty import LEVEL

__all__ = ["HeightModel", "load"]


@dataclass(frozen=True)
class Arguments:
    """Predict the height of each polyline in metres, with σ and a 90 % interval, raw and calibrated."""

    checkpoint: Path
    """A run folder, its best.pt or last.pt, or a .pth in the reference's layout."""

    images: tuple[Path, ...]
    """A folder of JPEGs at any depth, a ZIP or tar of them, or the files; of any size, without metadata."""

    polylines: Path
    """VIA's JSON or CSV, or a CSV with the columns tile and polyline ("x y;x y" in pixels, base first)."""

    out: Path
    """heights.csv, heights.json (a VIA project) or heights.geojson (in pixels)."""

    pool: Pooling = "none"
    """scene: estimate one scale for all polylines of a scene, which share it."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto for a GPU if there is one."""

    batch_size: int = 64
    """Samples per step."""

    statistics: Path | None = None
    """Needed only for a bare state dict: a JSON file of length mean, length std, height mean and height std, or the
    release that it was trained on."""


def predict(arguments: Arguments) -> None:
    """Predict and write the file. Raises InputError, CheckpointError or BackboneError on bad input."""
    check_suffix(arguments.out)
    command.check_out(arguments.out)
    console = Console()
    model = load(
        arguments.checkpoint,
        device=arguments.device,
        batch_size=arguments.batch_size,
        statistics=arguments.statistics,
    )
    heights = model.predict(arguments.images, arguments.polylines, pool=arguments.pool, console=console)
    heights.write(arguments.out)
    summary = f"{len(heights)} heights on {len(set(heights.table.tile.tolist()))} tiles: {arguments.out}"
    console.print(summary, highlight=False, markup=False, soft_wrap=True)
    if caveat := _caveat(model.trained.calibration, pooled=arguments.pool == "scene"):
        console.print(caveat, highlight=False, soft_wrap=True)


def _caveat(calibration: Calibration | None, *, pooled: bool) -> str:
    """A warning about the intervals in the file; empty if they have their level on new scenes."""
    if calibration is None:
        return "the checkpoint holds no calibration: σ and intervals are the network's own"
    quantile = (calibration.pooled_quantiles if pooled else calibration.quantiles).get(LEVEL)
    if quantile is None:
        return f"the calibration has no intervals: those of a Gaussian are used, without a promise of {LEVEL:.0%}"
    if math.isinf(quantile):
        scenes = count(calibration.scenes, "scene")
        return f"calibrated on {scenes}, too few to promise {LEVEL:.0%}: intervals have no upper end"
    return ""


def main(argv: list[str]) -> None:
    """The command: on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        predict(command.parse(Arguments, argv, module="train.predict", description=__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
