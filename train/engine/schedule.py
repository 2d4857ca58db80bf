"""The learning rate schedule: the reference's plateau, or a warm-up and a cosine."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer as TorchOptimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from ..recipe.config import Config


def cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the peak learning rate at `step` of `steps`: linear over `warmup` steps, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


class Schedule:
    """Sets the learning rate of `optimizer`; call `after_step` after each step and `after_epoch` after each epoch."""

    def __init__(self, config: Config, optimizer: TorchOptimizer, steps_per_epoch: int) -> None:
        self._optimizer, self._epochs = optimizer, config.epochs
        self._plateau: ReduceLROnPlateau | None = None
        self._cosine: LambdaLR | None = None
        recipe = config.optimizer
        if recipe.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(optimizer, factor=recipe.plateau_factor, patience=recipe.plateau_patience)
        else:
            steps = config.epochs * steps_per_epoch
            warmup = round(recipe.warmup * steps)
            self._factor = lambda step: cosine(step, steps, warmup)
            self._cosine = LambdaLR(optimizer, self._factor)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Advance the cosine by one step."""
        if self._cosine:
            self._cosine.step()

    def after_epoch(self, rmse: float) -> None:
        """Report the RMSE (m) of the epoch to the plateau schedule."""
        if self._plateau:
            self._plateau.step(rmse)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        state: dict[str, Any] = (self._plateau or self._cosine).state_dict()  # type: ignore[union-attr]
        return {key: value for key, value in state.items() if key != "lr_lambdas"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`, after the optimizer's; with more epochs than before a cosine has another rate."""
        if self._plateau:
            self._plateau.load_state_dict(state)
        elif self._cosine:
            self._cosine.load_state_dict({**state, "lr_lambdas": [None]})
            group, peak = self._optimizer.param_groups[0], self._cosine.base_lrs[0]
            group["lr"] = peak * self._factor(self._cosine.last_epoch)

    def goes_on(self) -> str:
        """How the learning rate continues in a run that got more epochs, as the end of a sentence."""
        if self._plateau:
            return f"the plateau schedule goes on at {self.learning_rate:.1e}"
        return (
            f"the learning rate goes on where a cosine over {self._epochs} epochs is now, at {self.learning_rate:.1e}"
        )
