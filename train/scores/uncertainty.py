"""Scores of a predicted uncertainty: proper scores, coverage and width of intervals.

1.  `Forecast`: predicted heights with their σ and their central intervals.
2.  `crps`, `coverage_by_scene`: one property each, in closed form.
3.  `UncertaintyScores.of`: all of them on one set of samples.

A forecast must beat `Forecast.constant`: the same means with one σ for all samples, the RMSE on the same samples. No
other constant has a lower NLL, so a forecast that beats it knows which of its predictions are less certain. Everything
here works on numpy arrays of samples, in metres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .metrics import SMALLEST_SIGMA, Float64, gaussian_nll, score

LEVELS = (0.5, 0.8, 0.9, 0.95)
LEVEL = 0.9  # the level of the one interval that files and figures show

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Forecast:
    """Predictive distributions of N heights: `mu`, `sigma` (N,) float64 metres; `intervals`: level → low, high (N,).

    `conformal`: whether the intervals were fitted to have the nominal coverage on unseen scenes
    (train/scores/calibrate.py). If not, they are those of the Gaussian.
    """

    mu: Float64
    sigma: Float64
    intervals: Mapping[float, tuple[Float64, Float64]]
    conformal: bool = False

    @classmethod
    def gaussian(cls, mu: Float64, sigma: Float64) -> Forecast:
        """The forecast with the intervals of N(mu, sigma²)."""
        half_widths = {level: NormalDist().inv_cdf((1 + level) / 2) * sigma for level in LEVELS}
        return cls(mu, sigma, {level: (mu - half, mu + half) for level, half in half_widths.items()})

    def constant(self, height: Float64) -> Forecast:
        """The same means with one σ for all samples: the RMSE against `height` (N,)."""
        rmse = max(score(height, self.mu).rmse, SMALLEST_SIGMA)
        return Forecast.gaussian(self.mu, np.full_like(self.mu, rmse))

    def select(self, mask: NDArray[np.bool_]) -> Forecast:
        """The forecast of some samples, by mask (N,)."""
        intervals = {level: (low[mask], high[mask]) for level, (low, high) in self.intervals.items()}
        return replace(self, mu=self.mu[mask], sigma=self.sigma[mask], intervals=intervals)


def crps(height: Float64, mu: Float64, sigma: Float64) -> Float64:
    """Continuous ranked probability score of N(mu, sigma²), (N,) metres: σ·(z·(2Φ(z) − 1) + 2φ(z) − 1/√π).

    The closed form of Gneiting et al. 2005, Monthly Weather Review 133, eq. 5. As sigma goes to 0, it becomes the
    absolute error.
    """
    z = (height - mu) / sigma
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    crps: Float64 = sigma * (z * _erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
    return crps


def coverage_by_scene(height: Float64, interval: tuple[Float64, Float64], scene: NDArray[np.str_]) -> Float64:
    """Share of each scene's heights within their intervals low, high (N,): (scenes,), in the order of scene names."""
    _, group = np.unique(scene, return_inverse=True)
    covered: Float64 = np.bincount(group, (interval[0] <= height) & (height <= interval[1])) / np.bincount(group)
    return covered


@dataclass(frozen=True)
class UncertaintyScores:
    """Scores of one forecast's uncertainty on one set of samples."""

    nll: float
    """Mean Gaussian negative log-likelihood of the heights in metres, including ½ln2π."""
    crps: float
    """Mean, metres."""
    coverage: Mapping[float, float]
    """Level → share of the heights within the intervals of that level."""
    by_scene: Mapping[float, Float64]
    """Level → the same share in each scene, (scenes,)."""
    width: Mapping[float, float]
    """Level → mean width of the intervals in metres; infinite if there were too few scenes to fit the level."""

    @classmethod
    def of(cls, height: Float64, forecast: Forecast, scene: NDArray[np.str_]) -> UncertaintyScores:
        """Score `forecast` against true `height` (N,) metres, N at least 1, of the scenes `scene` (N,)."""
        intervals = sorted(forecast.intervals.items())
        return cls(
            nll=float(np.mean(gaussian_nll(height, forecast.mu, forecast.sigma))),
            crps=float(np.mean(crps(height, forecast.mu, forecast.sigma))),
            coverage={level: float(np.mean((low <= height) & (height <= high))) for level, (low, high) in intervals},
            by_scene={level: coverage_by_scene(height, interval, scene) for level, interval in intervals},
            width={level: float(np.mean(high - low)) for level, (low, high) in intervals},
        )

    @property
    def scene_coverage(self) -> dict[float, float]:
        """Level → mean over scenes of the share of heights within the intervals. Conformal intervals target this."""
        return {level: float(covered.mean()) for level, covered in self.by_scene.items()}
