"""What the network regresses, and the way back to metres.

    height      z = (height − mean) / std                     the reference's target
    log_scale   z = (log(height / length) − mean) / std       what one acquisition's tiles have in common

In a scene height ÷ length is one constant, the scene's *scale*; all that a picture can tell is that scale, and the
polyline tells the rest.  With the target `height` the network has to learn the product of the two; with `log_scale`
it regresses the scale and the product is taken here, exactly.  Lengths are in units of the image's longer side, so
that tiles of another size do not change the scale.

The network's Gaussian in z is a Gaussian of log scale, hence a lognormal of height.  Its *mean* and *standard
deviation* are what `decode` returns: the mean is the prediction of lowest squared error (the median would be low by
half a variance), and the Gaussian of these two moments is the closest one to the lognormal in the sense of
Kullback and Leibler.  All of it is numpy in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]
Kind = Literal["height", "log_scale"]
SMALLEST_STD = 1e-8  # the reference's: a target that does not vary still has a z


@dataclass(frozen=True)
class Target:
    """One kind of target with the mean and standard deviation of its values over the training samples.

    `mean`, `std`: metres for "height", natural logarithms of metres a side for "log_scale".  Raises ValueError for
    an unknown kind, or numbers that are not finite or a deviation that is not positive.
    """

    kind: Kind
    mean: float
    std: float

    def __post_init__(self) -> None:
        if self.kind not in ("height", "log_scale"):
            raise ValueError(f"expected the target height or log_scale, found {self.kind!r}")
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.std > 0):
            raise ValueError(f"expected a finite mean and a positive deviation, found {self.mean} and {self.std}")

    @classmethod
    def fit(cls, kind: Kind, height: ArrayLike, length: ArrayLike) -> Target:
        """The target whose values have mean 0 and standard deviation 1 on the training samples.

        `height` (N,) metres; `length` (N,) in units of the image's longer side.
        """
        values = _values(kind, np.asarray(height, np.float64), np.asarray(length, np.float64))
        return cls(kind, float(values.mean()), float(values.std() + SMALLEST_STD))

    def encode(self, height: ArrayLike, length: ArrayLike) -> Float64:
        """`height` (N,) metres and `length` (N,) sides → what the network should say, (N,) float64."""
        return (
            _values(self.kind, np.asarray(height, np.float64), np.asarray(length, np.float64)) - self.mean
        ) / self.std

    def decode(self, mu: ArrayLike, log_var: ArrayLike, length: ArrayLike) -> tuple[Float64, Float64]:
        """What the network says, `mu` and `log_var` (N,), and `length` (N,) sides → mean and σ of height in metres.

        For log_scale, with m and v the mean and variance of log scale: length · exp(m + v/2), and that times
        √(exp(v) − 1).
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


def _values(kind: Kind, height: Float64, length: Float64) -> Float64:
    return height if kind == "height" else np.log(height / length)
