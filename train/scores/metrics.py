"""Scores in metres, and the simple predictors that a network must beat.

1.  `score`: errors and likelihood of predictions.
2.  `Baselines`: predictors that use only the training heights, or only the polyline's length.
3.  `bootstrap_rmse`: the spread of an RMSE over resamplings of scenes.

Everything here works on numpy arrays of samples. Heights, mu and sigma are in metres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

NETWORK = "network"
CALIBRATED = "network, calibrated"
POOLED = "network, pooled by scene"
LINEAR = "linear in length"
MEAN = "mean of training heights"
CLOSED_FORM = "closed form"

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
SMALLEST_SIGMA = 1e-8  # metres, so that a baseline that fits exactly has a finite NLL
MIN_SCENES_FOR_INTERVAL = 10  # with fewer scenes, a confidence interval over scenes is too narrow to print


@dataclass(frozen=True)
class Scores:
    """The errors of one predictor on one set of samples. For an empty set n is 0 and all else is NaN."""

    n: int
    rmse: float
    """Root of the mean squared error, metres."""
    mae: float
    """Mean absolute error, metres."""
    bias: float
    """Mean of prediction − true height, metres: positive if heights are overestimated."""
    nll: float
    """Mean Gaussian negative log-likelihood of the heights in metres, including ½ln2π; NaN without a σ."""


def gaussian_nll(height: Float64, mu: Float64, sigma: Float64) -> Float64:
    """−log N(height; mu, sigma²) = ½ln2π + ln sigma + ½((height − mu)/sigma)², all (N,) metres → (N,) float64."""
    nll: Float64 = HALF_LOG_2PI + np.log(sigma) + 0.5 * ((height - mu) / sigma) ** 2
    return nll


def score(height: ArrayLike, mu: ArrayLike, sigma: ArrayLike | None = None) -> Scores:
    """Score predictions `mu` (N,) and, if given, `sigma` (N,) against true heights `height` (N,), all metres."""
    height, mu = np.asarray(height, np.float64), np.asarray(mu, np.float64)
    if height.size == 0:
        return Scores(0, math.nan, math.nan, math.nan, math.nan)
    error = mu - height
    return Scores(
        n=int(height.size),
        rmse=float(np.sqrt(np.mean(error**2))),
        mae=float(np.mean(np.abs(error))),
        bias=float(np.mean(error)),
        nll=math.nan if sigma is None else float(np.mean(gaussian_nll(height, mu, np.asarray(sigma, np.float64)))),
    )


@dataclass(frozen=True)
class Line:
    """height = intercept + slope · length, with one σ for all samples: metres and normalised length."""

    intercept: float
    slope: float
    sigma: float

    def __call__(self, length: ArrayLike) -> tuple[Float64, Float64]:
        """Predict from normalised `length` (N,) → mu (N,), sigma (N,), float64 metres."""
        mu = self.intercept + self.slope * np.asarray(length, np.float64)
        return mu, np.full_like(mu, self.sigma)


@dataclass(frozen=True)
class Baselines:
    """Predictors that use no image, fitted on training samples only."""

    mean: Line
    """The mean of the training heights for every sample (slope 0), with their standard deviation."""
    linear: Line
    """Ordinary least squares of height on normalised length, with its residual standard deviation."""

    @classmethod
    def fit(cls, length: ArrayLike, height: ArrayLike) -> Baselines:
        """Fit to normalised `length` (N,) and `height` (N,) metres of the training samples.

        Both σ are root mean squares over the N samples, which maximises the likelihood. If all lengths are equal, the
        slope is 0. Raises ValueError without samples.
        """
        length, height = np.asarray(length, np.float64), np.asarray(height, np.float64)
        if height.size == 0:
            raise ValueError("expected at least one training sample to fit baselines on, found none")
        mean, centred = float(height.mean()), length - length.mean()
        spread = float(centred @ centred)
        slope = float(centred @ height) / spread if spread > 0 else 0.0
        intercept = mean - slope * float(length.mean())
        residual = height - (intercept + slope * length)
        return cls(
            mean=Line(mean, 0.0, max(float(height.std()), SMALLEST_SIGMA)),
            linear=Line(intercept, slope, max(float(np.sqrt(np.mean(residual**2))), SMALLEST_SIGMA)),
        )

    def to_dict(self) -> dict[str, float]:
        """Flat dict of floats, as a checkpoint may contain: `mean_intercept`, …, `linear_sigma`."""
        lines = {"mean": self.mean, "linear": self.linear}
        return {f"{name}_{key}": value for name, line in lines.items() for key, value in asdict(line).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> Baselines:
        """Inverse of `to_dict`."""
        mean, linear = (
            Line(*(float(values[f"{name}_{key}"]) for key in ("intercept", "slope", "sigma")))
            for name in ("mean", "linear")
        )
        return cls(mean, linear)


def bootstrap_rmse(
    height: Float64, mu: Float64, scene: NDArray[np.str_], *, draws: int = 2000, seed: int = 0
) -> Float64:
    """RMSE of `mu` (N,) against `height` (N,) in `draws` resamplings of whole scenes → (draws,) float64 metres.

    A cluster bootstrap. The heights of a scene share one scale, so their errors are correlated: resampling single
    samples would make the interval too narrow.
    """
    _, index = np.unique(scene, return_inverse=True)
    squares = np.bincount(index, (mu - height) ** 2)
    counts = np.bincount(index)
    drawn = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
    mean_square: Float64 = squares[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return np.sqrt(mean_square)
