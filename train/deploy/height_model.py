"""From a checkpoint to heights: the trained network as a Python object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.progress import Progress

from dali_pipes import Loader
from dali_pipes.release.find import open_images
from dali_pipes.samples.polylines import read_polylines, table_of

from ..engine.step import Forward
from ..engine.trained import Trained, calibrate_and_pool, forward_of, load_trained, predict
from ..machine.choices import choose_device
from ..scores.predictions import Predictions
from ..scores.uncertainty import LEVEL, Forecast
from .heights import Float64, Heights

Images = str | Path | Sequence[str | Path]


Polylines = str | Path | Mapping[str, Sequence[ArrayLike]]


Pool = Literal["none", "scene"]


class HeightModel:
    """A trained network, ready to predict; `load` makes one.

    `trained` is what the checkpoint holds; the network runs on `forward.device` in `forward.dtype`.
    """

    def __init__(self, trained: Trained, forward: Forward) -> None:
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
            raw_mu, raw_sigma = predict(self.forward, loader, self.trained.target, shown)
        loader.close()
        asked = Predictions("asked", "What was asked for.", table, raw_mu, raw_sigma, np.zeros(len(table), bool))
        said = list(calibrate_and_pool(self.trained, [asked], pool)[0].forecasts().values())
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
    trained = load_trained(Path(checkpoint))
    return HeightModel(trained, forward_of(trained, where, batch_size))
