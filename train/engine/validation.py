"""Checks the contents of last.pt against the network and the optimiser before any of them is changed.

torch trusts them: Adam moments of another shape end the process with a segmentation fault, and an optimiser without
state silently starts from zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import CheckpointError

LARGEST = 1e12  # for seconds, steps and errors


class Check:
    """Checks parts of the last.pt at `path`; each method raises CheckpointError, which names the entry."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _expect(self, holds: bool, entry: str, expected: str) -> None:
        if not holds:
            raise CheckpointError(
                f"{self._path}: expected {expected} in {entry}, found something else; the file is damaged or of another"
                " program: copy a kept epoch-….pt to last.pt, or choose another --out"
            )

    def number(self, value: Any, entry: str, *, whole: bool = False, infinite: bool = False) -> None:
        """A number of at least 0; `infinite`: or infinity."""
        kind = int if whole else (int, float)
        plausible = isinstance(value, kind) and (0 <= value <= LARGEST or (infinite and value == math.inf))
        self._expect(plausible, entry, "a whole number from 0" if whole else "a number from 0")

    def tensor(self, value: Any, entry: str, like: Tensor) -> None:
        """A tensor with the shape and kind of `like`, and finite numbers."""
        fits = isinstance(value, Tensor) and value.shape == like.shape and value.dtype == like.dtype
        self._expect(fits, entry, f"{like.dtype} numbers of shape {tuple(like.shape)}")
        self._expect(bool(torch.isfinite(value).all()), entry, "finite numbers")

    def progress(self, state: Mapping[str, Any], steps: int) -> None:
        """The counters and the history; `steps`: those of an epoch."""
        for name in ("epoch", "step"):
            self.number(state[name], name, whole=True)
        for name in ("learning_rate", "seconds", "waited"):
            self.number(state[name], name)
        self._expect(state["step"] <= steps, "step", f"a step of at most {steps}")
        history = state["history"]
        fits = isinstance(history, (list, tuple)) and len(history) == state["epoch"]
        self._expect(fits, "history", f"the records of {state['epoch']} epochs")
        for i, record in enumerate(history):
            self._expect(isinstance(record, dict) and "rmse" in record, f"history[{i}]", "a record with an rmse")
            self.number(record["rmse"], f"history[{i}].rmse")
        best = min((record["rmse"] for record in history), default=math.inf)
        self._expect(state["best_rmse"] == best, "best_rmse", f"the lowest RMSE of the history, {best}")

    def optimizer(self, state: Any, live: torch.optim.Optimizer, *, stepped: bool) -> None:
        """The groups and moments of AdamW; `stepped`: whether a step was taken, so that each parameter has moments."""
        groups = live.state_dict()["param_groups"]
        fits = isinstance(state, dict) and isinstance(state.get("state"), dict)
        fits = fits and isinstance(state.get("param_groups"), list) and len(state["param_groups"]) == len(groups)
        self._expect(fits, "optimizer", "the state of AdamW")
        for i, (found, own) in enumerate(zip(state["param_groups"], groups, strict=True)):
            entry = f"optimizer.param_groups[{i}]"
            self._expect(isinstance(found, dict) and {"params", "lr"} <= set(found), entry, "a group of parameters")
            self._expect(found["params"] == own["params"], f"{entry}.params", f"{len(own['params'])} parameters")
            self.alike({name: value for name, value in found.items() if name in own}, own, entry)
        parameters = [parameter for group in live.param_groups for parameter in group["params"]]
        wanted = set(range(len(parameters))) if stepped else set()
        self._expect(set(state["state"]) == wanted, "optimizer.state", f"moments of {len(wanted)} parameters")
        for i in wanted:
            moments, entry = state["state"][i], f"optimizer.state[{i}]"
            self._expect(
                isinstance(moments, dict) and set(moments) == {"step", "exp_avg", "exp_avg_sq"}, entry, "Adam moments"
            )
            for name in ("exp_avg", "exp_avg_sq"):
                self.tensor(moments[name], f"{entry}.{name}", parameters[i].detach())
            self._expect(bool((moments["exp_avg_sq"] >= 0).all()), f"{entry}.exp_avg_sq", "numbers from 0")
            step = moments["step"]
            self.tensor(step, f"{entry}.step", torch.zeros(()))
            self.number(float(step), f"{entry}.step")

    def alike(self, found: Any, live: Any, entry: str) -> None:
        """Plain values of the same types as `live`, with no other names and with plausible numbers."""
        if isinstance(live, Mapping):
            self._expect(isinstance(found, dict) and set(found) <= set(live), entry, "the names that this run has")
            for name, value in found.items():
                self.alike(value, live[name], f"{entry}.{name}")
        elif isinstance(live, (list, tuple)):
            fits = isinstance(found, (list, tuple)) and len(found) == len(live)
            self._expect(fits, entry, f"{len(live)} values")
            for i, (value, own) in enumerate(zip(found, live, strict=True)):
                self.alike(value, own, f"{entry}[{i}]")
        elif isinstance(live, (bool, str)) or live is None:
            self._expect(found is None or isinstance(found, (bool, type(live))), entry, f"a value like {live!r}")
        else:
            self.number(found, entry, infinite=True)

    def per_rank(self, losses: Any, random_states: Any) -> None:
        """The loss and the random state of each rank."""
        fits = isinstance(losses, list) and len(losses) > 0
        self._expect(fits, "loss", "a loss for each rank")
        for i, loss in enumerate(losses):
            self.tensor(loss, f"loss[{i}]", torch.zeros(()))
        own = torch.get_rng_state()
        fits = isinstance(random_states, list) and len(random_states) == len(losses)
        self._expect(fits, "random", "the random states of each rank")
        for i, states in enumerate(random_states):
            self._expect(isinstance(states, Sequence) and 1 <= len(states) <= 2, f"random[{i}]", "one or two states")
            self.tensor(states[0], f"random[{i}][0]", own)
            for state in states[1:]:
                fits = isinstance(state, Tensor) and state.dtype == torch.uint8 and state.ndim == 1
                self._expect(fits, f"random[{i}][1]", "a random state of a GPU")

    def fingerprint(self, value: Any) -> None:
        """The fingerprint of the samples, a dict of dicts."""
        fits = isinstance(value, dict) and all(isinstance(table, dict) for table in value.values())
        self._expect(fits, "data", "the fingerprint of the samples")
