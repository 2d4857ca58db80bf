"""Recognise the ConvNeXt of a state dict by the names and shapes of its tensors.

Each ConvNeXt in timm has a different set of shapes. A checkpoint that does not name its backbone, such as those of
the reference, therefore needs no flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import timm
import torch

from .backbone import BackboneError, create_backbone

LIKELIEST = "convnext_base"  # the reference's, tried first: building all of them takes seconds
Shapes = dict[str, tuple[int, ...]]


def backbone_of(state: Mapping[str, object]) -> str:
    """timm's name of the backbone in `state`, from its tensors under "backbone.".

    Raises BackboneError, which names the first tensor that differs from the nearest ConvNeXt.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    shapes: Shapes = {
        name.removeprefix("backbone."): tuple(value.shape)
        for name, value in tensors.items()
        if name.startswith("backbone.")
    }
    if not shapes:
        raise BackboneError("expected a network with the tensors of a ConvNeXt under backbone., found none")
    names = [LIKELIEST, *(name for name in timm.list_models("*convnext*") if name != LIKELIEST)]
    distance = {}
    for name in names:
        expected = _shapes(name)
        if expected == shapes:
            return name
        distance[name] = len(set(expected.items()) ^ set(shapes.items()))
    nearest = min(names, key=lambda name: distance[name])
    expected = _shapes(nearest)
    differing = next(name for name in (*expected, *shapes) if expected.get(name) != shapes.get(name))
    raise BackboneError(
        f"expected the tensors of a timm ConvNeXt with five input channels; the nearest, {nearest}, differs in"
        f" backbone.{differing}: expected {expected.get(differing, 'none')}, found {shapes.get(differing, 'none')}"
    )


@lru_cache(maxsize=64)
def _shapes(name: str) -> Shapes:
    with torch.device("meta"):  # no memory, no random numbers
        backbone = create_backbone(name, 0.0, None, None)
    return {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
