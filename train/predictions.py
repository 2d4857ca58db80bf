"""What a model says about samples: `Predictions`, the rows of their score table, and their CSV file.

    validation = Predictions("validation", "The release's own validation split.", table, mu, sigma, seen)
    table = score_rows([validation, held_out], baselines)
    write_predictions(run / "predictions.csv", [validation, held_out])

Predictions carry their samples and whether the scenes of these were trained on, so that no figure made of them
can leave it unsaid.
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

from dali_pipes.geometry import closed_form_height, polyline_length_px
from dali_pipes.samples import SampleTable
from model.whole_file import write_text

from .metrics import Baselines, Float64, ScoreRow, rows, score

COLUMNS = (
    *("tile", "scene", "group", "polyline", "length", "height_m"),
    *("mu_m", "sigma_m", "scene_seen", "closed_form_m"),
)


@dataclass(frozen=True)
class Predictions:
    """What the model says about N samples."""

    name: str
    """Short and unique: "validation", "development"."""
    about: str
    """A plain sentence: what samples these are."""
    table: SampleTable
    mu: Float64
    """(N,) float64, predicted heights in metres."""
    sigma: Float64
    """(N,) float64, their standard deviations in metres."""
    seen: NDArray[np.bool_]
    """(N,) bool, whether the sample's scene is among those trained on."""
    selection: bool = False
    """Whether the best epoch was chosen on these samples, which makes their figures optimistic."""

    def __post_init__(self) -> None:
        for name in ("mu", "sigma", "seen"):
            if getattr(self, name).shape != (len(self.table),):
                found = getattr(self, name).shape
                raise ValueError(f"expected {name} of shape ({len(self.table)},) for {self.name}, found {found}")

    def __len__(self) -> int:
        return len(self.table)

    def select(self, mask: NDArray[np.bool_]) -> Predictions:
        """The predictions of some samples, by mask (N,)."""
        part = self.table.select(mask)
        return replace(self, table=part, mu=self.mu[mask], sigma=self.sigma[mask], seen=self.seen[mask])

    def closed_form(self) -> Float64:
        """Heights (N,) float64 metres by the layover formula, NaN where metadata are absent or the view is nadir."""
        table = self.table
        height = closed_form_height(polyline_length_px(table.polyline), table.gsd, table.roll, table.pitch)
        return np.where(np.isfinite(height), height, np.nan)

    def rmse(self) -> float:
        """Root of the mean squared error in metres, NaN without samples."""
        return score(self.table.height, self.mu).rmse

    def points(self, i: int) -> Float64:
        """The polyline of sample `i`, (≤P, 2) pixels, without the repetitions of its last point that pad it."""
        polyline = self.table.polyline[i]
        other = np.flatnonzero((polyline != polyline[-1]).any(axis=1))
        return polyline[: other[-1] + 2] if len(other) else polyline[:1]


def score_rows(predictions: Sequence[Predictions], baselines: Baselines) -> list[ScoreRow]:
    """The score table: four predictors on each group, and on its seen and unseen scenes where it has both."""
    return [
        row
        for group in predictions
        for row in rows(
            group.name,
            height=group.table.height,
            length=group.table.length,
            scene=group.table.scene,
            seen=group.seen,
            mu=group.mu,
            sigma=group.sigma,
            closed_form=group.closed_form(),
            baselines=baselines,
        )
    ]


def write_predictions(path: str | Path, predictions: Sequence[Predictions]) -> None:
    """Write all samples of all groups as CSV, replacing `path` only when the whole of it is written.

    `polyline` is "x y;x y;…" in pixels, base first; `length` is normalised; `closed_form_m` is empty where the
    label has no metadata.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for group in predictions:
        samples, closed_form = group.table, group.closed_form()
        for i in range(len(group)):
            table.writerow(
                (
                    samples.tile[i],
                    samples.scene[i],
                    group.name,
                    ";".join(f"{x:.10g} {y:.10g}" for x, y in group.points(i)),
                    f"{samples.length[i]:.6f}",
                    f"{samples.height[i]:.10g}",
                    f"{group.mu[i]:.4f}",
                    f"{group.sigma[i]:.4f}",
                    "true" if group.seen[i] else "false",
                    "" if math.isnan(closed_form[i]) else f"{closed_form[i]:.4f}",
                )
            )
    write_text(Path(path), text.getvalue())
