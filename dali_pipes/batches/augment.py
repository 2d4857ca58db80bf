"""Augmentation: flips and quarter turns of image and masks together, brightness and contrast of the image alone.

    augment = Augmentation(hflip=0.5, vflip=0.5, rot90=0.5, brightness=0.2, contrast=0.2)
    draws = augment.draw(seed=0, epoch=3, rows=rows)
    rgb, polyline, padding = turn((rgb, polyline, padding), draws)
    rgb = shade(rgb, padding, draws)

What happens to a sample is a function of (seed, epoch, sample) and of nothing else: a resumed run, a run on another
number of ranks, a streamed and a cached epoch show the same pictures.  Draws are SplitMix64 (Steele, Lea and Flood,
2014) of a counter, so that all of a batch are made at once and no library's release can change them.

No label changes.  The height is the chimney's.  The normalised length of a polyline is the sum of
hypot(dx / width, dy / height): a flip changes signs, and a quarter turn swaps both terms, because it swaps the
image's width and height with x and y.  So it stays right for tiles that are not square, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .transfer import to_device

GREY = 128.0  # the centre of contrast, as in DALI's brightness_contrast
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are changed; the defaults change nothing.

    `hflip`, `vflip`, `rot90`: probabilities of mirroring left and right, up and down, and of a quarter turn; .5
    each makes the eight positions of a square equally likely.  `brightness`, `contrast`: a factor is drawn
    uniformly from 1 - x to 1 + x.  Raises ValueError where one is outside of 0 to 1.
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

    def draw(self, seed: int, epoch: int, rows: NDArray[np.int64]) -> Draws:
        """What happens in `epoch` to the samples `rows` (B,) of the table."""
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
    """For each of B samples: `transpose`, then `hflip`, then `vflip`, (B,) bool; two factors, (B,) float32.

    A transposition with one flip is a quarter turn; with both, or with none, a mirror on a diagonal.
    """

    hflip: NDArray[np.bool_]
    vflip: NDArray[np.bool_]
    transpose: NDArray[np.bool_]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]


def turn(frames: Sequence[Tensor], draws: Draws) -> list[Tensor]:
    """Flip and turn stacks of B square frames (B, S, S, C) of any dtype → the same shapes, on their device.

    Views of a sample are channels, so that they turn together.
    The eight positions are gone through one by one.  The host knows which samples take which and sorts them, so that
    one copy tells the device all of it, and nothing waits.
    """
    position = 4 * draws.transpose + 2 * draws.hflip + draws.vflip
    if not position.any():
        return list(frames)
    turned = [torch.empty_like(stack) for stack in frames]
    counts = np.bincount(position, minlength=len(POSITIONS)).tolist()
    order = to_device(np.argsort(position, kind="stable"), frames[0].device)
    for transform, which in zip(POSITIONS, order.split(counts), strict=True):
        if len(which):
            for stack, into in zip(frames, turned, strict=True):
                into.index_copy_(0, which, transform(stack.index_select(0, which)))
    return turned


POSITIONS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x,
    lambda x: x.flip(1),
    lambda x: x.flip(2),
    lambda x: x.flip(1, 2),
    lambda x: x.transpose(1, 2),
    lambda x: x.transpose(1, 2).flip(1),
    lambda x: x.transpose(1, 2).flip(2),
    lambda x: x.transpose(1, 2).flip(1, 2),
]
"""What is done to (B, S, S, C), by 4 · transpose + 2 · hflip + vflip; the transposition comes first."""


def shade(rgb: Tensor, padding: Tensor, draws: Draws) -> Tensor:
    """Change brightness and contrast of `rgb` (B, S, S, 3·V) uint8 where `padding` (B, S, S, V) is 0 → the same shape.

    All V views of a sample are shaded alike, and each keeps its own padding.
    A grey level x becomes brightness · (contrast · (x - 128) + 128), rounded and clamped to 0 … 255.
    """
    if (draws.brightness == 1).all() and (draws.contrast == 1).all():
        return rgb
    scale = draws.brightness * draws.contrast
    shift = draws.brightness * np.float32(GREY) * (1 - draws.contrast)
    scale_, shift_ = to_device(np.stack([scale, shift]), rgb.device)[..., None, None, None]
    # In place, and rounded by the conversion, which cuts: 520 CPU-µs a sample at 224² where new floats took 900.
    shaded = rgb.float().mul_(scale_).add_(shift_ + 0.5).clamp_(0, 255).to(torch.uint8)
    shaded.unflatten(-1, (-1, 3)).masked_fill_(padding.bool()[..., None], 0)  # a view's three channels, of one memory
    return shaded


def uniform(seed: int, epoch: int, rows: NDArray[np.int64], draws: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that depend on (seed, epoch, row, draw) alone → (B, draws) float64."""
    key = np.zeros(1, np.uint64)
    for word in (seed, epoch):
        key = splitmix64(key + np.uint64(word))
    of_row = splitmix64(key + rows.astype(np.uint64))
    words = splitmix64(of_row[:, None] + GOLDEN * np.arange(draws, dtype=np.uint64))
    return (words >> np.uint64(11)) * 2.0**-53


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output of SplitMix64 in each `state`, of any shape, modulo 2⁶⁴."""
    z = state + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
