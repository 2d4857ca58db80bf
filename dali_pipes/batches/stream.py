"""Decoded and letterboxed batches, step by step, straight from the images.

    stream = Stream(frames, plan, torch.device("cpu"), threads=4)
    rgb, polyline, sample = stream.batch(step=0)

The pipeline is built at the first batch, and DALI is imported then. The import takes seconds, and code that only uses
`Batch` works without it.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import ModuleType
from typing import Any

import cv2
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

    `device`: where batches are made. A CUDA device decodes and letterboxes there. For any other, DALI decodes on the
    CPU and OpenCV letterboxes, in a thread that is one batch ahead. `threads`: DALI's.
    """

    def __init__(self, frames: Frames, plan: Plan, device: torch.device, threads: int) -> None:
        self.frames, self.plan, self.device, self.threads = frames, plan, device, threads
        self._executor = "gpu" if device.type == "cuda" else "cpu"
        self._pipeline: Any = None
        self._next_step = 0
        self._thread = ThreadPoolExecutor(1)  # starts with the first batch on a CPU
        self._ahead: Future[Letterboxed] | None = None

    @property
    def decoder(self) -> str:
        """What makes the pixels, such as "DALI 2.4.0 gpu": decoders and resizes differ by a few grey levels."""
        letterbox = "" if self._executor == "gpu" else f", OpenCV {cv2.__version__}"
        return f"DALI {_graph().DALI_VERSION} {self._executor}{letterbox}"

    def batch(self, step: int) -> Letterboxed:
        """The batch of `step`. The next step is already prefetched; any other builds a new pipeline.

        Raises InputError, with the names of the images, if one cannot be decoded.
        """
        if step != self._next_step:
            self.close()
        self._next_step = step + 1
        if self._executor == "gpu":
            return self._run(step)
        ready, self._ahead = self._ahead or self._thread.submit(self._run, step), None
        batch = ready.result()
        self._ahead = self._thread.submit(self._run, step + 1)
        return batch

    def close(self) -> None:
        """Free the pipeline's threads and buffers; the next batch builds a new one."""
        if self._ahead and not self._ahead.cancel():
            wait([self._ahead])
        self._ahead = self._pipeline = None

    def _run(self, step: int) -> Letterboxed:
        """Make the batch of `step`, which must follow the last one unless the pipeline is new."""
        if self._pipeline is None:
            self._pipeline = self._build(step)
        # On a GPU the outputs are ordered after the stream that trains, so the host does not wait.
        stream = (torch.cuda.current_stream(self.device).cuda_stream,) if self._executor == "gpu" else ()
        try:
            images, polyline, sample = self._pipeline.run(*stream)
        except Exception as error:
            self._pipeline = None  # DALI's state is undefined after an exception
            if isinstance(error, RuntimeError):
                raise InputError(self._undecodable(step, error)) from error
            raise  # of the callback
        if self._executor == "gpu":
            rgb = from_dlpack(images.as_tensor())
        else:
            decoded = (np.asarray(image) for image in images)  # views
            rgb = torch.from_numpy(self.frames.rgb(self.plan.ids(step), decoded))
        return Letterboxed(rgb, from_dlpack(polyline.as_tensor()), from_dlpack(sample.as_tensor()).flatten())

    def _build(self, step: int) -> Any:
        on_gpu = self._executor == "gpu"
        return _graph().build(
            Source(self.frames, self.plan, first_step=step),
            device=self._executor,
            device_id=(self.device.index or 0) if on_gpu else None,
            threads=self.threads,
            letterbox=on_gpu,
        )

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
            f"expected tiles that decode, found {named} in batch {step}; `chimney inspect DIR` lists all damaged tiles"
        )


def _graph() -> ModuleType:
    """The module that imports DALI. Raises InputError if it cannot be imported."""
    check_dali()
    from . import graph

    return graph
