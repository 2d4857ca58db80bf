"""The moving average of the weights, which is what best.pt stores."""

from __future__ import annotations

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn


class MovingAverage(ModelEmaV3):
    """timm's exponential moving average of the weights of `model`; `module` is a copy of `model` that holds it.

    timm builds both `state_dict()`s at every step. Their tensors never change, so they are listed once here.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay, use_warmup=True)
        self._averages = list(self.module.state_dict().values())
        self._weights = list(model.state_dict().values())

    @torch.no_grad()
    def update_after(self, step: int) -> None:
        """Move the average towards the weights; `step` is the number of completed steps, since the decay warms up."""
        torch._foreach_lerp_(self._averages, self._weights, weight=1 - self.get_decay(step))

    @torch.no_grad()
    def move(self, decay: Tensor) -> None:
        """The same with a decay on the device, 0-dim, for a CUDA graph."""
        torch._foreach_mul_(self._averages, decay)
        torch._foreach_add_(self._averages, torch._foreach_mul(self._weights, 1 - decay))
