"""What a stated uncertainty is worth: proper scores, coverage, and whether σ knows where the errors are.

1.  `Forecast`: a predicted height with its σ and its central intervals.
2.  `crps`, `coverage_and_width`, `calibration_error`, `sparsification`: one property each, by closed forms.
3.  `Uncertainty.of`: all of them on one set of samples.

The bar for each is `Forecast.constant`: the same means with the constant of hindsight, the RMSE on the very samples
that are scored.  No constant has a lower NLL, so a forecast that beats it says something of each sample.  All of it is
numpy on arrays of samples, in metres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .metrics import SMALLEST_SIGMA, Float64, gaussian_nll, score

LEVELS = (0.5, 0.8, 0.9, 0.95)
LEVEL = 0.9  # of the one interval that files and figures show
BINS = 10  # of σ in the calibration error, which grows with their number: figures compare only at one and the same
REMOVED = np.arange(20) / 20  # shares of the samples that a sparsification curve leaves out
HEIGHT_EDGES = (60.0, 80.0, 100.0, 130.0, 180.0)  # metres between the bins of true height; about a sixth in each

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Forecast:
    """Predicted heights of N samples: `mu`, `sigma` (N,) float64 metres; `intervals`: level → low, high, (N,) each.

    `conformal`: whether the intervals promise their level on scenes never seen (train/scores/calibrate.py); if not,
    they are those of the Gaussian.
    """

    mu: Float64
    sigma: Float64
    intervals: Mapping[float, tuple[Float64, Float64]]
    conformal: bool = False

    @classmethod
    def gaussian(cls, mu: Float64, sigma: Float64) -> Forecast:
        """The forecast whose intervals are those of N(mu, sigma²)."""
        reach = {level: NormalDist().inv_cdf((1 + level) / 2) * sigma for level in LEVELS}
        return cls(mu, sigma, {level: (mu - away, mu + away) for level, away in reach.items()})

    def constant(self, height: Float64) -> Forecast:
        """The same means with one σ for all, the RMSE against `height` (N,): the bar."""
        rmse = max(score(height, self.mu).rmse, SMALLEST_SIGMA)
        return Forecast.gaussian(self.mu, np.full_like(self.mu, rmse))

    def select(self, rows: NDArray[np.bool_]) -> Forecast:
        """The forecast of some samples, by mask (N,)."""
        intervals = {level: (low[rows], high[rows]) for level, (low, high) in self.intervals.items()}
        return replace(self, mu=self.mu[rows], sigma=self.sigma[rows], intervals=intervals)


def crps(height: Float64, mu: Float64, sigma: Float64) -> Float64:
    """Continuous ranked probability score of N(mu, sigma²), (N,) metres: σ·(z·(2Φ(z) − 1) + 2φ(z) − 1/√π).

    The closed form of Gneiting et al. 2005, Monthly Weather Review 133, eq. 5.  In the unit of the height; of a
    forecast without spread it is the absolute error.
    """
    z = (height - mu) / sigma
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    score: Float64 = sigma * (z * _erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
    return score


def coverage_and_width(height: Float64, interval: tuple[Float64, Float64]) -> tuple[float, float]:
    """Share of heights (N,) within their intervals low, high (N,), and these intervals' mean width in metres."""
    low, high = interval
    return float(np.mean((low <= height) & (height <= high))), float(np.mean(high - low))


def coverage_by_scene(height: Float64, interval: tuple[Float64, Float64], scene: NDArray[np.str_]) -> Float64:
    """Share of each scene's heights within their intervals, (scenes,), in the order of the scenes' names."""
    _, group = np.unique(scene, return_inverse=True)
    inside: Float64 = np.bincount(group, (interval[0] <= height) & (height <= interval[1])) / np.bincount(group)
    return inside


