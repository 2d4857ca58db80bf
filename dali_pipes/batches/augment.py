"""Augmentation: flips and 90° rotations of images and masks together, brightness and contrast of images alone.

    augmentation = Augmentation(hflip=0.5, vflip=0.5, rot90=0.5, brightness=0.2, contrast=0.2)
    draws = augmentation.draw(seed=0, epoch=3, rows=rows)
    rgb, polyline, padding = reorient((rgb, polyline, padding), draws)
    rgb = jitter(rgb, padding, draws)

The changes are a function of (seed, epoch, sample) alone. Therefore a resumed run, another number of ranks, and a
streamed or cached epoch all show the same images. Random numbers are SplitMix64 (Steele, Lea and Flood, 2014) of a
counter: one vectorised call draws a batch, and no release of a library can change them.

Labels stay valid. The height belongs to the chimney. The normalised length of a polyline is the sum of
hypot(dx / width, dy / height). A flip changes signs only. A 90° rotation swaps both terms, because it swaps width and
height together with x and y, so the length also stays right for tiles that are not square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

GREY = 128.0  # the centre of contrast, as in DALI's brightness_contrast
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed; by default not at all.

    `hflip`, `vflip`, `rot90`: probability of a left-right flip, an up-down flip, and a 90° rotation; 0.5 each makes the
    eight orientations of a square equally likely. `brightness`, `contrast`: the factor is uniform between 1 - x and
    1 + x. Raises ValueError if one is not between 0 and 1.
    """

    hflip: float = 0.0
    vflip: float = 0.0
    rot90: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:  # false for NaN, too
                raise ValueError(f"expected a {name} between 0 and 1, found {value}")

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        return any(vars(self).values())

    @property
    def reorients(self) -> bool:
        """Whether frames may be flipped or rotated."""
        return any((self.hflip, self.vflip, self.rot90))

    def draw(self, seed: int, epoch: int, rows: NDArray[np.int64]) -> Draws:
        """The changes in `epoch` of the samples `rows` (B,) of the table."""
        u = uniform(seed, epoch, rows, 5)
        return Draws(
            hflip=u[:, 0] < self.hflip,
            vflip=u[:, 1] < self.vflip,
            transpose=u[:, 2] < self.rot90,
            brightness=(1 + self.brightness * (2 * u[:, 3] - 1)).astype(np.float32),
            contrast=(1 + self.contrast * (2 * u[:, 4] - 1)).astype(np.float32),
        )


@dataclass(frozen=True)
class Draws:
    """The changes of B samples: `transpose`, then `hflip`, then `vflip`, (B,) bool; two factors, (B,) float32.

    A transposition with one flip is a 90° rotation; with both or none it is a mirror on a diagonal.
    """

    hflip: NDArray[np.bool_]
    vflip: NDArray[np.bool_]
    transpose: NDArray[np.bool_]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]


def reorient(frames: Sequence[Tensor], draws: Draws) -> list[Tensor]:
    """Flip and rotate stacks of B square frames (B, S, S, C) of one dtype → views of the same shapes, on their device.

    The stacks become channels of one stack, whose pixels are gathered once: on a GPU that is four kernels, on a CPU
    a fifth faster than a copy for each orientation.
    """
    import torch

    from .transfer import to_device

    orientation = 4 * draws.transpose + 2 * draws.hflip + draws.vflip
    stack = torch.cat(list(frames), dim=-1)
    count, size = stack.shape[:2]
    sources = _pixel_maps(size, stack.device)[to_device(orientation, stack.device)]  # (B, S²)
    sources += torch.arange(count, device=stack.device)[:, None] * size**2
    pixels = stack.flatten(0, 2).index_select(0, sources.flatten())
    return list(pixels.view(stack.shape).split([part.shape[-1] for part in frames], dim=-1))


@lru_cache(maxsize=4)
def _pixel_maps(size: int, device: torch.device) -> Tensor:
    """Where each pixel of a frame comes from, (8, S²) int64; orientation 4 transposes, + 2 flips x, + 1 flips y."""
    import torch

    position = torch.arange(size**2, device=device).view(size, size)
    maps = []
    for orientation in range(8):
        oriented = position.T if orientation & 4 else position
        maps.append(oriented.flip([axis for axis in (0, 1) if orientation & (axis + 1)]).flatten())
    return torch.stack(maps)


def jitter(rgb: Tensor, padding: Tensor, draws: Draws) -> Tensor:
    """Change brightness and contrast of `rgb` (B, S, S, 3·V) uint8 where `padding` (B, S, S, V) is 0 → the same shape.

    All V views of a sample change alike, and each keeps its own padding. A grey level x becomes
    brightness · (contrast · (x - 128) + 128), rounded and clamped to 0 … 255.
    """
    import torch

    from .transfer import to_device

    if (draws.brightness == 1).all() and (draws.contrast == 1).all():
        return rgb
    scale = draws.brightness * draws.contrast
    shift = draws.brightness * np.float32(GREY) * (1 - draws.contrast)
    scale_, shift_ = to_device(np.stack([scale, shift]), rgb.device)[..., None, None, None]
    # In place, and + 0.5 because the conversion truncates: 520 CPU-µs a sample at 224², instead of 900.
    changed = rgb.float().mul_(scale_).add_(shift_ + 0.5).clamp_(0, 255).to(torch.uint8)
    changed.unflatten(-1, (-1, 3)).masked_fill_(padding.bool()[..., None], 0)  # per view; shares memory
    return changed


def uniform(seed: int, epoch: int, rows: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that depend on (seed, epoch, row, draw) alone → (B, draws) float64."""
    key = np.zeros(1, np.uint64)
    for word in (seed, epoch):
        key = splitmix64(key + np.uint64(word))
    of_row = splitmix64(key + rows.astype(np.uint64))
    words = splitmix64(of_row[:, None] + GOLDEN * np.arange(draws, dtype=np.uint64))
    return (words >> np.uint64(11)) * 2.0**-53


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output of SplitMix64 for each `state`, of any shape."""
    z = state + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
