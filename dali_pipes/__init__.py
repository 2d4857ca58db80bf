"""From AI Hub 71805's archives to batches of letterboxed tiles in torch tensors."""

from typing import TYPE_CHECKING, Any

from .samples.table import SampleTable, Statistics

if TYPE_CHECKING:
    from .batches.loader import Batch, Loader

__all__ = ["Batch", "Loader", "SampleTable", "Statistics"]


def __getattr__(name: str) -> Any:
    """Import torch and DALI, which takes seconds, when a loader is asked for, not to read a table or render tiles."""
    if name in ("Batch", "Loader"):
        from .batches import loader

        return getattr(loader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