def calibration_error(height: Float64, mu: Float64, sigma: Float64) -> float:
    """Expected normalised calibration error: mean over bins of σ of |RMS σ − RMSE| / RMS σ.

    Levi et al. 2022, Sensors 22(15):5540 (arXiv:1905.11659), in `BINS` bins of about as many samples.  0 where σ is
    the errors' size wherever it is the same; a σ that is half of what it should be has 1.  By chance an honest σ has
    about 1.8/√N where errors are independent: the mean of |1 − χ/√m| with m = N/`BINS` degrees is √(1/(π·m)).
    """
    edges = np.quantile(sigma, np.arange(1, BINS) / BINS)
    which = np.searchsorted(edges, sigma)  # equal σ share a bin
    n = np.bincount(which, minlength=BINS)
    square, variance = (np.bincount(which, x, BINS)[n > 0] for x in ((mu - height) ** 2, sigma**2))
    return float(np.mean(np.abs(1 - np.sqrt(square / variance))))


def sparsification(height: Float64, mu: Float64, sigma: Float64) -> tuple[Float64, Float64]:
    """RMSE of what remains when the shares `REMOVED` of largest σ are left out, and of largest error: both (20,).

    Ilg et al. 2018, arXiv:1802.07095.  The second, the oracle, is the best that any σ can do; a constant stays flat.
    """
    square = (mu - height) ** 2
    left = len(square) - np.floor(REMOVED * len(square)).astype(int)

    def curve(by: Float64) -> Float64:
        _, tied = np.unique(by, return_inverse=True)
        kept = np.cumsum((np.bincount(tied, square) / np.bincount(tied))[np.sort(tied)])  # equals in any order
        rmse: Float64 = np.sqrt(kept[left - 1] / left)
        return rmse

    return curve(sigma), curve(square)


def area_between(curve: Float64, oracle: Float64) -> float:
    """AUSE: mean distance of a sparsification curve from its oracle, in units of the whole RMSE, `curve[0]`."""
    return float(np.mean(curve - oracle) / curve[0]) if curve[0] > 0 else math.nan


@dataclass(frozen=True)
class Uncertainty:
    """What one forecast's uncertainty is worth on one set of samples."""

    n: int
    nll: float
    """Mean, with its ½ln2π, of heights in metres."""
    crps: float
    """Mean, metres."""
    coverage: Mapping[float, float]
    """Level → share of the heights within the intervals of that level."""
    scene_coverage: Mapping[float, float]
    """The same with one vote a scene: what an interval with coverage by scene promises."""
    width: Mapping[float, float]
    """Level → mean width of the intervals in metres, infinite where the level could not be promised."""
    calibration_error: float
    ause: float

    @classmethod
    def of(cls, height: Float64, forecast: Forecast, scene: NDArray[np.str_]) -> Uncertainty:
        """Score `forecast` against true `height` (N,) metres, N at least 1, of the scenes `scene` (N,)."""
        mu, sigma, intervals = forecast.mu, forecast.sigma, sorted(forecast.intervals.items())
        measured = {level: coverage_and_width(height, interval) for level, interval in intervals}
        return cls(
            n=len(height),
            nll=float(np.mean(gaussian_nll(height, mu, sigma))),
            crps=float(np.mean(crps(height, mu, sigma))),
            coverage={level: covered for level, (covered, _) in measured.items()},
            scene_coverage={
                level: float(coverage_by_scene(height, interval, scene).mean()) for level, interval in intervals
            },
            width={level: width for level, (_, width) in measured.items()},
            calibration_error=calibration_error(height, mu, sigma),
            ause=area_between(*sparsification(height, mu, sigma)),
        )

    def beats(self, other: Uncertainty) -> bool:
        """Whether both NLL and CRPS are lower than another's on the same samples."""
        return self.nll < other.nll and self.crps < other.crps


def bins(values: Float64, edges: Sequence[float], unit: str) -> list[tuple[str, NDArray[np.bool_]]]:
    """Bins of `values` (N,) between `edges`, without empty ones: their names, such as "60–80 m", and masks (N,)."""
    which = np.searchsorted(edges, values, side="right")
    names = [
        f"under {edges[0]:g}",
        *(f"{low:g}–{high:g}" for low, high in pairwise(edges)),
        f"from {edges[-1]:g}",
    ]
    return [(f"{name} {unit}", which == i) for i, name in enumerate(names) if (which == i).any()]
