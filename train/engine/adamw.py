"""AdamW with less work for the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class AdamW(torch.optim.AdamW):
    """torch's fused AdamW to the bit, for one group of parameters of one device and dtype.

    torch looks up the state of every parameter at every step, and sorts all tensors by device and dtype. These tensors
    stay the same between two calls of `load_state_dict`, so they are listed once here. Steps in which a parameter has
    no gradient, and those of a loss scaler, are left to torch.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings, fused=True)
        (self._group,) = self.param_groups
        self._moments: list[list[Tensor]] = []

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch."""
        super().load_state_dict(state_dict)
        (self._group,) = self.param_groups
        self._moments = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; `closure` as in torch."""
        group = self._group
        gradients = [parameter.grad for parameter in group["params"]]
        if closure or getattr(self, "found_inf", None) is not None or any(grad is None for grad in gradients):
            return super().step(closure)
        if not self._moments:
            super().step()  # which creates the state
            states = [self.state[parameter] for parameter in group["params"]]
            self._moments = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")]
            return None
        averages, squares, steps = self._moments
        beta1, beta2 = group["betas"]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            group["params"],
            gradients,
            averages,
            squares,
            [],
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
        return None
