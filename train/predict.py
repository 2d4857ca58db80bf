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
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dali_pipes import command
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.units import count
from model import BackboneError, CheckpointError
from model.calibration import Calibration

from .deploy.height_model import HeightModel, Pool, load
from .deploy.heights import check_suffix
from .scores.uncertainty import LEVEL

__all__ = ["HeightModel", "load"]


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
