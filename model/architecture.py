"""Which ConvNeXt a state dict is of, told by the names and shapes of its tensors alone.

Every ConvNeXt that timm knows, from zepto to xxlarge, of version 1 and 2 (with GRN), with an overlapping stem, RMS
norms or a convolutional MLP, has shapes of its own.  Hence a checkpoint that does not name its backbone, as the
reference's do not, needs no flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import timm
import torch

from .backbone import BackboneError, create_backbone

LIKELIEST = "convnext_base"  # the reference's, asked first: to build them all takes seconds
Shapes = dict[str, tuple[int, ...]]


def backbone_of(state: Mapping[str, object]) -> str:
    """timm's name of the backbone whose tensors, under "backbone.", are in `state`.

    Raises BackboneError that names the first tensor in which the nearest ConvNeXt differs.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    found: Shapes = {
        name.removeprefix("backbone."): tuple(value.shape)
        for name, value in tensors.items()
        if name.startswith("backbone.")
    }
    if not found:
        raise BackboneError("expected a network with the tensors of a ConvNeXt under backbone., found none")
    names = [LIKELIEST, *(name for name in timm.list_models("convnext*") if name != LIKELIEST)]
    distance = {}
    for name in names:
        expected = _shapes(name)
        if expected == found:
            return name
        distance[name] = len(set(expected.items()) ^ set(found.items()))
    nearest = min(names, key=lambda name: distance[name])
    expected = _shapes(nearest)
    differing = next(name for name in (*expected, *found) if expected.get(name) != found.get(name))
    raise BackboneError(
        f"expected the tensors of a timm ConvNeXt with five input channels; the nearest, {nearest}, differs in"
        f" backbone.{differing}: expected {expected.get(differing, 'none')}, found {found.get(differing, 'none')}"
    )


@lru_cache(maxsize=64)
def _shapes(name: str) -> Shapes:
    with torch.device("meta"):  # no memory, no random numbers
        backbone = create_backbone(name, 0.0, None, None)
    return {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
