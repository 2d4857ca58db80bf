"""Fitting a calibration on development scenes: scenes that were held out of training as a whole, and nothing else.

1.  `correct`: the mean, by the maximum of the Gaussian likelihood.
2.  `conformal_quantile`: how many σ an interval must reach so that its level holds on scenes never seen.
3.  `fit`: both, the temperature, and the shares of errors that tiles and scenes have in common (pooling.py): one
    `Calibration`.
4.  `apply`, and `cross_fit` for the development scenes themselves, of which each is calibrated by the others.
5.  `calibrate_checkpoint`: what a run does at its end.

Samples of a scene err together, so they are not exchangeable and the usual split-conformal quantile promises too
much; scenes are.  So each scene has one vote, shared by its samples, and the new one has an infinite vote: the
hierarchical conformal prediction of Lee, Barber and Willett 2023 (arXiv:2306.06342; the pooled distribution of Dunn,
Wasserman and Ramdas 2022, arXiv:1809.07441, with a correction for few scenes).  For K scenes it promises levels up to
K/(K + 1): 90 % needs 9 scenes, 95 % needs 19.

What is fitted flatters the scenes that it was fitted on, the more the fewer they are.  So whatever tells how large
errors are, is fitted to those that each scene has by the others, as in the jackknife: temperature and shares by the
others' line, quantiles by the others' whole calibration.  Fitted on 8 simulated scenes, pooled heights of new ones
erred by 1.5 times the variance that they stated; by a line through each scene's own errors it was 2.1 times.  What
selected the network's epoch on the same scenes flatters them, too, and is not corrected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dali_pipes.geometry import polyline_length_px
from dali_pipes.samples.splits import DEVELOPMENT
from model.calibration import Calibration

from .metrics import Float64
from .pooling import fit_shares, pool, to_log_scale
from .predictions import Predictions
from .uncertainty import LEVELS, Forecast

Pair = tuple[Float64, Float64]  # mu, sigma (N,) metres

FEWEST_SCENES = 5  # below this a line through the scenes' errors is chance, and no level above 80 % can be promised


def correct(height: Float64, mu: Float64, sigma: Float64) -> tuple[float, float]:
    """`a`, `b` that make `height` (N,) likeliest under N(a·mu + b, (c·sigma)²), whatever c; all metres.

    Least squares with weights 1/sigma².  Where the predictions do not vary, or rise as heights fall, there is no line
    to correct by: `a` stays 1.
    """
    weight = 1 / sigma**2
    weight /= weight.sum()
    centred = mu - weight @ mu
    spread = float(weight @ centred**2)
    a = float(weight @ (centred * height)) / spread if spread > 0 else 1.0
    a = a if a > 0 else 1.0
    return a, float(weight @ (height - a * mu))


def conformal_quantile(score: Float64, scene: NDArray[np.str_], level: float) -> float:
    """The `level` quantile of scores (N,) with one vote a scene and an infinite one for the scene to come.

    inf where the scenes are too few for the level.
    """
    _, group = np.unique(scene, return_inverse=True)
    n = np.bincount(group)
    order = np.argsort(score)
    reached = np.cumsum(1 / n[group[order]]) / (len(n) + 1)
    i = int(np.searchsorted(reached, level - 1e-9))  # sums of 1/n are not exact
    return float(score[order[i]]) if i < len(score) else math.inf


def fit(development: Predictions) -> Calibration:
    """The calibration that development scenes teach.  Raises ValueError for fewer than `FEWEST_SCENES` of them."""
    scene = development.table.scene
    if (scenes := len(np.unique(scene))) < FEWEST_SCENES:
        raise ValueError(f"expected at least {FEWEST_SCENES} development scenes to calibrate on, found {scenes}")
    quantiles, pooled_quantiles = (
        {level: conformal_quantile(_sigmas_off(development, said), scene, level) for level in LEVELS}
        for said in _out_of_scene(development)
    )
    return replace(_gaussian(development), quantiles=quantiles, pooled_quantiles=pooled_quantiles)


def apply(calibration: Calibration, raw: Predictions, *, by_scene: bool) -> Predictions:
    """`raw` with its calibrated forecast and, if `by_scene`, also with the one that is pooled by scene thereafter."""

    def forecast(said: Pair, pooled: bool) -> Forecast:
        if not set(LEVELS) <= set(calibration.pooled_quantiles if pooled else calibration.quantiles):
            return Forecast.gaussian(*said)  # such as the reference's, which knows no quantiles
        intervals = {level: calibration.interval(*said, level, pooled=pooled) for level in LEVELS}
        return Forecast(*said, intervals, conformal=True)

    calibrated, pooled = _apply(calibration, raw)
    return replace(
        raw,
        calibrated=forecast(calibrated, False),
        pooled=forecast(pooled, True) if by_scene else None,
        shares=calibration.shares,
    )


def cross_fit(development: Predictions, *, by_scene: bool) -> Predictions:
    """The development scenes with forecasts like `apply`'s, but each scene calibrated by all others.

    So their figures tell, as far as scenes are alike, what an unseen scene is to expect.
    """
    scene = development.table.scene

    def forecast(said: Pair) -> Forecast:
        (mu, sigma), score = said, _sigmas_off(development, said)
        reach = {level: np.empty_like(sigma) for level in LEVELS}
        for name in np.unique(scene):
            this = scene == name
            for level, away in reach.items():
                away[this] = conformal_quantile(score[~this], scene[~this], level) * sigma[this]
        intervals = {level: (np.maximum(mu - away, 0), mu + away) for level, away in reach.items()}
        return Forecast(mu, sigma, intervals, conformal=True)

    calibrated, pooled = _out_of_scene(development)
    return replace(
        development,
        calibrated=forecast(calibrated),
        pooled=forecast(pooled) if by_scene else None,
        shares=_gaussian(development).shares,
    )


def development_of(predictions: Sequence[Predictions]) -> Predictions | None:
    """The development scenes among `predictions`, if there are at least `FEWEST_SCENES`."""
    groups = (group for group in predictions if group.name == DEVELOPMENT)
    return next((group for group in groups if len(np.unique(group.table.scene)) >= FEWEST_SCENES), None)


def _gaussian(development: Predictions) -> Calibration:
    """The calibration without its quantiles."""
    table, length = development.table, polyline_length_px(development.table.polyline)
    scenes, group = np.unique(table.scene, return_inverse=True)
    mu = np.empty(len(development))
    for this in range(len(scenes)):
        others = group != this
        slope, intercept = correct(table.height[others], development.mu[others], development.sigma[others])
        mu[~others] = slope * development.mu[~others] + intercept
    larger = float(np.sqrt(np.mean(((table.height - mu) / development.sigma) ** 2)))
    larger = larger or 1.0  # a fit without any error says nothing of σ
    log_scale, variance = to_log_scale(length, mu, larger * development.sigma)
    error = log_scale - np.log(table.height / length)
    within_tile, between = fit_shares(error, variance, table.tile, table.scene)
    a, b = correct(table.height, development.mu, development.sigma)
    return Calibration(a, b, larger / a, within_tile=within_tile, between=between, scenes=len(scenes))


def _apply(calibration: Calibration, raw: Predictions) -> tuple[Pair, Pair]:
    """Calibrated, and then also pooled by scene."""
    mu, sigma = calibration(raw.mu, raw.sigma)
    table = raw.table
    pooled = pool(polyline_length_px(table.polyline), mu, sigma, table.tile, table.scene, calibration.shares)
    return (mu, sigma), pooled


def _out_of_scene(development: Predictions) -> tuple[Pair, Pair]:
    """`_apply`, each scene with the calibration of the others."""
    scene = development.table.scene
    said = np.empty((2, 2, len(development)))
    for name in np.unique(scene):
        this = scene == name
        said[:, :, this] = _apply(_gaussian(development.select(~this)), development.select(this))
    return (said[0, 0], said[0, 1]), (said[1, 0], said[1, 1])


def _sigmas_off(development: Predictions, said: Pair) -> Float64:
    """How many σ the heights are off, (N,)."""
    mu, sigma = said
    return np.abs(development.table.height - mu) / sigma
