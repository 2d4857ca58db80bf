"""What a prediction is worth: scores in metres, and the simple predictors that a network must beat.

Three questions, in the order of this file:

1.  `score`: how far off is it, and is its σ honest?  `constant_sigma_nll` is the bar for the second half: a σ
    that says less about a sample than one constant does is worse than none.
2.  `Baselines`: what do the training heights alone, and the polyline's length alone, already give?
3.  `rows`: all predictors on the same samples, apart for scenes seen and not seen in training.
    `bootstrap_rmse` tells how much of a difference between two such rows is chance.

All of it is numpy on arrays of samples: no files, no clocks, no devices.  Heights, mu and sigma are metres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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
SMALLEST_SIGMA = 1e-8  # metres; a baseline that fits its samples exactly still needs a density


@dataclass(frozen=True)
class Scores:
    """How good one predictor is on one set of samples.  An empty set has n = 0 and NaN everywhere else."""

    n: int
    rmse: float
    """Root of the mean squared error, metres."""
    mae: float
    """Mean absolute error, metres."""
    bias: float
    """Mean of prediction − truth, metres: positive where heights are overestimated."""
    nll: float
    """Mean Gaussian negative log-likelihood of the heights in metres, with its ½ln2π; NaN without a σ."""


def gaussian_nll(height: Float64, mu: Float64, sigma: Float64) -> Float64:
    """−log N(height; mu, sigma²) = ½ln2π + ln sigma + ½((height − mu)/sigma)², all (N,) metres → (N,) float64."""
    nll: Float64 = HALF_LOG_2PI + np.log(sigma) + 0.5 * ((height - mu) / sigma) ** 2
    return nll


def constant_sigma_nll(rmse: float) -> float:
    """Mean NLL of a predictor with this RMSE if its σ were that RMSE for every sample: ½ln2π + ln rmse + ½.

    No constant does better, so a model above this figure would gain by throwing its σ away.
    """
    return HALF_LOG_2PI + math.log(rmse) + 0.5 if rmse > 0 else -math.inf if rmse == 0 else math.nan


def coverage(height: Float64, mu: Float64, sigma: Float64, sigmas: float = 1.0) -> float:
    """Share of heights (N,) within `sigmas`·sigma of mu; a Gaussian has .683 within one and .954 within two."""
    return float(np.mean(np.abs(height - mu) <= sigmas * sigma)) if height.size else math.nan


def score(height: ArrayLike, mu: ArrayLike, sigma: ArrayLike | None = None) -> Scores:
    """Score predictions `mu` (N,), and `sigma` (N,) where there is one, against true `height` (N,), all metres."""
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
    """height = intercept + slope · length, with one σ for all samples.  Metres; the length is normalised."""

    intercept: float
    slope: float
    sigma: float

    def __call__(self, length: ArrayLike) -> tuple[Float64, Float64]:
        """Predict from normalised `length` (N,) → mu (N,), sigma (N,), float64 metres."""
        mu = self.intercept + self.slope * np.asarray(length, np.float64)
        return mu, np.full_like(mu, self.sigma)


@dataclass(frozen=True)
class Baselines:
    """What is known without looking at an image; fitted on training samples only."""

    mean: Line
    """The mean of the training heights for everyone (slope 0), with their standard deviation."""
    linear: Line
    """Ordinary least squares of height on normalised length, with its residual standard deviation."""

    @classmethod
    def fit(cls, length: ArrayLike, height: ArrayLike) -> Baselines:
        """Fit to normalised `length` (N,) and `height` (N,) metres of the training samples.

        Both σ are root mean squares over the N samples, the maximum of the likelihood.  Where all lengths are
        equal the slope is 0.
        """
        length, height = np.asarray(length, np.float64), np.asarray(height, np.float64)
        if height.size == 0:
            raise ValueError("baselines need at least one training sample, got none")
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
        """Flat dict of floats, as a checkpoint may hold: `mean_intercept`, …, `linear_sigma`."""
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


@dataclass(frozen=True)
class ScoreRow:
    """One predictor on one set of samples, with what must be known to read its figures fairly."""

    group: str
    """The name of the evaluated samples, e.g. "validation"."""
    part: str
    """"all" of the group, or only its samples of scenes "seen" or "unseen" in training."""
    predictor: str
    """`NETWORK`, refined as `CALIBRATED` or `POOLED`; `LINEAR`, `MEAN` or `CLOSED_FORM`."""
    scenes: int
    """How many scenes the samples come from."""
    scenes_seen: float
    """Share of these scenes that were trained on, 0 to 1; NaN where there are no samples."""
    metadata: bool
    """Whether the predictor reads roll, pitch and resolution, which the model may not."""
    scores: Scores

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.scores.n

    @property
    def seen(self) -> str:
        """Whether the scenes were seen in training: "all", "none", a percentage, or "" without samples."""
        if math.isnan(self.scenes_seen):
            return ""
        return {0.0: "none", 1.0: "all"}.get(self.scenes_seen, f"{self.scenes_seen:.0%}")

    def to_dict(self) -> dict[str, Any]:
        """Flat dict for JSON, which has no NaN: a figure that does not exist is None."""
        flat = asdict(self)
        flat |= flat.pop("scores")
        numbers = {key for key, value in flat.items() if isinstance(value, float)}
        return {key: None if key in numbers and not math.isfinite(value) else value for key, value in flat.items()}


def rows(
    group: str,
    *,
    height: Float64,
    length: Float64,
    scene: NDArray[np.str_],
    seen: NDArray[np.bool_],
    network: Mapping[str, tuple[Float64, Float64]],
    closed_form: Float64,
    baselines: Baselines,
) -> list[ScoreRow]:
    """Score all predictors on a group and, where it has both, on its seen and its unseen scenes.

    `network`: mu, sigma of what the network says and of its refinements, by name.  All arrays are (N,): `height`, mu,
    sigma and `closed_form` metres, `length` normalised, `seen` whether the sample's scene was trained on.  The closed
    form is scored where it is a finite number, the others everywhere.
    """
    everywhere = np.ones(len(height), bool)
    mixed = bool(seen.any() and not seen.all())
    parts = {"all": everywhere} | ({"seen": seen, "unseen": ~seen} if mixed else {})
    predictors: dict[str, tuple[Float64, Float64 | None, NDArray[np.bool_]]] = {
        **{name: (*said, everywhere) for name, said in network.items()},
        LINEAR: (*baselines.linear(length), everywhere),
        MEAN: (*baselines.mean(length), everywhere),
        CLOSED_FORM: (closed_form, None, np.isfinite(closed_form)),
    }

    def row(part: str, predictor: str) -> ScoreRow:
        predicted, uncertainty, known = predictors[predictor]
        these = parts[part] & known
        scenes, first = np.unique(scene[these], return_index=True)
        return ScoreRow(
            group=group,
            part=part,
            predictor=predictor,
            scenes=len(scenes),
            scenes_seen=float(seen[these][first].mean()) if len(scenes) else math.nan,
            metadata=predictor == CLOSED_FORM,
            scores=score(height[these], predicted[these], None if uncertainty is None else uncertainty[these]),
        )

    return [row(part, predictor) for part in parts for predictor in predictors]


def bootstrap_rmse(
    height: Float64, mu: Float64, scene: NDArray[np.str_], *, draws: int = 2000, seed: int = 0
) -> Float64:
    """RMSE of `mu` (N,) against `height` (N,) in `draws` resamplings of whole scenes → (draws,) float64 metres.

    Scenes are drawn, not samples: within one all heights share a scale, so its samples err together and
    resampling them singly would make the interval too narrow.
    """
    _, index = np.unique(scene, return_inverse=True)
    squares = np.bincount(index, (mu - height) ** 2)
    counts = np.bincount(index)
    drawn = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
    mean_square: Float64 = squares[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return np.sqrt(mean_square)
