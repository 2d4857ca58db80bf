"""Scene pooling: all polylines of one acquisition share its scale, so what the network says of each tells of all.

In a scene, height ÷ length is one constant, whose log we call S.  The network estimates S from each polyline, and errs
by a part that the scene's tiles have in common (its haze, its season), by one that is the tile's (two polylines of one
tile are two looks at one picture), and by one of the polyline's own.  So polylines are pooled to their tile and tiles
to their scene, by one rule.

The rule.  Of a group's n members, i gives an estimate s_i of S with a variance v_i.  With ρ, the share of the errors'
variance that is common to the group, and the harmonic mean h = n / Σ 1/v_j, let

    s_i − S = c + e_i,    c ~ N(0, ρ·h),    e_i ~ N(0, (1 − ρ)·v_i),    all independent.

With a flat prior the posterior of S given s_1 … s_n, by generalised least squares, is Gaussian with

    mean      Σ s_i/v_i  ÷  Σ 1/v_i                       weights are precisions: the common part cannot change them
    variance  ρ·h + (1 − ρ)/Σ 1/v_i  =  (1 + (n − 1)·ρ) / Σ 1/v_i

that is n/(1 + (n − 1)ρ) members' worth of evidence, the design effect of cluster samples (Kish 1965, Survey Sampling,
5.4): never surer than ρ·h, however many members there are, and for n = 1 what that one said.

Twice.  By the rule with ρ = `within_tile`, tile t's polylines give x_t with a variance w_t; by the rule with
β = `between`, a scene's x_t and w_t give what is said of S.  Both steps together are generalised least squares, too:

    s_i − S = (x_t − S) + (s_i − x_t)

The first part is a member's error in the scene's rule.  The second has, by the tile's rule, the covariance
(1 − ρ)·(diag(v) − 11ᵀ/Σ 1/v_j) and none with the first, so that it tells nothing of S once x_t is known.  ρ is the
correlation of two polylines' errors in one tile, β that of two tiles' in one scene.  Both are fitted by maximum
likelihood on development scenes: ρ first, as if tiles were independent, then β on the x_t.

A Gaussian in metres and one of the log scale are carried into each other by the log-normal's first two moments,
there and back: v = ln(1 + (sigma/mu)²), s = ln(mu/length) − v/2.  No metadata are used: scenes are known by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

LOWEST = 1.0  # metres; a predicted height below it is taken for it, since it has no logarithm
SHARES = np.linspace(0, 0.999, 1000)  # among which the likeliest is found; a thousandth is far below its error


def pool(
    length: ArrayLike,
    mu: ArrayLike,
    sigma: ArrayLike,
    tile: ArrayLike,
    scene: ArrayLike,
    shares: tuple[float, float],
) -> tuple[Float64, Float64]:
    """Predictions of polylines → the same, each told by all polylines of its scene.

    `length` (N,): in pixels or in another unit that a scene's images share; `mu`, `sigma` (N,): metres, calibrated,
    sigma positive; `tile`, `scene` (N,): names, a tile's of one scene; `shares`: `within_tile` and `between`, each
    0 to 1.  Returns mu, sigma (N,) float64 metres.
    """
    length = np.asarray(length, np.float64)
    log_scale, variance = pool_log_scale(*to_log_scale(length, mu, sigma), tile, scene, shares)
    mu = length * np.exp(log_scale + variance / 2)
    return mu, mu * np.sqrt(np.expm1(variance))


def pool_log_scale(
    log_scale: Float64, variance: Float64, tile: ArrayLike, scene: ArrayLike, shares: tuple[float, float]
) -> tuple[Float64, Float64]:
    """Each polyline's estimate of S and its variance → those of its scene, all (N,)."""
    within_tile, between = shares
    log_scale, variance, of_scene = _tiles(log_scale, variance, tile, scene, within_tile)
    names, group = np.unique(of_scene, return_inverse=True)
    mean, pooled = _pool(log_scale, variance, group, between)
    polyline = np.searchsorted(names, np.asarray(scene))
    return mean[polyline], pooled[polyline]


def to_log_scale(length: ArrayLike, mu: ArrayLike, sigma: ArrayLike) -> tuple[Float64, Float64]:
    """Mean and variance (N,) of ln(height ÷ length) of the log-normal whose mean and deviation are `mu`, `sigma`."""
    mu = np.maximum(np.asarray(mu, np.float64), LOWEST)
    variance = np.log1p((np.asarray(sigma, np.float64) / mu) ** 2)
    return np.log(mu / np.asarray(length, np.float64)) - variance / 2, variance


