"""Post-hoc calibration of the predicted Gaussian in metres, fitted on scenes that were held out of training.

    mu', sigma' = a·mu + b, tau·|a|·sigma                     linear mean correction, variance temperature
    interval    = mu' ± quantiles[level]·sigma'               split-conformal prediction

train/scores/calibrate.py fits it; this module applies, writes and reads it. `a`, `b` and `tau` are the names of the
reference, whose checkpoints, which have only these, can be loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration; the default changes nothing and has no intervals.

    Raises ValueError if `a` is 0, `tau` or the reliability is not positive, a level is outside (0, 1), a quantile is
    negative, or a share, the weighting or the reliability is outside 0 to 1.
    """

    a: float = 1.0
    b: float = 0.0
    """Metres."""
    tau: float = 1.0
    quantiles: Mapping[float, float] = field(default_factory=dict)
    """Level → half width, in sigma', of the interval with this coverage on unseen scenes; inf if there were too few
    development scenes for this level."""
    pooled_quantiles: Mapping[float, float] = field(default_factory=dict)
    """The same for predictions pooled by scene after the calibration."""
    within_tile: float = 1.0
    """Share of the error variance of polylines that is common to their tile, 0 to 1 (train/scores/pooling.py)."""
    between: float = 1.0
    """Share of the error variance of tiles that is common to their scene, 0 to 1, and does not average out within it.
    If unknown, both are 1: pooling then does not shrink sigma."""
    weighting: float = 1.0
    """γ of the weights within a scene, 0 to 1: 1 weights by precision, 0 not at all. Older checkpoints have none: 1."""
    centre: float = 0.0
    """Mean over scenes of ln(height ÷ length), metres per pixel, towards which the network's estimates are drawn."""
    reliability: float = 1.0
    """How far a polyline's estimate follows the truth, above 0 and at most 1: 1 if it is not drawn to `centre`. Older
    checkpoints have none: 1."""
    scenes: int = 0
    """Number of development scenes that it was fitted on."""

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        if (
            not all(map(math.isfinite, numbers.values()))
            or self.a == 0
            or self.tau <= 0
            or self.reliability <= 0
            or not all(0 <= share <= 1 for share in (*self.shares, self.weighting, self.reliability))
        ):
            found = ", ".join(f"{name}={value}" for name, value in numbers.items())
            raise ValueError(
                "expected a calibration with a ≠ 0, tau > 0, reliability > 0 and shares within 0 to 1, found " + found
            )
        for level, quantile in (*self.quantiles.items(), *self.pooled_quantiles.items()):
            if not (0 < level < 1 and quantile >= 0):  # also refuses NaN
                raise ValueError(f"expected quantiles of levels within 0 to 1, found {quantile} at level {level}")

    @property
    def shares(self) -> tuple[float, float]:
        """`within_tile` and `between`, which pooling uses."""
        return self.within_tile, self.between

    @property
    def shrinkage(self) -> tuple[float, float]:
        """`centre` and `reliability`, which pooling uses."""
        return self.centre, self.reliability

    def __call__(self, mu: ArrayLike, sigma: ArrayLike) -> tuple[Float64, Float64]:
        """Predicted `mu`, `sigma` (N,) → calibrated mu', sigma' (N,) float64, all in metres."""
        return self.apply(np.asarray(mu, np.float64), np.asarray(sigma, np.float64))

    def apply(self, mu: Any, sigma: Any) -> tuple[Any, Any]:
        """The calibration of arrays or tensors in their own dtype; torch.export can trace it."""
        return self.a * mu + self.b, self.tau * abs(self.a) * sigma

    def interval(
        self, mu: ArrayLike, sigma: ArrayLike, level: float, *, pooled: bool = False
    ) -> tuple[Float64, Float64]:
        """Bounds of the interval, (N,) float64 metres each, from calibrated `mu`, `sigma` (N,); `pooled`: pooled ones.

        The lower bound is at least 0. The upper bound is infinite if there were too few development scenes for
        `level`. Raises ValueError for a level that was not fitted.
        """
        quantiles = self.pooled_quantiles if pooled else self.quantiles
        if level not in quantiles:
            fitted = ", ".join(f"{known:g}" for known in quantiles) or "none"
            raise ValueError(f"expected a level that was fitted ({fitted}), found {level:g}")
        mu, reach = np.asarray(mu, np.float64), quantiles[level] * np.asarray(sigma, np.float64)
        return np.maximum(mu - reach, 0.0), mu + reach

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint stores them under "calib"."""
        return {**asdict(self), "quantiles": dict(self.quantiles), "pooled_quantiles": dict(self.pooled_quantiles)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Inverse of `to_dict`; keys that are missing, as in the reference's {"a", "b", "tau"}, have their defaults.

        Raises ValueError or TypeError if `values` are not a calibration.
        """

        def quantiles(name: str) -> dict[float, float]:
            return {float(level): float(quantile) for level, quantile in dict(values.get(name, {})).items()}

        return cls(
            a=float(values.get("a", 1.0)),
            b=float(values.get("b", 0.0)),
            tau=float(values.get("tau", 1.0)),
            quantiles=quantiles("quantiles"),
            pooled_quantiles=quantiles("pooled_quantiles"),
            within_tile=float(values.get("within_tile", 1.0)),
            between=float(values.get("between", 1.0)),
            weighting=float(values.get("weighting", 1.0)),
            centre=float(values.get("centre", 0.0)),
            reliability=float(values.get("reliability", 1.0)),
            scenes=int(values.get("scenes", 0)),
        )
