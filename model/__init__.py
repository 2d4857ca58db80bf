"""The network that regresses chimney heights, its loss and its checkpoints."""

from .backbone import BackboneError
from .checkpoint import CheckpointError
from .loss import gaussian_nll
from .regressor import HeightRegressor
from .target import Target

__all__ = ["BackboneError", "CheckpointError", "HeightRegressor", "Target", "gaussian_nll"]