def fit_shares(error: Float64, variance: Float64, tile: ArrayLike, scene: ArrayLike) -> tuple[float, float]:
    """`within_tile` and `between` by errors (N,) of log scales, whose variances are `variance` (N,) up to a factor."""
    within_tile = fit_share(error, variance, tile)
    return within_tile, fit_share(*_tiles(error, variance, tile, scene, within_tile))


def fit_share(error: Float64, variance: Float64, group: ArrayLike) -> float:
    """The rule's ρ that makes `error` (N,) likeliest, whose variances are `variance` (N,) up to one factor κ.

    A group's errors have the covariance κ·((1 − ρ)·diag(v) + ρ·h·11ᵀ).  Its determinant and inverse are closed forms
    (Sherman–Morrison), and so is the best κ at each ρ.  1 where no group has two members: then nothing is known.
    """
    _, group = np.unique(np.asarray(group), return_inverse=True)
    n = np.bincount(group)[:, None]
    if n.max(initial=0) < 2:
        return 1.0
    squares = np.bincount(group, error**2 / variance)[:, None]  # Σ e²/v of each group, (groups, 1)
    common = (np.bincount(group, error / variance) ** 2 / np.bincount(group, 1 / variance))[:, None]
    determinant = (n - 1) * np.log1p(-SHARES) + np.log1p((n - 1) * SHARES)  # log, (groups, shares)
    square = (squares - SHARES * n * common / (1 + (n - 1) * SHARES)) / (1 - SHARES)
    return float(SHARES[np.argmin(len(error) * np.log(square.sum(axis=0)) + determinant.sum(axis=0))])


def gain(
    length: Float64,
    height: Float64,
    mu: Float64,
    sigma: Float64,
    tile: NDArray[np.str_],
    scene: NDArray[np.str_],
    shares: tuple[float, float],
    *,
    fewest_scenes: int = 5,
    draws: int = 50,
    seed: int = 0,
) -> tuple[NDArray[np.int64], Float64, Float64]:
    """How far off the scale of a scene is when 1, 2, 4, … of its polylines are pooled: measured, and as σ states it.

    All columns (N,) as in `pool`.  The same scenes at each number, those with as many polylines as the largest, which
    at least `fewest_scenes` have; of each, `draws` random choices.  Returns the numbers (K,), and the root mean square
    of errors of log scale and of stated deviations, both (K,); all empty where there are too few scenes.
    """
    log_scale, variance = to_log_scale(length, mu, sigma)
    error = log_scale - np.log(height / length)
    _, picture = np.unique(tile, return_inverse=True)
    _, group, counts = np.unique(scene, return_inverse=True, return_counts=True)
    if len(counts) < fewest_scenes:
        return np.empty(0, np.int64), np.empty(0), np.empty(0)
    numbers = 2 ** np.arange(int(np.log2(np.sort(counts)[-fewest_scenes])) + 1)
    random = np.random.default_rng(seed)
    large = np.repeat(np.flatnonzero(counts >= numbers[-1]), draws)
    drawn = np.stack([random.permutation(np.flatnonzero(group == which))[: numbers[-1]] for which in large])
    draw = np.arange(len(drawn))[:, None]  # each is a scene of its own, with tiles of its own
    measured, stated = np.zeros(len(numbers)), np.zeros(len(numbers))
    for i, n in enumerate(numbers):
        some = drawn[:, :n]
        tiles, scenes = picture[some] * len(drawn) + draw, np.broadcast_to(draw, some.shape)
        off, pooled = pool_log_scale(error[some].ravel(), variance[some].ravel(), tiles.ravel(), scenes.ravel(), shares)
        measured[i], stated[i] = np.sqrt(np.mean(off[::n] ** 2)), np.sqrt(np.mean(pooled[::n]))  # once a draw
    return numbers, measured, stated


def _pool(estimate: Float64, variance: Float64, group: NDArray[np.intp], share: float) -> tuple[Float64, Float64]:
    """The rule: estimates and variances of members (N,), `group` 0 to G − 1 of each → of groups (G,)."""
    precision = np.bincount(group, 1 / variance)
    mean = np.bincount(group, estimate / variance) / precision
    return mean, (1 + (np.bincount(group) - 1) * share) / precision


def _tiles(
    estimate: Float64, variance: Float64, tile: ArrayLike, scene: ArrayLike, within_tile: float
) -> tuple[Float64, Float64, NDArray[Any]]:
    """Of each tile: x_t, w_t and its scene, all (tiles,)."""
    _, first, group = np.unique(np.asarray(tile), return_index=True, return_inverse=True)
    return *_pool(estimate, variance, group, within_tile), np.asarray(scene)[first]
