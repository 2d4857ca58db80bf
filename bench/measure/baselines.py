"""Baselines: loading and the training step of the reference system, and a tuned DataLoader without DALI.

- `ReferenceDataset` works as the reference does: it reads loose files with `imread`, draws the polyline and resizes
  four channels together. Two DataLoader workers convert to float CHW and normalise.
- `TunedDataset` is what an engineer would write without DALI: bytes from the archive, image and mask resized
  separately, uint8 HWC out, persistent workers.
- `ReferenceStep` is the reference's step: eager, fp32, NCHW, and the host waits for each loss.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dali_pipes import SampleTable
from dali_pipes.batches.letterbox import resize_into
from dali_pipes.batches.masks import padding_mask, polyline_mask
from dali_pipes.geometry import letterbox

MEAN = torch.tensor([0.485, 0.456, 0.406, 0.5, 0.5])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225, 0.5, 0.5])[:, None, None]


class ReferenceDataset(Dataset[Any]):
    """Sample → normalised image (5, S, S), length (1,), height (), all float32, computed as in the reference."""

    def __init__(self, table: SampleTable, folder: Path, size: int) -> None:
        self.paths = [str(folder / name) for name in table.tile.tolist()]
        self.polyline = table.polyline
        self.length = torch.from_numpy(table.length).float()
        self.height = torch.from_numpy(table.height).float()
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        bgr = cv2.imread(self.paths[i], cv2.IMREAD_COLOR)
        assert bgr is not None
        image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        h, w = image.shape[:2]
        mask = np.zeros((h, w), np.uint8)
        cv2.polylines(mask, [self.polyline[i].astype(np.int32)], False, 255, max(1, int(0.004 * min(h, w))))
        box = letterbox(h, w, self.size)
        resized = cv2.resize(np.dstack([image, mask]), (box.width, box.height), interpolation=cv2.INTER_LINEAR)
        frame = np.zeros((self.size, self.size, 5), np.uint8)
        frame[:, :, 4] = 255
        inside = frame[box.top : box.top + box.height, box.left : box.left + box.width]
        inside[:, :, :4] = resized
        inside[:, :, 4] = 0
        tensor = torch.from_numpy(frame.transpose(2, 0, 1).copy()).float().div(255)  # torchvision's ToTensor
        return tensor.sub(MEAN).div(STD), self.length[i, None], self.height[i]


class TunedDataset(Dataset[Any]):
    """Sample → RGB (S, S, 3), polyline (S, S, 1), padding (S, S, 1), all uint8, and its row in the table."""

    def __init__(self, table: SampleTable, size: int) -> None:
        self.table = table
        self.size = size

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], int]:
        table, size = self.table, self.size
        bgr = cv2.imdecode(np.asarray(table.images.read(int(table.image[i]))), cv2.IMREAD_COLOR)
        assert bgr is not None
        h, w = bgr.shape[:2]
        box = letterbox(h, w, size)
        small = cv2.resize(bgr, (box.width, box.height), interpolation=cv2.INTER_LINEAR)
        rgb = np.zeros((size, size, 3), np.uint8)
        inside = rgb[box.top : box.top + box.height, box.left : box.left + box.width]
        inside[:] = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
        polyline = np.zeros((size, size), np.uint8)
        resize_into(polyline, polyline_mask(table.polyline[i], h, w), box)
        return rgb, polyline[:, :, None], padding_mask(box, size).copy()[:, :, None], i


class _ForkedLoader(DataLoader[Any]):
    """A DataLoader that may be forked after OpenCV has started threads in this process.

    A forked worker has a copy of OpenCV's pool without its threads, and would wait for them forever. The pool is
    therefore ended before the fork, and a worker has one thread unless `worker_init_fn` asks for more.
    """

    def __iter__(self) -> Any:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        iterator = super().__iter__()
        cv2.setNumThreads(threads)
        return iterator


def data_loader(dataset: Dataset[Any], batch_size: int, *, tuned: bool, workers: int = 2) -> DataLoader[Any]:
    """The reference's DataLoader: two workers, shuffled. `tuned` keeps the workers alive, with one thread each."""
    threads = cv2.getNumThreads()
    return _ForkedLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=tuned,
        persistent_workers=tuned,
        worker_init_fn=None if tuned else lambda _: cv2.setNumThreads(threads),
    )


def decode_alone(
    batch: Callable[[int], list[NDArray[np.uint8]]], batch_size: int, threads: int, device: torch.device
) -> Any:
    """A DALI pipeline that only decodes the JPEGs that `batch` returns for the number of the call."""
    from nvidia.dali import fn, pipeline_def, types  # here, because bench.step works without DALI

    on_gpu = device.type == "cuda"

    @pipeline_def(
        batch_size=batch_size,
        num_threads=threads,
        device_id=(device.index or 0) if on_gpu else None,
        exec_dynamic=True,
    )
    def decoded() -> Any:
        encoded = fn.external_source(batch, batch=True, dtype=types.UINT8, ndim=1)
        return fn.decoders.image(
            encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB, adjust_orientation=False
        )

    return decoded()


class ReferenceStep:
    """The reference's update: normalised images, lengths and heights in float32 → the loss as a Python number."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)

    def __call__(self, image: Tensor, length: Tensor, height: Tensor) -> float:
        """Update once from images (B, 5, S, S), lengths (B, 1) and heights (B,), copied to the device if necessary."""
        loss = self.loss(image, length, height)
        self.backward(loss)
        self.update()
        return loss.item()

    def loss(self, image: Tensor, length: Tensor, height: Tensor) -> Tensor:
        """The mean loss of the batch, 0-dim on the device."""
        image, length, height = (x.to(self.device) for x in (image, length, height))
        mu, log_var = self.model(image, length)
        loss: Tensor = (0.5 * (log_var + (height - mu) ** 2 / log_var.exp())).mean()
        return loss

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of one loss; earlier gradients are deleted."""
        self.optimizer.zero_grad()
        loss.backward()

    def update(self) -> None:
        """Clip the gradients and update the weights."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
