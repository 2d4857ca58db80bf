"""Read checkpoints in the reference's layout: `{"model": state dict, "stats": tuple}`, and further keys.

A file is untrusted: every byte is checked by its CRC, only tensors and plain values are read (torch_file.py), and each
tensor is checked against the network before any is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError as CheckpointError
from .names import STEM, below_prefix, without_wrappers
from .torch_file import Unreadable, read_torch_file

Stats = tuple[float, float, float, float]
LARGEST = 1e6  # a statistic or a calibration beyond it is damaged: lengths are about 1, heights below 1000 m


def check_exists(path: Path) -> None:
    """Raise CheckpointError if there is no file."""
    if not path.is_file():
        raise CheckpointError(f"expected a checkpoint at {path}, found no such file")


def load(path: Path, statistics: Stats | None = None) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, and check that it is whole and has the layout.

    `statistics`: those of a file that has none, such as a bare state dict. The prefixes of DistributedDataParallel,
    torch.compile and other wrappers are removed from the names of the tensors.

    Raises CheckpointError if the file is missing, damaged or not a checkpoint, has anything but tensors and plain
    values, if its statistics are not four finite numbers with positive deviations, or if it needs no `statistics`.
    """
    check_exists(path)
    try:
        contents = read_torch_file(path)
    except (Unreadable, OSError) as error:
        raise CheckpointError(
            f"expected a checkpoint at {path}, found none that can be read safely: {error}; copy the file again if it"
            " is damaged, otherwise save the network's state dict with torch.save"
        ) from None
    contents = _wrapped(contents, path)
    if "stats" not in contents:
        if statistics is None:
            raise CheckpointError(
                f'expected a checkpoint with "model" and "stats" at {path}, found a state dict without the four'
                " statistics; give them with --statistics, as a JSON file of four numbers or the release that the"
                " network was trained on"
            )
        contents["stats"] = statistics
    elif statistics is not None:
        raise CheckpointError(f"{path} has its own statistics, so --statistics would change nothing; leave it out")
    contents["stats"] = _stats(contents["stats"], path)
    try:
        state = without_wrappers(contents["model"])
        contents["model"] = below_prefix(state, f"backbone.{STEM}") or state
    except ValueError as error:
        raise CheckpointError(f"expected one network in {path}, but {error}") from None
    if len(contents["model"]) < len(state):
        others = next(name for name in state if not any(name.endswith(own) for own in contents["model"]))
        raise CheckpointError(f"{path} has a parameter {others} that the network lacks; was another one trained?")
    return contents


def _wrapped(contents: Any, path: Path) -> dict[str, Any]:
    """`contents`, or the state dict that it is or has, under "model"; raises CheckpointError if there is none."""
    if isinstance(contents, dict):
        for key in ("model", "state_dict", "model_state_dict"):
            if _is_state_dict(contents.get(key)):
                return {**contents, "model": contents[key]}
        if contents and _is_state_dict(contents):
            return {"model": contents}
        if "model" in contents:
            kind = type(contents["model"]).__name__
            raise CheckpointError(
                f"{path}: expected a dict of tensors by their names in the entry model, found a {kind}"
            )
    raise CheckpointError(f'expected a checkpoint with "model" and "stats" at {path}, found another kind of file')


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def check_numbers(values: Mapping[str, Any], path: Path, entry: str) -> None:
    """Raise CheckpointError for a number in the nested `values` that is NaN or is implausibly large.

    Infinity is a legal quantile. `entry`: the key of `values` in the checkpoint at `path`.
    """
    for name, value in values.items():
        where = f"{entry}.{name}"
        if isinstance(value, Mapping):
            check_numbers(value, path, where)
        elif isinstance(value, (int, float)) and (math.isnan(value) or LARGEST < abs(value) < math.inf):
            raise CheckpointError(f"{path}: expected a plausible number in {where}, found {value}; the file is damaged")


def load_into(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load the state dict `state`, read from `path`, into `model`.

    Raises CheckpointError and changes nothing if it does not fit.
    """
    expected = model.state_dict()
    for name, own in expected.items():
        found = state.get(name)
        if not isinstance(found, Tensor):
            raise CheckpointError(f"{path} has no parameter {name}; was another --backbone trained?")
        if found.shape != own.shape:
            raise CheckpointError(
                f"{path}: expected {name} of shape {tuple(own.shape)}, found {tuple(found.shape)};"
                " was another --backbone trained?"
            )
        if found.dtype.is_floating_point != own.dtype.is_floating_point:  # torch would cast silently
            raise CheckpointError(f"{path}: expected {name} as {own.dtype}, found {found.dtype}; it is damaged")
        if not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinite numbers; the training that wrote it diverged")
    unknown = sorted(set(state) - set(expected))
    if unknown:
        raise CheckpointError(f"{path} has a parameter {unknown[0]} that the network lacks; was another one trained?")
    model.load_state_dict(state)


def _stats(stats: Any, path: Path) -> Stats:
    try:
        length_mean, length_std, height_mean, height_std = (float(value) for value in stats)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise CheckpointError(f'{path}: expected four statistics in "stats", found {str(stats)[:80]!r}') from None
    numbers = (length_mean, length_std, height_mean, height_std)
    if not all(abs(number) <= LARGEST for number in numbers) or length_std <= 0 or height_std <= 0:
        raise CheckpointError(f"{path}: expected finite statistics with positive deviations, found {numbers}")
    return numbers
