"""Pooling: the polylines of a scene share its scale, so the height of each can use the predictions of the others.

In a scene, height ÷ length is constant, and S is its logarithm. The network estimates S from each polyline. The error
has three parts: one common to the tiles of the scene (haze, season), one common to the polylines of a tile (which show
the same image), and one of the polyline itself. Therefore polylines are combined by tile, and tiles by scene, with the
same rule.

The rule. Member i of a group of n gives an estimate s_i of S with variance v_i. Let ρ be the share of the error
variance that is common to the group, and h = n / Σ 1/v_j the harmonic mean of the variances. Then

    s_i − S = c + e_i,    c ~ N(0, ρ·h),    e_i ~ N(0, (1 − ρ)·v_i),    all independent.

With a flat prior, the posterior of S given s_1 … s_n (generalised least squares) is Gaussian with

    mean      Σ s_i/v_i  ÷  Σ 1/v_i                       weighted by precision; the common part changes no weight
    variance  ρ·h + (1 − ρ)/Σ 1/v_i  =  (1 + (n − 1)·ρ) / Σ 1/v_i

The group counts as n/(1 + (n − 1)ρ) independent members, by the design effect of cluster samples (Kish 1965, Survey
Sampling, 5.4). The variance never falls below ρ·h, however large n is. For n = 1 the estimate stays as it is.

Two steps. The rule with ρ = `within_tile` combines the polylines of tile t into an estimate x_t with a variance w_t.
The rule with β = `between` combines the x_t and w_t of a scene. The two steps are one generalised least squares:

    s_i − S = (x_t − S) + (s_i − x_t)

The first part is a member's error in the scene's rule. By the tile's rule, the second has the covariance
(1 − ρ)·(diag(v) − 11ᵀ/Σ 1/v_j) and is uncorrelated with the first, so given x_t it carries no information about S. ρ is
the correlation of two polylines' errors in one tile, and β that of two tiles' errors in one scene. Both are fitted by
maximum likelihood on development scenes: first ρ, as if tiles were independent, then β on the x_t.

Weights. Within a scene the network's variances may say little about the errors. So the rule is given

    u_i = g^(1 − γ)·v_i^γ,    where g is the geometric mean of the scene's v_i

instead of v_i. The weights are then proportional to v_i^−γ: γ = 1 is the weighting by precision, γ = 0 the plain mean.
The scene's mean variance and a polyline that is alone do not change. γ is fitted by maximum likelihood together with
the share that is common to the scene (`fit_weighting`); ρ and β are then fitted to the u_i.

Shrinkage. The network learns to predict S from one polyline, so its estimate is a posterior mean, drawn towards the
mean m of all scenes: s_i = m + k·(x_i − m), where x_i is S plus an error, and the reliability k is between 0 and 1. A
mean of such estimates is drawn as much, although it is more precise: each of them counts the prior again. As in the
Bayesian committee machine (Tresp 2000, Neural Computation 12:2719), it should count once. If a single estimate has the
variance v = (1 − k)·τ², where τ² is the variance of S over scenes, and r = pooled variance ÷ h, S has the posterior

    mean      m + B·(pooled mean − m)
    variance  B·pooled variance          where B = 1 / (k + (1 − k)·r)

A polyline that is alone has r = 1 and does not change. k = 1 is the flat prior. ρ and β describe the errors x_i − S. m
and k are estimated on the development scenes: m is their mean, k the slope of s_i against S (calibrate.py).

A Gaussian in metres and one of the log scale are converted into each other by the first two moments of the log-normal:
v = ln(1 + (sigma/mu)²), s = ln(mu/length) − v/2. No metadata are used, and scenes are identified by name.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]
Pooling = Literal["none", "scene"]

LOWEST = 1.0  # metres; a lower predicted height is raised to it, because 0 and below have no logarithm
SHARES = np.linspace(0, 0.999, 1000)  # the grid of the fit; its step is far below the error of a fitted share
WEIGHTINGS = np.linspace(0, 1, 21)  # the grid of γ, for the same reason


def pool_by_scene(
    length: ArrayLike,
    mu: ArrayLike,
    sigma: ArrayLike,
    tile: ArrayLike,
    scene: ArrayLike,
    shares: tuple[float, float],
    weighting: float = 1.0,
    shrinkage: tuple[float, float] = (0.0, 1.0),
) -> tuple[Float64, Float64]:
    """Predictions of polylines → the same, each estimated from all polylines of its scene.

    `length` (N,): in pixels or in another unit that is the same in all images of a scene; `mu`, `sigma` (N,): metres,
    calibrated, sigma positive; `tile`, `scene` (N,): names, where a tile belongs to one scene; `shares`: `within_tile`
    and `between`, each 0 to 1; `weighting`: γ, 0 to 1; `shrinkage`: m, for `length` in its unit, and k, above 0 and at
    most 1. Returns mu, sigma (N,) float64 metres.
    """
    length = np.asarray(length, np.float64)
    log_scale, variance = to_log_scale(length, mu, sigma)
    log_scale, variance = pool_log_scale(log_scale, variance, tile, scene, shares, weighting, shrinkage)
    mu = length * np.exp(log_scale + variance / 2)
    return mu, mu * np.sqrt(np.expm1(variance))


def pool_log_scale(
    log_scale: Float64,
    variance: Float64,
    tile: ArrayLike,
    scene: ArrayLike,
    shares: tuple[float, float],
    weighting: float = 1.0,
    shrinkage: tuple[float, float] = (0.0, 1.0),
) -> tuple[Float64, Float64]:
    """Each polyline's estimate of S and its variance (N,) → those of its scene (N,)."""
    within_tile, between = shares
    centre, reliability = shrinkage
    variance = levelled(variance, scene, weighting)
    _, group = np.unique(np.asarray(scene), return_inverse=True)
    of_one = np.bincount(group) / np.bincount(group, 1 / variance)  # h
    log_scale, variance, scene_of_tile = _combine_tiles(log_scale, variance, tile, scene, within_tile)
    _, group_of_tile = np.unique(scene_of_tile, return_inverse=True)
    mean, pooled = _combine(log_scale, variance, group_of_tile, between)
    stretch = 1 / (reliability + (1 - reliability) * pooled / of_one)  # B
    return (centre + stretch * (mean - centre))[group], (stretch * pooled)[group]


