"""The network that regresses chimney heights, its loss and its checkpoints."""

from .backbone import WeightsError
from .checkpoint import CheckpointError
from .loss import gaussian_nll
from .regressor import HeightRegressor

__all__ = ["CheckpointError", "HeightRegressor", "WeightsError", "gaussian_nll"]
