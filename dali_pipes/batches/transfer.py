"""Asynchronous copies between host and device.

A copy from ordinary host memory blocks the host until the device has done all its queued work. Then the device idles
while the host prepares the next batch. From page-locked ("pinned") memory the device copies by itself. Torch's pinned
allocator does not reuse a buffer before the copies from it are done, so the functions here need not keep them. On a
CPU nothing is pinned, and nothing is copied twice.
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
    host = torch.from_numpy(values.copy())  # torch wants writable arrays, and a plan's rows may be read-only
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


def select_rows(frames: Tensor, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """`frames[rows]` on `device`. Rows of frames (N, …) on the host are collected directly in pinned memory."""
    if frames.device.type == device.type:
        return frames.index_select(0, to_device(rows, device))
    staged = host_tensor((len(rows), *frames.shape[1:]), frames.dtype, device)
    torch.index_select(frames, 0, torch.from_numpy(rows), out=staged)
    return staged.to(device, non_blocking=True)


def host_tensor(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor on the host, which `.to(device, non_blocking=True)` copies without waiting."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type != "cpu")


class CopiesToHost:
    """Frames that are being copied to the host; calls `keep(rows, frames)` for each batch after it has arrived."""

    def __init__(self, keep: Callable[[NDArray[np.int64], Tensor], object]) -> None:
        self._keep = keep
        self._on_the_way: deque[tuple[NDArray[np.int64], Tensor, torch.cuda.Event]] = deque()

    def send(self, rows: NDArray[np.int64], frames: Tensor) -> None:
        """Start the copy of `frames` (B, …) from any device, and keep the batches that have arrived."""
        if frames.is_cuda:
            host = host_tensor(frames.shape, frames.dtype, frames.device).copy_(frames, non_blocking=True)
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(frames.device))
            self._on_the_way.append((rows, host, event))
        else:
            self._keep(rows, frames)
        while self._on_the_way and self._on_the_way[0][2].query():
            self._keep(*self._on_the_way.popleft()[:2])

    def finish(self) -> None:
        """Wait for all batches that are still being copied, and keep them."""
        for rows, frames, event in self._on_the_way:
            event.synchronize()
            self._keep(rows, frames)
        self._on_the_way.clear()
