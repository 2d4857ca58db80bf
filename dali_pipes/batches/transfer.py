"""Copies between the host and a device for which neither waits.

A copy from ordinary memory makes the host wait until the device has done all that it was told before: the device then
idles while the next batch is prepared.  Page-locked ("pinned") memory is what a device copies from by itself.  Torch's
allocator for it gives a buffer to nobody else until the copies that were begun from it are done, so that the
functions here may forget theirs at once.  On a CPU nothing is pinned, and nothing copied twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """A copy of `values`, of any shape and type, on `device`."""
    host = torch.from_numpy(values.copy())  # a plan's rows cannot be written to, and torch wants that they could
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


def gather(frames: Tensor, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """`frames[rows]` on `device`; frames (N, …) on the host are gathered into the memory that they are copied from."""
    if frames.device.type == device.type:
        return frames.index_select(0, to_device(rows, device))
    chosen = _pinned((len(rows), *frames.shape[1:]), frames.dtype)
    torch.index_select(frames, 0, torch.from_numpy(rows), out=chosen)
    return chosen.to(device, non_blocking=True)


class Arrivals:
    """Frames on their way to the host; `keep(rows, frames)` is called for each batch of them after it has come."""

    def __init__(self, keep: Callable[[NDArray[np.int64], Tensor], object]) -> None:
        self._keep = keep
        self._coming: deque[tuple[NDArray[np.int64], Tensor, torch.cuda.Event]] = deque()

    def send(self, rows: NDArray[np.int64], frames: Tensor) -> None:
        """Let `frames` (B, …), from any device, come; those that came in the meantime are kept now."""
        if frames.is_cuda:
            host = _pinned(frames.shape, frames.dtype).copy_(frames, non_blocking=True)
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(frames.device))
            self._coming.append((rows, host, event))
        else:
            self._keep(rows, frames)
        while self._coming and self._coming[0][2].query():
            self._keep(*self._coming.popleft()[:2])

    def finish(self) -> None:
        """Wait for all that are still on their way."""
        for rows, frames, event in self._coming:
            event.synchronize()
            self._keep(rows, frames)
        self._coming.clear()


def _pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, pin_memory=True)
