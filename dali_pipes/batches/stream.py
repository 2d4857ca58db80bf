"""Decoded and letterboxed batches, step by step, straight from the images.

    stream = Stream(frames, plan, torch.device("cpu"), threads=4)
    rgb, polyline, sample = stream.batch(step=0)

The pipeline is built at the first batch, and DALI is imported then. The import takes seconds, and code that only uses
`Batch` works without it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.utils.dlpack import from_dlpack

from ..errors import InputError
from ..samples.picture import OTHERS
from ..samples.via import Reason
from .batch import Letterboxed
from .plan import Plan
from .source import Source
from .view import Frames
from .wheel import check_dali


class Stream:
    """The batches of `plan`, made from `frames` by DALI; torch shares its memory.

    `device`: where batches are made; a CUDA device decodes and resizes there, any other on the CPU. `threads`: DALI's.
    """

    def __init__(self, frames: Frames, plan: Plan, device: torch.device, threads: int) -> None:
        self.frames, self.plan, self.device, self.threads = frames, plan, device, threads
        self._executor = "gpu" if device.type == "cuda" else "cpu"
        self._pipeline: Any = None
        self._next_step = 0

    @property
    def decoder(self) -> str:
        """What makes the pixels, such as "DALI 2.4.0 cpu": decoders differ by a few grey levels."""
        return f"DALI {_graph().DALI_VERSION} {self._executor}"

    def batch(self, step: int) -> Letterboxed:
        """The batch of `step`. The next step is already prefetched; any other builds a new pipeline.

        Raises InputError, with the names of the images, if one cannot be decoded.
        """
        if self._pipeline is None or step != self._next_step:
            self.close()
            self._pipeline = _graph().build(
                Source(self.frames, self.plan, first_step=step),
                device=self._executor,
                device_id=(self.device.index or 0) if self._executor == "gpu" else None,
                threads=self.threads,
            )
        self._next_step = step + 1
        # On a GPU the outputs are ordered after the stream that trains, so the host does not wait.
        stream = (torch.cuda.current_stream(self.device).cuda_stream,) if self._executor == "gpu" else ()
        try:
            outputs = self._pipeline.run(*stream)
        except RuntimeError as error:
            self.close()  # DALI's state is undefined after an exception
            raise InputError(self._undecodable(step, error)) from error
        rgb, polyline, sample = (from_dlpack(output.as_tensor()) for output in outputs)
        return Letterboxed(rgb, polyline, sample.flatten())

    def close(self) -> None:
        """Free the pipeline's threads and buffers; the next batch builds a new one."""
        self._pipeline = None

    def _undecodable(self, step: int, error: RuntimeError) -> str:
        """The error sentence. DALI does not name the image, so the decoder of the index looks for it."""
        from ..samples.index import check_by_decoding

        table = self.frames.table
        images = np.unique(table.image[self.plan.ids(step)]).tolist()
        checked = check_by_decoding(table.images, images, title="", console=Console(quiet=True), threads=self.threads)
        bad = [
            f"{table.images.names[image]} ({reason.value})"
            for image, reason in zip(images, checked, strict=True)
            if isinstance(reason, Reason) and reason not in OTHERS
        ]
        named = ", ".join(bad) or f"an error that only DALI reports ({str(error).strip().splitlines()[-1]})"
        return (
            f"expected tiles that decode, found {named} in batch {step};"
            " `python -m dali_pipes DIR` lists all damaged tiles"
        )


def _graph() -> ModuleType:
    """The module that imports DALI. Raises InputError if it cannot be imported."""
    check_dali()
    from . import graph

    return graph
