"""Where the network looks: a network whose only cue is known lights up there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dali_pipes import Loader, SampleTable
from dali_pipes.batches.view import View
from train.engine.sensitivity import sensitivity
from train.engine.step import Forward

SIZE = 48
ROWS, COLUMNS = PATCH = slice(8, 16), slice(30, 42)  # of the frame


class OnePatch(nn.Module):
    """Predicts the squared brightness of one patch, in all views."""

    def forward(self, image: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        views = len(image) // len(length)
        mu = image[:, :3, ROWS, COLUMNS].square().mean(dim=(1, 2, 3)).unflatten(0, (views, -1)).mean(0)
        return mu + image[:, 3:].sum(dim=(1, 2, 3)).unflatten(0, (views, -1)).mean(0) + length[:, 0], 0 * mu


def test_the_only_cue_of_a_network_lights_up_and_nothing_else(release: Path) -> None:
    table = SampleTable.from_release(release, "validation").select(np.array([5, 0, 2]))
    forward = Forward(OnePatch(), torch.device("cpu"), 4, "fp32")
    for view in (View("tile"), View("both")):
        loader = Loader(table, len(table), size=SIZE, view=view, statistics=table.statistics())
        heat = sensitivity(forward, loader)
        loader.close()
        assert heat.shape == (3, len(view), SIZE, SIZE)
        assert (heat[:, :, ROWS, COLUMNS] > 0).mean() > 0.95, "a pixel of mean brightness has no gradient"
        elsewhere = np.ones((SIZE, SIZE), bool)
        elsewhere[PATCH] = False
        assert heat[:, :, elsewhere].max() == 0
    assert all(parameter.grad is None for parameter in forward.model.parameters())


def test_brighter_pixels_of_a_squared_brightness_matter_more(release: Path) -> None:
    table = SampleTable.from_release(release, "validation").select(np.arange(2))
    loader = Loader(table, len(table), size=SIZE, statistics=table.statistics())
    (batch,) = loader
    forward = Forward(OnePatch(), torch.device("cpu"), 4, "fp32")
    heat = sensitivity(forward, loader)[:, 0]
    loader.close()
    pixels = forward.image(batch.rgb, batch.polyline, batch.padding)[:, :3].norm(dim=1).numpy()
    for of_sample, exact in zip(heat, pixels, strict=True):
        assert np.corrcoef(of_sample[PATCH].ravel(), exact[PATCH].ravel())[0, 1] > 0.9, "the gradient is 2 x"
