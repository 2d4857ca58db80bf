"""Where the network looks: how much each pixel of a tile changes the prediction.

    maps = sensitivity(forward, loader)    # (N, V, S, S), for a heat map over each frame

The gradient of the prediction by the pixels is averaged over noisy copies of the frame, because a single gradient is
noisy: SmoothGrad, Smilkov et al. 2017, arXiv:1706.03825. Only the RGB pixels count; the polyline and its length are
given to the network and are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from dali_pipes import Batch, Loader

from .step import Forward

COPIES = 4  # the cells of the heat map average as well
NOISE = 0.2  # standard deviation of the noise, in standard deviations of ImageNet's pixels


def sensitivity(
    forward: Forward, loader: Loader, watch: Callable[[Iterable[int]], Iterable[int]] = iter
) -> NDArray[np.float32]:
    """|∂ prediction / ∂ pixel| of all samples of `loader`, (N, V, S, S) float32 in the order of its table.

    One frame is computed at a time, so that the memory of a training step is enough. `watch` wraps the iteration over
    the samples of a batch, for example to show progress.
    """
    forward.model.eval()
    maps = {}
    # Another graph, for this batch size, would take a minute to compile. Importing the compiler takes seconds, too.
    with nullcontext() if forward.compilation == "off" else torch.compiler.set_stance("force_eager"):
        for batch in loader:
            rows = batch.sample.tolist()
            for i in watch(range(len(rows))):
                maps[rows[i]] = _of_one(forward, batch, i)
    return np.stack([maps[row] for row in sorted(maps)])


def _of_one(forward: Forward, batch: Batch, i: int) -> NDArray[np.float32]:
    one = slice(i, i + 1)
    frames = forward.image(batch.rgb[one], batch.polyline[one], batch.padding[one])  # (V, 5, S, S)
    views, size = batch.polyline.shape[-1], batch.polyline.shape[1]
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(views, size, size, device=frames.device)
    for _ in range(COPIES):
        noise = NOISE * torch.randn(views, 3, size, size, generator=generator).to(frames.device)
        pixels = (frames[:, :3] + noise).requires_grad_()
        mu, _log_var = forward.model(torch.cat([pixels, frames[:, 3:]], dim=1), batch.length[one])
        (gradient,) = torch.autograd.grad(mu.sum(), pixels)
        total += gradient.norm(dim=1)
    return (total / COPIES).cpu().numpy()
