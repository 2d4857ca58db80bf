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
from typing import TYPE_CHECKING, Any

from dali_pipes import command
from dali_pipes.console import ProgressStyle, activity, open_console, say
from dali_pipes.errors import exits_with_one_sentence
from dali_pipes.units import count
from model import BackboneError, CheckpointError
from model.calibration import Calibration

from .deploy import map_file
from .deploy.predicted_heights import check_suffix
from .scores.pooling import Pooling
from .scores.uncertainty import LEVEL

if TYPE_CHECKING:
    from .deploy.height_model import HeightModel, load

__all__ = ["HeightModel", "load"]


def __getattr__(name: str) -> Any:
    """Import torch, which takes seconds, only for the names that Python code imports from here, not for `--help`."""
    if name in __all__:
        from .deploy import height_model

        return getattr(height_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Arguments:
    """Predict the height of each polyline in metres, with σ and a 90 % interval, raw and calibrated."""

    checkpoint: Path
    """A run folder, its best.pt or last.pt, or a .pth in the reference's layout."""

    images: tuple[Path, ...]
    """JPEGs, PNGs, TIFFs or GeoTIFFs: files, folders at any depth, ZIPs, parts of a ZIP, or AI Hub's tar. An image may
    have 67 million pixels (8192 × 8192), or 537 million if the network sees a window around the polyline."""

    polylines: tuple[Path, ...]
    """VIA's JSON or CSV, or a CSV with the columns tile and polyline ("x y;x y" in pixels, base first); or a folder or
    archive of VIA's JSON, such as a release's own labels. Several are combined."""

    out: Path
    """heights.csv, heights.json (a VIA project), or a map of GeoTIFFs: heights.geojson or heights.gpkg."""

    pool: Pooling = "none"
    """scene: estimate one scale for all polylines of a scene, which share it."""

    device: str = "auto"
    """cpu, cuda, cuda:N, or auto for a GPU if there is one."""

    batch_size: int = 64
    """Samples per step."""

    value_range: tuple[float, float] | None = None
    """LOW HIGH: the values that become black and white, for images that do not have 8 bits per sample. By default all
    values of 16 bits, 0 65535."""

    statistics: Path | None = None
    """Needed only for a bare state dict: a JSON file of length mean, length std, height mean and height std, or the
    release that it was trained on."""

    progress: ProgressStyle = "auto"
    """How to show progress. bar: a bar that moves. plain: at most one line in ten seconds.
    auto: bar on a terminal; plain elsewhere, and in notebooks and CI."""


def predict(arguments: Arguments) -> None:
    """Predict and write the file. Raises InputError, CheckpointError or BackboneError on bad input."""
    check_suffix(arguments.out)
    command.check_out(arguments.out)
    console = open_console(arguments.progress)
    with activity(console, "loading PyTorch and DALI"):
        from .deploy.height_model import load

        model = load(
            arguments.checkpoint,
            device=arguments.device,
            batch_size=arguments.batch_size,
            statistics=arguments.statistics,
        )
        heights = model.predict(
            arguments.images,
            arguments.polylines,
            pool=arguments.pool,
            value_range=arguments.value_range,
            located=arguments.out.suffix.lower() in map_file.SUFFIXES,
            console=console,
        )
        heights.write(arguments.out)
    summary = f"{len(heights)} heights on {len(set(heights.table.tile.tolist()))} tiles: {arguments.out}"
    say(console, summary)
    if warning := model.trained.view.upside_down(heights.table):
        say(console, warning)
    if caveat := _caveat(model.trained.calibration, pooled=arguments.pool == "scene"):
        say(console, caveat)


def _caveat(calibration: Calibration | None, *, pooled: bool) -> str:
    """A warning about the intervals in the file; empty if they are calibrated."""
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
