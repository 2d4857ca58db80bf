"""Read checkpoints in the reference's layout: `{"model": state dict, "stats": tuple}`, and further keys.

A file is untrusted: only tensors and plain values are read, and each tensor is checked against the network before any
is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError as CheckpointError

Stats = tuple[float, float, float, float]


def check_exists(path: Path) -> None:
    """Raise CheckpointError if there is no file."""
    if not path.is_file():
        raise CheckpointError(f"expected a checkpoint at {path}, found no such file")


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU and check its layout.

    Raises CheckpointError if it is missing, is no checkpoint, has anything but tensors and plain values, or if its
    statistics are not four finite numbers with positive deviations.
    """
    check_exists(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a hostile pickle can raise anything, and torch's message would advise to trust it
        raise CheckpointError(
            f"expected a checkpoint at {path}, found none that can be read safely: it is another kind of file, damaged,"
            " or holds more than tensors and plain values"
        ) from None
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict) or "stats" not in contents:
        raise CheckpointError(f'expected a checkpoint with "model" and "stats" at {path}, found another kind of file')
    contents["stats"] = _stats(contents["stats"], path)
    return contents


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
        # With zero strides a file of one kilobyte can claim 2³³ elements.
        if found.untyped_storage().nbytes() < found.numel() * found.element_size():
            raise CheckpointError(f"{path}: {name} has fewer bytes than its shape needs; the file is damaged")
        if not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinite numbers; the training that wrote it diverged")
    unknown = sorted(set(state) - set(expected))
    if unknown:
        raise CheckpointError(f"{path} has a parameter {unknown[0]} that the network lacks; was another one trained?")
    model.load_state_dict(state)


def _stats(stats: Any, path: Path) -> Stats:
    try:
        length_mean, length_std, height_mean, height_std = (float(value) for value in stats)
    except (TypeError, ValueError):
        raise CheckpointError(f"{path}: expected four statistics, found {str(stats)[:80]!r}") from None
    numbers = torch.tensor([length_mean, length_std, height_mean, height_std])
    if not bool(torch.isfinite(numbers).all()) or length_std <= 0 or height_std <= 0:
        raise CheckpointError(f"{path}: expected finite statistics with positive deviations, found {stats}")
    return length_mean, length_std, height_mean, height_std
