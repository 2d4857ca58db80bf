"""The regression target: from metres to a normalised target z, and back.

    height      z = (height − mean) / std                     the reference's target
    log_scale   z = (log(height / length) − mean) / std       the logarithm of the scene's scale

Within a scene, height / length is a constant, the *scale*. The image determines the scale and the polyline the length.
With the target `height` the network must learn their product; with `log_scale` it predicts the scale, and `decode`
multiplies by the length exactly. Lengths are in units of the image's longer side, so that the scale does not depend on
the tile size.

With `log_scale`, a Gaussian in z is a lognormal distribution of the height. `decode` returns its mean and standard
deviation: the mean minimises the squared error (the median would be biased low), and the Gaussian with these two
moments is the closest one to the lognormal in Kullback-Leibler divergence. Everything is numpy in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]
TargetKind = Literal["height", "log_scale"]
SMALLEST_STD = 1e-8  # as in the reference: a constant target still has a finite z


@dataclass(frozen=True)
class Target:
    """A kind of target, with the mean and standard deviation of its values over the training samples.

    `mean`, `std`: in metres for "height"; for "log_scale", of the natural logarithm of metres per image side. Raises
    ValueError for an unknown kind, a number that is not finite, or a deviation that is not positive.
    """

    kind: TargetKind
    mean: float
    std: float

    def __post_init__(self) -> None:
        if self.kind not in ("height", "log_scale"):
            raise ValueError(f"expected the target height or log_scale, found {self.kind!r}")
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.std > 0):
            raise ValueError(f"expected a finite mean and a positive deviation, found {self.mean} and {self.std}")

    @classmethod
    def fit(cls, kind: TargetKind, height: ArrayLike, length: ArrayLike) -> Target:
        """The target with mean 0 and standard deviation 1 on the training samples.

        `height` (N,) metres; `length` (N,) in units of the image's longer side.
        """
        values = _values(kind, np.asarray(height, np.float64), np.asarray(length, np.float64))
        return cls(kind, float(values.mean()), float(values.std() + SMALLEST_STD))

    def encode(self, height: ArrayLike, length: ArrayLike) -> Float64:
        """`height` (N,) metres, `length` (N,) image sides → normalised target (N,) float64."""
        return (
            _values(self.kind, np.asarray(height, np.float64), np.asarray(length, np.float64)) - self.mean
        ) / self.std

    def decode(self, mu: ArrayLike, log_var: ArrayLike, length: ArrayLike) -> tuple[Float64, Float64]:
        """`mu`, `log_var` (N,) of the network, `length` (N,) image sides → mean and σ (N,) of the height in metres.

        For log_scale, with mean m and variance v of the log scale, the mean is length · exp(m + v/2), and σ is the mean
        times √(exp(v) − 1).
        """
        mu, log_var, length = (np.asarray(values, np.float64) for values in (mu, log_var, length))
        return self.decode_arrays(mu, log_var, length, library=np)

    def decode_arrays(self, mu: Any, log_var: Any, length: Any, *, library: Any) -> tuple[Any, Any]:
        """`decode` for arrays of `library`, numpy or torch, in their own dtype; torch.export can trace it.

        `length` is used by log_scale alone.
        """
        mean, variance = mu * self.std + self.mean, library.exp(log_var) * self.std**2
        if self.kind == "height":
            return mean, library.sqrt(variance)
        height = length * library.exp(mean + variance / 2)
        return height, height * library.sqrt(library.expm1(variance))


def _values(kind: TargetKind, height: Float64, length: Float64) -> Float64:
    return height if kind == "height" else np.log(height / length)
