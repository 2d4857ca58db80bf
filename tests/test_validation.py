"""The contents of last.pt are checked against the network and the optimiser, and the wrong entry is named."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model import CheckpointError
from train.engine.validation import Check

STEPS = 10
CHECK = Check(Path("last.pt"))
SCHEDULE = {"last_epoch": 1, "best": 2.0, "_last_lr": [1e-4], "mode": "min", "mode_worse": math.inf}


def optimizer() -> torch.optim.AdamW:
    """AdamW after one step of two parameters."""
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (4,))]
    chosen = torch.optim.AdamW(parameters, fused=True)
    sum(parameter.sum() for parameter in parameters).backward()  # type: ignore[union-attr]
    chosen.step()
    return chosen


def honest() -> dict[str, Any]:
    """The checked part of a last.pt after one epoch and three steps."""
    counters = {"epoch": 1, "step": 3, "learning_rate": 1e-4, "seconds": 2.0, "waited": 0.5}
    return {
        **counters,
        "history": [{"epoch": 1, "rmse": 3.5}],
        "best_rmse": 3.5,
        "optimizer": copy.deepcopy(optimizer().state_dict()),
        "schedule": dict(SCHEDULE),
        "loss": [torch.zeros(())],
        "random": [[torch.get_rng_state()]],
        "data": {"training": {"samples": 3}},
    }


def check(state: dict[str, Any]) -> None:
    CHECK.fingerprint(state["data"])
    CHECK.progress(state, STEPS)
    CHECK.optimizer(state["optimizer"], optimizer(), stepped=True)
    CHECK.alike(state["schedule"], SCHEDULE, "schedule")
    CHECK.per_rank(state["loss"], state["random"])


def test_an_honest_state_passes() -> None:
    check(honest())
    CHECK.progress({**honest(), "epoch": 0, "history": [], "best_rmse": math.inf}, STEPS)
    fresh = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    CHECK.optimizer(fresh.state_dict(), fresh, stepped=False)


def replaced(*names: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change that puts `value` at the place that `names` lead to."""

    def change(state: Any) -> None:
        for name in names[:-1]:
            state = state[name]
        state[names[-1]] = value

    return change


MOMENTS = ("optimizer", "state", 0)


@pytest.mark.parametrize(
    ("entry", "change"),
    [
        ("epoch", replaced("epoch", value=-1)),
        ("epoch", replaced("epoch", value=1.0)),
        ("epoch", replaced("epoch", value=torch.ones(()))),
        ("step", replaced("step", value=STEPS + 1)),
        ("step", replaced("step", value=10**15)),
        ("learning_rate", replaced("learning_rate", value=math.nan)),
        ("seconds", replaced("seconds", value=math.inf)),
        ("waited", replaced("waited", value=-0.1)),
        ("history", replaced("history", value=[])),
        ("history", replaced("history", value={"epoch": 1})),
        (r"history\[0\]", replaced("history", 0, value=torch.zeros(1))),
        (r"history\[0\]\.rmse", replaced("history", 0, "rmse", value="3")),
        ("best_rmse", replaced("best_rmse", value=1.0)),
        ("optimizer", replaced("optimizer", value=torch.zeros(3))),
        ("optimizer", replaced("optimizer", "param_groups", value=[])),
        (r"optimizer\.state", replaced("optimizer", "state", value={})),
        (r"optimizer\.param_groups\[0\]\.params", replaced("optimizer", "param_groups", 0, "params", value=[0])),
        (r"optimizer\.param_groups\[0\]\.lr", replaced("optimizer", "param_groups", 0, "lr", value=-1.0)),
        (r"optimizer\.param_groups\[0\]\.betas", replaced("optimizer", "param_groups", 0, "betas", value=0.9)),
        (r"optimizer\.state\[0\]", replaced(*MOMENTS, value=torch.zeros(1))),
        (r"optimizer\.state\[0\]\.exp_avg", replaced(*MOMENTS, "exp_avg", value=torch.zeros(3, 2))),
        (r"optimizer\.state\[0\]\.exp_avg", replaced(*MOMENTS, "exp_avg", value=torch.zeros(2, 3).double())),
        (r"optimizer\.state\[0\]\.exp_avg", replaced(*MOMENTS, "exp_avg", value=torch.full((2, 3), math.inf))),
        (r"optimizer\.state\[0\]\.exp_avg_sq", replaced(*MOMENTS, "exp_avg_sq", value=-torch.ones(2, 3))),
        (r"optimizer\.state\[0\]\.step", replaced(*MOMENTS, "step", value=torch.tensor(-1.0))),
        ("schedule", replaced("schedule", "step", value=5)),
        (r"schedule\.last_epoch", replaced("schedule", "last_epoch", value=-3)),
        (r"schedule\._last_lr", replaced("schedule", "_last_lr", value=[1.0, 2.0])),
        (r"schedule\.mode", replaced("schedule", "mode", value=[1])),
        ("loss", replaced("loss", value=[])),
        (r"loss\[0\]", replaced("loss", 0, value=torch.tensor(math.nan))),
        ("random", replaced("random", value=[])),
        (r"random\[0\]\[0\]", replaced("random", 0, 0, value=torch.zeros(3, dtype=torch.uint8))),
        ("data", replaced("data", value={"training": 3})),
    ],
)
def test_a_malformed_entry_is_refused_by_its_name(entry: str, change: Callable[[dict[str, Any]], None]) -> None:
    state = honest()
    change(state)
    with pytest.raises(CheckpointError, match=rf"^last\.pt: expected .* in {entry}, found something else"):
        check(state)
