"""From AI Hub 71805's archives to batches of letterboxed tiles in torch tensors."""

from .loader import Batch, Loader
from .samples import SampleTable, Statistics

__all__ = ["Batch", "Loader", "SampleTable", "Statistics"]
