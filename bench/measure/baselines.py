"""The peers: the reference system's own way of loading, and the best loader that one would write without DALI.

`ReferenceDataset` reads loose files with `imread`, draws the polyline, resizes the four channels together, and
converts and normalises to float CHW in two DataLoader workers, as the reference does.  `TunedDataset` is what an
engineer would write instead: bytes from the archive, image and mask resized apart, uint8 HWC out, persistent workers.
`ReferenceStep` is its step: eager, fp32, NCHW, and the host waits for the loss of each one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dali_pipes import Batch, SampleTable
from dali_pipes.batches.masks import letterbox_mask, padding_mask, polyline_mask
from dali_pipes.geometry import letterbox

MEAN = torch.tensor([0.485, 0.456, 0.406, 0.5, 0.5])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225, 0.5, 0.5])[:, None, None]


def unpack(table: SampleTable, folder: Path) -> None:
    """Write the table's JPEGs into `folder` as loose files, which the reference needs."""
    for image in np.unique(table.image).tolist():
        (folder / table.images.names[image]).write_bytes(table.images.read(image).tobytes())


class ReferenceDataset(Dataset[Any]):
    """Sample → image (5, S, S) normalised, length (1,), height (), all float32, as the reference makes them."""

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
    """Sample → RGB (S, S, 3), polyline (S, S, 1), padding (S, S, 1) uint8 and its row, from the archive's bytes."""

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
        letterbox_mask(polyline_mask(table.polyline[i], h, w), box, out=polyline)
        return rgb, polyline[:, :, None], padding_mask(box, size).copy()[:, :, None], i


def one_thread(_: int) -> None:
    """Two workers share two cores already: OpenCV's own threads would only get in their way."""
    cv2.setNumThreads(1)


def data_loader(dataset: Dataset[Any], batch_size: int, *, tuned: bool, workers: int = 2) -> DataLoader[Any]:
    """The reference's DataLoader: two workers, shuffled; the tuned one keeps its workers and their threads in check."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=tuned,
        persistent_workers=tuned,
        worker_init_fn=one_thread if tuned else None,
    )


class ReferenceStep:
    """Normalised float32 images, lengths and z-normalised heights in, the loss out as a Python number."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)

    def __call__(self, image: Tensor, length: Tensor, height: Tensor) -> float:
        """One update from images (B, 5, S, S), lengths (B, 1) and heights (B,), copied to the device if need be."""
        loss = self.loss(image, length, height)
        self.backward(loss)
        self.update()
        return loss.item()

    def loss(self, image: Tensor, length: Tensor, height: Tensor) -> Tensor:
        """The batch's mean loss, 0-dim on the device."""
        image, length, height = (x.to(self.device) for x in (image, length, height))
        mu, log_var = self.model(image, length)
        loss: Tensor = (0.5 * (log_var + (height - mu) ** 2 / log_var.exp())).mean()
        return loss

    def backward(self, loss: Tensor) -> None:
        """The gradients of one loss, those before it forgotten."""
        self.optimizer.zero_grad()
        loss.backward()

    def update(self) -> None:
        """What follows the backward."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()


def random_batch(count: int, size: int, device: torch.device) -> Batch:
    """A batch of noise."""
    random = torch.Generator().manual_seed(0)

    def pixels(channels: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, size, size, channels), generator=random, dtype=torch.uint8).to(device)

    length, height = torch.randn(count, 1, generator=random), torch.randn(count, generator=random)
    return Batch(
        pixels(3), pixels(1), pixels(1), length.to(device), height.to(device), torch.arange(count, device=device)
    )