def to_log_scale(length: ArrayLike, mu: ArrayLike, sigma: ArrayLike) -> tuple[Float64, Float64]:
    """Mean and variance (N,) of ln(height ÷ length), for a log-normal height of mean `mu` and deviation `sigma`."""
    mu = np.maximum(np.asarray(mu, np.float64), LOWEST)
    variance = np.log1p((np.asarray(sigma, np.float64) / mu) ** 2)
    return np.log(mu / np.asarray(length, np.float64)) - variance / 2, variance


def levelled(variance: Float64, scene: ArrayLike, weighting: float) -> Float64:
    """u (N,) for the variances v (N,) of polylines, and γ = `weighting`, as above."""
    if weighting == 1:
        return variance
    _, group = np.unique(np.asarray(scene), return_inverse=True)
    log_variance = np.log(variance)
    mean = (np.bincount(group, log_variance) / np.bincount(group))[group]
    return np.exp(mean + weighting * (log_variance - mean))


def fit_weighting(error: Float64, variance: Float64, scene: ArrayLike) -> float:
    """The γ that, with the best common share ρ of the scene's errors, makes the errors (N,) most likely; else 1.

    It is 1 if no scene has two polylines. The determinant of the u_i is the same for all γ.
    """
    costs = [_fit_share(error, levelled(variance, scene, float(gamma)), scene)[1] for gamma in WEIGHTINGS[::-1]]
    return float(WEIGHTINGS[::-1][np.argmin(costs)])  # the first of equal ones is 1


def fit_shares(error: Float64, variance: Float64, tile: ArrayLike, scene: ArrayLike) -> tuple[float, float]:
    """Fit `within_tile` and `between` to errors (N,) of log scales, whose variances (N,) are known up to a factor."""
    within_tile = fit_share(error, variance, tile)
    return within_tile, fit_share(*_combine_tiles(error, variance, tile, scene, within_tile))


def fit_share(error: Float64, variance: Float64, group: ArrayLike) -> float:
    """The maximum-likelihood ρ of the rule for `error` (N,), with variances `variance` (N,) up to one factor κ.

    A group's errors have the covariance κ·((1 − ρ)·diag(v) + ρ·h·11ᵀ). Its determinant and inverse have closed forms
    (Sherman–Morrison), and so has the best κ at each ρ. Returns 1 if no group has two members: ρ is unknown then.
    """
    return _fit_share(error, variance, group)[0]


def _fit_share(error: Float64, variance: Float64, group: ArrayLike) -> tuple[float, float]:
    """ρ as in `fit_share`, and −2 times its log-likelihood, up to terms that do not change with ρ and γ."""
    _, group = np.unique(np.asarray(group), return_inverse=True)
    n = np.bincount(group)[:, None]
    if n.max(initial=0) < 2:
        return 1.0, 0.0
    squares = np.bincount(group, error**2 / variance)[:, None]  # Σ e²/v of each group, (groups, 1)
    common = (np.bincount(group, error / variance) ** 2 / np.bincount(group, 1 / variance))[:, None]
    determinant = (n - 1) * np.log1p(-SHARES) + np.log1p((n - 1) * SHARES)  # log, (groups, shares)
    square = (squares - SHARES * n * common / (1 + (n - 1) * SHARES)) / (1 - SHARES)
    cost = len(error) * np.log(square.sum(axis=0)) + determinant.sum(axis=0)
    return float(SHARES[cost.argmin()]), float(cost.min())


def _combine(estimate: Float64, variance: Float64, group: NDArray[np.intp], share: float) -> tuple[Float64, Float64]:
    """The rule: estimates and variances of members (N,), each in a `group` 0 to G − 1 → of groups (G,)."""
    precision = np.bincount(group, 1 / variance)
    mean = np.bincount(group, estimate / variance) / precision
    return mean, (1 + (np.bincount(group) - 1) * share) / precision


def _combine_tiles(
    estimate: Float64, variance: Float64, tile: ArrayLike, scene: ArrayLike, within_tile: float
) -> tuple[Float64, Float64, NDArray[Any]]:
    """x_t, w_t and the scene of each tile, all (tiles,)."""
    _, first, group = np.unique(np.asarray(tile), return_index=True, return_inverse=True)
    return *_combine(estimate, variance, group, within_tile), np.asarray(scene)[first]
