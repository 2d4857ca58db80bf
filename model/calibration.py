"""Post-hoc calibration: what is done to a network's Gaussian, in metres, after training and by other scenes.

    mu', sigma' = a·mu + b, tau·|a|·sigma                     linear mean correction, variance temperature
    interval    = mu' ± quantiles[level]·sigma'               what split-conformal prediction promises

`train/scores/calibrate.py` fits it on development scenes; here it is applied, written and read.  `a`, `b` and `tau` are
the reference's names, and a checkpoint of the reference, which knows no more than these, loads, too.
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
    """A fitted calibration; the default changes nothing and promises nothing.

    Raises ValueError where a number cannot be one of a calibration: `a` of 0, `tau` not positive, a level outside
    (0, 1), a negative quantile, a share outside 0 to 1.
    """

    a: float = 1.0
    b: float = 0.0
    """Metres."""
    tau: float = 1.0
    quantiles: Mapping[float, float] = field(default_factory=dict)
    """Level → how many sigma' on either side hold that share of an unseen scene's heights; inf where the development
    scenes were too few to promise it."""
    pooled_quantiles: Mapping[float, float] = field(default_factory=dict)
    """The same for predictions that were pooled by scene after the calibration."""
    within_tile: float = 1.0
    """Share of the variance of polylines' errors that a tile's have in common, 0 to 1 (train/scores/pooling.py)."""
    between: float = 1.0
    """Share of the variance of tiles' errors that a scene's have in common: it does not average out within one.
    Both are 1 where they are not known, which makes pooled predictions no surer than their polylines are."""
    scenes: int = 0
    """How many development scenes it was fitted on."""

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.a, self.b, self.tau)))
        if not finite or self.a == 0 or self.tau <= 0 or not all(0 <= share <= 1 for share in self.shares):
            raise ValueError(
                f"expected a calibration with a ≠ 0, tau > 0 and shares within 0 to 1, found a={self.a}, b={self.b},"
                f" tau={self.tau}, within_tile={self.within_tile}, between={self.between}"
            )
        for level, quantile in (*self.quantiles.items(), *self.pooled_quantiles.items()):
            if not (0 < level < 1 and quantile >= 0):  # false for NaN, too
                raise ValueError(f"expected quantiles of levels within 0 to 1, found {quantile} at level {level}")

    @property
    def shares(self) -> tuple[float, float]:
        """`within_tile` and `between`, by which predictions are pooled."""
        return self.within_tile, self.between

    def __call__(self, mu: ArrayLike, sigma: ArrayLike) -> tuple[Float64, Float64]:
        """The network's `mu`, `sigma` (N,) → calibrated mu', sigma' (N,) float64, all metres."""
        return self.apply(np.asarray(mu, np.float64), np.asarray(sigma, np.float64))

    def apply(self, mu: Any, sigma: Any) -> tuple[Any, Any]:
        """The calibration of arrays or tensors in their own dtype; torch.export can trace it."""
        return self.a * mu + self.b, self.tau * abs(self.a) * sigma

    def interval(
        self, mu: ArrayLike, sigma: ArrayLike, level: float, *, pooled: bool = False
    ) -> tuple[Float64, Float64]:
        """Lowest and highest height (N,) float64 metres, of calibrated (and then perhaps `pooled`) mu, sigma (N,).

        No height is below 0.  Where the development scenes were too few to promise `level`, the highest is infinite.
        Raises ValueError for a level that was not fitted.
        """
        quantiles = self.pooled_quantiles if pooled else self.quantiles
        if level not in quantiles:
            fitted = ", ".join(f"{known:g}" for known in quantiles) or "none"
            raise ValueError(f"expected a level that was fitted ({fitted}), found {level:g}")
        mu, reach = np.asarray(mu, np.float64), quantiles[level] * np.asarray(sigma, np.float64)
        return np.maximum(mu - reach, 0.0), mu + reach

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them under "calib"."""
        return {**asdict(self), "quantiles": dict(self.quantiles), "pooled_quantiles": dict(self.pooled_quantiles)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Inverse of `to_dict`; what the reference's {"a", "b", "tau"} leaves unsaid has its default.

        Raises ValueError or TypeError where `values` are no calibration.
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
            scenes=int(values.get("scenes", 0)),
        )
