"""The predictions of a model for a group of samples, and the CSV file of all groups.

    validation = Predictions("validation", "The release's own validation split.", table, mu, sigma, seen)
    write_predictions(run / "predictions.csv", [validation, held_out])

Predictions carry their samples, and whether each sample's scene was trained on, so that every score can be marked.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipes.files import write_text
from dali_pipes.geometry import closed_form_height, polyline_length_px, without_padding
from dali_pipes.notebook import as_html
from dali_pipes.samples.csv_text import escaped
from dali_pipes.samples.table import SampleTable
from dali_pipes.units import count, metres, number

from .metrics import CALIBRATED, NETWORK, POOLED, Float64, score
from .uncertainty import LEVEL, Forecast

COLUMNS = (
    *("tile", "scene", "group", "polyline", "length", "height_m"),
    *("mu_m", "sigma_m", "scene_seen", "optimistic", "closed_form_m"),
    *("calibrated_mu_m", "calibrated_sigma_m", "calibrated_low_m", "calibrated_high_m"),
    *("pooled_mu_m", "pooled_sigma_m", "pooled_low_m", "pooled_high_m"),
)


@dataclass(frozen=True)
class Predictions:
    """The heights that a model predicts for N samples."""

    name: str
    """Short and unique: "validation", "development"."""
    description: str
    """A plain sentence that says which samples these are."""
    table: SampleTable
    mu: Float64
    """(N,) float64, predicted heights in metres."""
    sigma: Float64
    """(N,) float64, their standard deviations in metres."""
    seen: NDArray[np.bool_]
    """(N,) bool, whether the sample's scene is among those trained on."""
    optimistic: bool = False
    """Whether the best epoch was chosen on these samples, which makes their scores optimistic."""
    calibrated: Forecast | None = None
    """`mu` and `sigma` after the calibration (train/scores/calibrate.py); None without development scenes."""
    pooled: Forecast | None = None
    """The calibrated forecast pooled by scene (train/scores/pooling.py); None if it was not requested."""

    def __post_init__(self) -> None:
        for name in ("mu", "sigma", "seen"):
            if (shape := getattr(self, name).shape) != (len(self.table),):
                raise ValueError(f"expected {name} of shape ({len(self.table)},) for {self.name}, found {shape}")

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        scenes = count(len(np.unique(self.table.scene)), "scene")
        return f"Predictions({self.name}: {count(len(self), 'sample')} of {scenes}, RMSE {metres(self.rmse())})"

    def _repr_html_(self) -> str:
        rows = (
            {
                "tile": self.table.tile[i],
                "true height (m)": number(self.table.height[i]),
                "predicted (m)": number(self.mu[i], 1),
                "σ (m)": number(self.sigma[i], 1),
            }
            for i in range(len(self))
        )
        return as_html(repr(self), rows, len(self))

    def select(self, mask: NDArray[np.bool_]) -> Predictions:
        """The predictions of some samples, by mask (N,)."""
        return replace(
            self,
            table=self.table.select(mask),
            mu=self.mu[mask],
            sigma=self.sigma[mask],
            seen=self.seen[mask],
            calibrated=self.calibrated and self.calibrated.select(mask),
            pooled=self.pooled and self.pooled.select(mask),
        )

    def forecasts(self) -> dict[str, Forecast]:
        """The forecasts by the predictor's name, from the network's own to the most refined."""
        forecasts = {NETWORK: Forecast.gaussian(self.mu, self.sigma), CALIBRATED: self.calibrated, POOLED: self.pooled}
        return {name: forecast for name, forecast in forecasts.items() if forecast is not None}

    def closed_form(self) -> Float64:
        """Heights (N,) float64 metres by the layover formula; NaN without metadata or for a view at nadir."""
        table = self.table
        height = closed_form_height(polyline_length_px(table.polyline), table.gsd, table.roll, table.pitch)
        return np.where(np.isfinite(height), height, np.nan)

    def rmse(self) -> float:
        """Root of the mean squared error in metres, NaN without samples."""
        return score(self.table.height, self.mu).rmse


def write_predictions(path: str | Path, predictions: Sequence[Predictions]) -> None:
    """Write all samples of all groups as CSV. The file at `path` is replaced only once the new one is complete.

    A name that a spreadsheet would run as a formula has an apostrophe in front (dali_pipes/samples/csv_text.py).
    `polyline` is "x y;x y;…" in pixels, base first; `length` is normalised; `closed_form_m` is empty if the label has
    no metadata; `optimistic` is true if the best epoch was chosen on the group. Calibrated and pooled heights have
    their 90 % interval. A value that does not exist or is not finite is empty.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for group in predictions:
        samples, closed_form = group.table, group.closed_form()
        refined = np.stack([*_columns(group.calibrated, len(group)), *_columns(group.pooled, len(group))], axis=1)
        for i in range(len(group)):
            table.writerow(
                (
                    escaped(str(samples.tile[i])),
                    escaped(str(samples.scene[i])),
                    group.name,
                    ";".join(f"{x:.10g} {y:.10g}" for x, y in without_padding(samples.polyline[i])),
                    f"{samples.length[i]:.6f}",
                    f"{samples.height[i]:.10g}",
                    f"{group.mu[i]:.4f}",
                    f"{group.sigma[i]:.4f}",
                    "true" if group.seen[i] else "false",
                    "true" if group.optimistic else "false",
                    *("" if not math.isfinite(x) else f"{x:.4f}" for x in (closed_form[i], *refined[i])),
                )
            )
    write_text(Path(path), text.getvalue())


def _columns(forecast: Forecast | None, n: int) -> list[Float64]:
    """mu, sigma, low and high (N,); NaN without a forecast."""
    if forecast is None:
        return [np.full(n, np.nan)] * 4
    return [forecast.mu, forecast.sigma, *forecast.intervals[LEVEL]]
