"""Read a number from the device without waiting for the work that is queued there."""

from __future__ import annotations

import torch
from torch import Tensor


class Readout:
    """Returns a number one call late on a GPU: by then its copy to pinned memory is done. On a CPU, at once."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def next(self, value: Tensor) -> Tensor | None:
        """Start reading `value`, 0-dim; returns that of the last call on the host, or None if there was none."""
        if not value.is_cuda:
            return value
        earlier = self._pending
        copy = torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(value.device))
        self._pending = (copy, event)
        if earlier is None:
            return None
        earlier[1].synchronize()
        return earlier[0]
