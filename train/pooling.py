"""Scene pooling: all polylines of one acquisition share its scale, so what the network says of each tells of all.

In a scene, height ÷ length is one constant, whose log we call S.  Of each polyline i the network gives an estimate
s_i of S with a variance v_i, and errs by a part that all polylines of the scene have in common (the picture's haze,
its season) and by a part of its own.  With ρ = `between`, the share of the former in the errors' variance, and the
harmonic mean h = n / Σ 1/v_j of a scene's n variances, the model is

    s_i − S = c + e_i,    c ~ N(0, ρ·h),    e_i ~ N(0, (1 − ρ)·v_i),    all independent.

With a flat prior the posterior of S given s_1 … s_n, by generalised least squares, is Gaussian with

    mean      Σ s_i/v_i  ÷  Σ 1/v_i                       weights are precisions: the common part cannot change them
    variance  ρ·h + (1 − ρ)/Σ 1/v_i  =  (1 + (n − 1)·ρ) / Σ 1/v_i

that is n/(1 + (n − 1)ρ) polylines' worth of evidence, the design effect of cluster samples (Kish 1965, Survey
Sampling, 5.4): never surer than ρ·h, however many polylines there are, and for n = 1 what the network said.  ρ is
fitted by maximum likelihood on development scenes.

A Gaussian in metres and one of the log scale are carried into each other by the log-normal's first two moments,
there and back: v = ln(1 + (sigma/mu)²), s = ln(mu/length) − v/2.  No metadata are used: scenes are known by name.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

LOWEST = 1.0  # metres; a predicted height below it is taken for it, since it has no logarithm
SHARES = np.linspace(0, 0.999, 1000)  # of ρ, among which the likeliest is found; a thousandth is far below its error


def pool(
    length: ArrayLike, mu: ArrayLike, sigma: ArrayLike, scene: ArrayLike, between: float
) -> tuple[Float64, Float64]:
    """Predictions of polylines → the same, each told by all polylines of its scene.

    `length` (N,): in pixels or in another unit that a scene's images share; `mu`, `sigma` (N,): metres, calibrated,
    sigma positive; `scene` (N,): names; `between`: ρ, 0 to 1.  Returns mu, sigma (N,) float64 metres.
    """
    length = np.asarray(length, np.float64)
    log_scale, variance = to_log_scale(length, mu, sigma)
    _, group = np.unique(np.asarray(scene), return_inverse=True)
    precision = np.bincount(group, 1 / variance)
    mean = np.bincount(group, log_scale / variance) / precision
    pooled = (1 + (np.bincount(group) - 1) * between) / precision
    log_scale, variance = mean[group], pooled[group]
    mu = length * np.exp(log_scale + variance / 2)
    return mu, mu * np.sqrt(np.expm1(variance))


def to_log_scale(length: ArrayLike, mu: ArrayLike, sigma: ArrayLike) -> tuple[Float64, Float64]:
    """Mean and variance (N,) of ln(height ÷ length) of the log-normal whose mean and deviation are `mu`, `sigma`."""
    mu = np.maximum(np.asarray(mu, np.float64), LOWEST)
    variance = np.log1p((np.asarray(sigma, np.float64) / mu) ** 2)
    return np.log(mu / np.asarray(length, np.float64)) - variance / 2, variance


def fit_between(error: Float64, variance: Float64, scene: NDArray[np.str_]) -> float:
    """The ρ that makes `error` (N,) of log scales likeliest, whose variances are `variance` (N,) up to one factor.

    A scene's errors have the covariance κ·((1 − ρ)·diag(v) + ρ·h·11ᵀ).  Its determinant and inverse are closed forms
    (Sherman–Morrison), and so is the best κ at each ρ.  1 where no scene has two polylines: then nothing is known.
    """
    _, group = np.unique(scene, return_inverse=True)
    n = np.bincount(group)[:, None]
    if n.max(initial=0) < 2:
        return 1.0
    squares = np.bincount(group, error**2 / variance)[:, None]  # Σ e²/v of each scene, (scenes, 1)
    common = (np.bincount(group, error / variance) ** 2 / np.bincount(group, 1 / variance))[:, None]
    determinant = (n - 1) * np.log1p(-SHARES) + np.log1p((n - 1) * SHARES)  # log, (scenes, shares)
    square = (squares - SHARES * n * common / (1 + (n - 1) * SHARES)) / (1 - SHARES)
    return float(SHARES[np.argmin(len(error) * np.log(square.sum(axis=0)) + determinant.sum(axis=0))])


def gain(
    length: Float64,
    height: Float64,
    mu: Float64,
    sigma: Float64,
    scene: NDArray[np.str_],
    between: float,
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
    _, group, counts = np.unique(scene, return_inverse=True, return_counts=True)
    if len(counts) < fewest_scenes:
        return np.empty(0, np.int64), np.empty(0), np.empty(0)
    most = int(np.log2(np.sort(counts)[-fewest_scenes]))
    numbers = 2 ** np.arange(most + 1)
    random = np.random.default_rng(seed)
    square, stated = np.zeros(len(numbers)), np.zeros(len(numbers))
    large = np.flatnonzero(counts >= numbers[-1])
    for which in large:
        rows = np.flatnonzero(group == which)
        for _ in range(draws):
            drawn = random.permutation(rows)[: numbers[-1]]
            precision = np.cumsum(1 / variance[drawn])[numbers - 1]
            square += (np.cumsum(error[drawn] / variance[drawn])[numbers - 1] / precision) ** 2
            stated += (1 + (numbers - 1) * between) / precision
    n = len(large) * draws
    return numbers, np.sqrt(square / n), np.sqrt(stated / n)
