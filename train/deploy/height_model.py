"""The trained network as a Python object: a checkpoint in, predicted heights out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console

from dali_pipes import Loader
from dali_pipes.console import activity
from dali_pipes.notebook import as_html
from dali_pipes.samples.picture import Pictures, open_pictures
from dali_pipes.samples.polylines import Polylines, read_polylines, table_of
from dali_pipes.samples.table import SampleTable

from ..engine.step import Forward
from ..engine.trained import Trained, calibrate_and_pool, finite, forward_of, load_trained
from ..machine.choices import choose_device
from ..scores.pooling import Pooling
from ..scores.predictions import Predictions
from ..scores.uncertainty import LEVEL, Forecast
from .map_file import check_places
from .predicted_heights import Float64, PredictedHeights

ImageSource = str | Path | Sequence[str | Path]
PolylineSource = ImageSource | Mapping[str, Sequence[ArrayLike]]

BATCH_PIXELS = 1 << 28  # of the images of a batch, which are in memory together; 64 images of 2048 × 2048


class HeightModel:
    """A trained network that is ready to predict; `load` makes one.

    `trained` is the content of the checkpoint; the network runs on `forward.device` in `forward.dtype`.
    """

    def __init__(self, trained: Trained, forward: Forward) -> None:
        self.trained = trained
        self.forward = forward

    def __repr__(self) -> str:
        calibrated = "not calibrated" if self.trained.calibration is None else "calibrated"
        sees, side = self.trained.view.kind, self.trained.size
        return (
            f"HeightModel({self.trained.backbone}, {sees} at {side} × {side}, {calibrated}, on {self.forward.device})"
        )

    def _repr_html_(self) -> str:
        return as_html(repr(self))

    def predict(
        self,
        images: ImageSource | Pictures,
        polylines: PolylineSource | Polylines,
        *,
        pool: Pooling = "none",
        value_range: tuple[float, float] | None = None,
        located: bool = False,
        console: Console | None = None,
    ) -> PredictedHeights:
        """Predict the height of each polyline from its image, which goes through the same DALI graph as in training.

        `images`: JPEGs, PNGs and TIFFs: files, folders, ZIPs, parts of a ZIP, or AI Hub's tar; or opened `Pictures`.
        `polylines`: VIA's JSON or CSV, a CSV with the columns tile and polyline, a folder or archive of VIA's JSON,
        several of these, or {"tile.jpg": [[(x, y), (x, y)], …]} in pixels, base first.
        `pool`: "scene" estimates one scale for all polylines of a scene; a tile's scene is its name up to the last
        underscore.
        `value_range`: the values that become black and white, for images that do not have 8 bits.
        `located`: refuse images without a georeference, which `write` needs for a map.
        `console`: shows the progress; by default nothing is shown.

        Raises InputError if an image is missing or broken, or a polyline cannot be used.
        """
        console = console or Console(quiet=True)
        if isinstance(polylines, Polylines):
            drawn = polylines
        else:
            drawn = read_polylines(polylines if isinstance(polylines, Mapping) else _paths(polylines))
        pictures = images if isinstance(images, Pictures) else open_pictures(_paths(images), value_range)
        table = table_of(drawn, pictures, console=console, windowed=self.trained.view.windowed)
        if located:
            check_places(pictures, table.image)
        loader = Loader(
            table,
            self.batch_size(table),
            device=self.forward.device,
            size=self.trained.size,
            view=self.trained.view,
            statistics=self.trained.statistics,
        )
        with activity(console, "predicting", len(loader)) as shown:
            raw_mu, raw_sigma = finite(self.forward, loader, self.trained.target, shown.track)
        loader.close()
        raw, refined = self.forecasts(table, raw_mu, raw_sigma, pool)
        return PredictedHeights(drawn, pictures, table, *columns(refined), *columns(raw))

    def batch_size(self, table: SampleTable) -> int:
        """The most samples of `table` in a step, so that their decoded images fit into memory."""
        largest = int((table.width * table.height_px).max())
        return max(1, min(self.forward.batch_size, BATCH_PIXELS // largest))

    def forecasts(
        self, table: SampleTable, raw_mu: Float64, raw_sigma: Float64, pool: Pooling
    ) -> tuple[Forecast, Forecast]:
        """The network's own forecast of the rows of `table`, and the calibrated one, pooled if `pool` is "scene".

        `raw_mu`, `raw_sigma` (N,): the output of the network in metres.
        """
        unseen = np.zeros(len(table), bool)
        raw = Predictions("requested", "The polylines to predict.", table, raw_mu, raw_sigma, unseen)
        forecasts = list(calibrate_and_pool(self.trained, [raw], pool)[0].forecasts().values())  # most refined last
        return forecasts[0], forecasts[-1]


def _paths(given: ImageSource) -> list[Path]:
    return [Path(given)] if isinstance(given, (str, Path)) else [Path(path) for path in given]


def columns(forecast: Forecast) -> tuple[Float64, Float64, Float64, Float64]:
    """mu, sigma and both ends of the 90 % interval, (N,) each; no end is below 0."""
    low, high = forecast.intervals[LEVEL]
    return forecast.mu, forecast.sigma, np.maximum(low, 0.0), high


def load(
    checkpoint: str | Path, *, device: str = "auto", batch_size: int = 64, statistics: str | Path | None = None
) -> HeightModel:
    """Load a checkpoint or a run folder of this project, or a checkpoint of the reference system.

    `device`: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one. `statistics`: those of a bare state dict, as
    of `python -m train.predict --statistics`. Raises CheckpointError if the file cannot be used, and InputError if the
    device or the statistics do not exist.
    """
    chosen = choose_device(device)
    trained = load_trained(Path(checkpoint), Path(statistics) if statistics is not None else None)
    return HeightModel(trained, forward_of(trained, chosen, batch_size))
