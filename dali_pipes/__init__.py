"""From AI Hub 71805's archives to batches of letterboxed tiles in torch tensors."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .samples.table import SampleTable, Statistics

if TYPE_CHECKING:
    from .batches.batch import Batch
    from .batches.loader import Loader
    from .batches.plan import Shard
    from .batches.tile_cache import CacheOptions

__all__ = ["Batch", "CacheOptions", "Loader", "SampleTable", "Shard", "Statistics"]

_NEED_TORCH = {"Batch": "batch", "CacheOptions": "tile_cache", "Loader": "loader", "Shard": "plan"}


def __getattr__(name: str) -> Any:
    """Import torch, which takes seconds, only for names that need it, not to read a table or to render tiles."""
    if name in _NEED_TORCH:
        return getattr(import_module(f".batches.{_NEED_TORCH[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
