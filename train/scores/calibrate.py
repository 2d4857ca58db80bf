"""Fit a calibration on development scenes, which were held out of training as a whole, and apply it.

1.  `fit_mean_line`: the linear correction of the mean, by maximum likelihood. It is used only if it
    `lowers_the_error` on scenes that it was not fitted to.
2.  `conformal_quantile`: the half-width, in units of σ, of intervals with the nominal coverage on unseen scenes.
3.  `fit_calibration`: both, the temperature of σ, and what pooling needs (pooling.py): the shares of the errors'
    variance that tiles and scenes have in common, the weights within a scene, and the reliability of one polyline.
4.  `calibrate`: apply a calibration. `cross_calibrate`: calibrate each development scene by the other ones.

The errors within a scene are correlated, so samples are not exchangeable, and the usual split-conformal quantile is too
small. Scenes are exchangeable. Therefore each scene has weight one, divided among its samples, and the new scene adds
one infinite score: the hierarchical conformal prediction of Lee, Barber and Willett 2023 (arXiv:2306.06342; the pooled
distribution of Dunn, Wasserman and Ramdas 2022, arXiv:1809.07441, with a correction for few scenes). K scenes allow
levels up to K/(K + 1): 90 % needs 9 scenes, and 95 % needs 19.

A fit has smaller errors on its own scenes than on others, especially with few scenes. Therefore everything that
describes the size of errors is fitted out of sample, as in the jackknife: temperature and shares to the errors of each
scene under the line of the other scenes, quantiles to its errors under their whole calibration. In a simulation with 8
scenes, the squared error of pooled heights on new scenes was 1.6 times the predicted variance, with 30 scenes 1.1
times. The best epoch is also chosen on these scenes; this optimism is not corrected.
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
from .pooling import fit_shares, fit_weighting, levelled, pool_by_scene, to_log_scale
from .predictions import Predictions
from .uncertainty import LEVELS, Forecast

Gaussians = tuple[Float64, Float64]  # mu, sigma (N,) metres

STANDARD_ERRORS = 1.0  # by which the line must lower the error
LEAST_RELIABILITY = 0.7  # a lower one, which few scenes give by chance, would stretch errors too much
MIN_SCENES_FOR_RELIABILITY = 9  # as a 90 % interval; with fewer its own error would make σ overconfident
MIN_SCENES_TO_CALIBRATE = 5  # with fewer scenes the line fits noise, and no level above 80 % is possible


def fit_mean_line(height: Float64, mu: Float64, sigma: Float64) -> tuple[float, float]:
    """`a`, `b` that maximise the likelihood of `height` (N,) under N(a·mu + b, (c·sigma)²) for any c; all metres.

    Least squares with weights 1/sigma². `a` stays 1 if the predictions do not vary, or if the fitted slope is not
    positive.
    """
    weight = 1 / sigma**2
    weight /= weight.sum()
    centred = mu - weight @ mu
    spread = float(weight @ centred**2)
    a = float(weight @ (centred * height)) / spread if spread > 0 else 1.0
    a = a if a > 0 else 1.0
    return a, float(weight @ (height - a * mu))


def lowers_the_error(before: Float64, after: Float64, scene: NDArray[np.str_]) -> bool:
    """Whether `after` has smaller squares than `before`, two arrays (N,) of errors in metres, by more than noise.

    The rule: the mean over scenes of the reduction of a scene's sum of squares is more than one standard error above
    zero. `after` must be the errors of each scene under the line of the other scenes.
    """
    _, group = np.unique(scene, return_inverse=True)
    reduction = np.bincount(group, before**2 - after**2)
    return bool(reduction.mean() > STANDARD_ERRORS * reduction.std(ddof=1) / math.sqrt(len(reduction)))


def conformal_quantile(nonconformity: Float64, scene: NDArray[np.str_], level: float) -> float:
    """The `level` quantile of nonconformity scores (N,), weight one per scene, with an infinite score for a new scene.

    Infinite if there are too few scenes for the level.
    """
    _, group = np.unique(scene, return_inverse=True)
    n = np.bincount(group)
    order = np.argsort(nonconformity)
    cumulative = np.cumsum(1 / n[group[order]]) / (len(n) + 1)
    i = int(np.searchsorted(cumulative, level - 1e-9))  # sums of 1/n are not exact
    return float(nonconformity[order[i]]) if i < len(nonconformity) else math.inf


def fit_calibration(development: Predictions) -> Calibration:
    """Fit to development scenes. Raises ValueError for fewer than `MIN_SCENES_TO_CALIBRATE` of them."""
    scene = development.table.scene
    if (scenes := len(np.unique(scene))) < MIN_SCENES_TO_CALIBRATE:
        raise ValueError(
            f"expected at least {MIN_SCENES_TO_CALIBRATE} development scenes to calibrate on, found {scenes}"
        )
    quantiles, pooled_quantiles = (
        {level: conformal_quantile(_nonconformity(development, gaussians), scene, level) for level in LEVELS}
        for gaussians in _calibrated_by_others(development)
    )
    return replace(_fit_gaussian(development), quantiles=quantiles, pooled_quantiles=pooled_quantiles)


def calibrate(calibration: Calibration, raw: Predictions, *, by_scene: bool) -> Predictions:
    """`raw` with the calibrated forecast and, if `by_scene`, the one that is then pooled by scene."""

    def forecast(gaussians: Gaussians, pooled: bool) -> Forecast:
        if not set(LEVELS) <= set(calibration.pooled_quantiles if pooled else calibration.quantiles):
            return Forecast.gaussian(*gaussians)  # a calibration of the reference has no quantiles
        intervals = {level: calibration.interval(*gaussians, level, pooled=pooled) for level in LEVELS}
        return Forecast(*gaussians, intervals, conformal=True)

    calibrated, pooled = _calibrate_and_pool(calibration, raw)
    return replace(
        raw,
        calibrated=forecast(calibrated, False),
        pooled=forecast(pooled, True) if by_scene else None,
    )


def cross_calibrate(development: Predictions, *, by_scene: bool) -> Predictions:
    """The development scenes with forecasts as `calibrate` makes them, but each scene calibrated by all others.

    Their scores are therefore those of unseen scenes, if the scenes are exchangeable.
    """
    scene = development.table.scene

    def forecast(gaussians: Gaussians) -> Forecast:
        (mu, sigma), nonconformity = gaussians, _nonconformity(development, gaussians)
        half_widths = {level: np.empty_like(sigma) for level in LEVELS}
        for name in np.unique(scene):
            this = scene == name
            for level, half in half_widths.items():
                half[this] = conformal_quantile(nonconformity[~this], scene[~this], level) * sigma[this]
        intervals = {level: (np.maximum(mu - half, 0), mu + half) for level, half in half_widths.items()}
        return Forecast(mu, sigma, intervals, conformal=True)

    calibrated, pooled = _calibrated_by_others(development)
    return replace(
        development,
        calibrated=forecast(calibrated),
        pooled=forecast(pooled) if by_scene else None,
    )


def development_of(predictions: Sequence[Predictions]) -> Predictions | None:
    """The development scenes among `predictions`; None if there are fewer than `MIN_SCENES_TO_CALIBRATE`."""
    groups = (group for group in predictions if group.name == DEVELOPMENT)
    return next((group for group in groups if len(np.unique(group.table.scene)) >= MIN_SCENES_TO_CALIBRATE), None)


def _fit_gaussian(development: Predictions) -> Calibration:
    """The calibration without its quantiles."""
    table, length = development.table, polyline_length_px(development.table.polyline)
    scenes, group = np.unique(table.scene, return_inverse=True)
    mu = np.empty(len(development))
    for i in range(len(scenes)):
        others = group != i
        a, b = fit_mean_line(table.height[others], development.mu[others], development.sigma[others])
        mu[~others] = a * development.mu[~others] + b
    if lowers_the_error(table.height - development.mu, table.height - mu, table.scene):
        a, b = fit_mean_line(table.height, development.mu, development.sigma)
    else:
        mu, (a, b) = development.mu.astype(np.float64), (1.0, 0.0)
    sigma_factor = float(np.sqrt(np.mean(((table.height - mu) / development.sigma) ** 2)))
    sigma_factor = sigma_factor or 1.0  # if there are no errors at all, σ stays as it is
    log_scale, variance = to_log_scale(length, mu, sigma_factor * development.sigma)
    scale = np.log(table.height / length)
    centre = float(np.mean(np.bincount(group, scale) / np.bincount(group)))
    reliability = _reliability(log_scale, scale) if len(scenes) >= MIN_SCENES_FOR_RELIABILITY else 1.0
    error = centre + (log_scale - centre) / reliability - scale
    weighting = fit_weighting(error, variance, table.scene)
    variance = levelled(variance, table.scene, weighting)
    within_tile, between = fit_shares(error, variance, table.tile, table.scene)
    return Calibration(
        a,
        b,
        sigma_factor / a,
        within_tile=within_tile,
        between=between,
        weighting=weighting,
        centre=centre,
        reliability=reliability,
        scenes=len(scenes),
    )


def _reliability(log_scale: Float64, scale: Float64) -> float:
    """k of pooling.py: the slope of the estimates (N,) against the true log scales (N,), within its bounds.

    It is 1 for estimates that scatter around the truth, however much, and below 1 for estimates that are drawn to the
    mean.
    """
    deviation = scale - scale.mean()
    spread = float(deviation @ deviation)
    return min(max(float(deviation @ log_scale) / spread, LEAST_RELIABILITY), 1.0) if spread > 0 else 1.0


def _calibrate_and_pool(calibration: Calibration, raw: Predictions) -> tuple[Gaussians, Gaussians]:
    """The calibrated predictions, and those that are then pooled by scene."""
    mu, sigma = calibration(raw.mu, raw.sigma)
    table = raw.table
    length = polyline_length_px(table.polyline)
    rule = calibration.shares, calibration.weighting, calibration.shrinkage
    return (mu, sigma), pool_by_scene(length, mu, sigma, table.tile, table.scene, *rule)


def _calibrated_by_others(development: Predictions) -> tuple[Gaussians, Gaussians]:
    """`_calibrate_and_pool` for each scene, with the calibration of the other scenes."""
    scene = development.table.scene
    result = np.empty((2, 2, len(development)))
    for name in np.unique(scene):
        this = scene == name
        calibration = _fit_gaussian(development.select(~this))
        result[:, :, this] = _calibrate_and_pool(calibration, development.select(this))
    return (result[0, 0], result[0, 1]), (result[1, 0], result[1, 1])


def _nonconformity(development: Predictions, gaussians: Gaussians) -> Float64:
    """Absolute errors in units of σ, (N,)."""
    mu, sigma = gaussians
    return np.abs(development.table.height - mu) / sigma
