"""The network that regresses chimney heights, its loss and its checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import BackboneError, CheckpointError
from .target import Target

if TYPE_CHECKING:
    from .loss import gaussian_nll, scene_nll
    from .regressor import HeightRegressor

__all__ = ["BackboneError", "CheckpointError", "HeightRegressor", "Target", "gaussian_nll", "scene_nll"]

_NEED_TORCH = {"HeightRegressor": "regressor", "gaussian_nll": "loss", "scene_nll": "loss"}


def __getattr__(name: str) -> Any:
    """Import torch and timm, which take seconds, only for names that need them, not for `--help`."""
    if name in _NEED_TORCH:
        return getattr(import_module(f".{_NEED_TORCH[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
