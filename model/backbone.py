"""A timm ConvNeXt with five input channels and no classifier, with random or pretrained weights.

timm loads the weights: it downloads them or reads a local file, extends the stem to five channels, and drops the
classifier.  This module turns its errors into a sentence that says what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm

from .errors import BackboneError as BackboneError

CHANNELS = 5  # RGB, polyline mask, padding mask
IMAGENET = "imagenet"


def check_backbone(name: str, weights: str | Path | None) -> None:
    """Raise BackboneError if timm has no ConvNeXt `name`, or if `weights` is a file that does not exist."""
    if not name.startswith("convnext") or not timm.is_model(name):
        raise BackboneError(f"expected a ConvNeXt that timm knows, such as convnext_base, found {name!r}")
    if weights is not None and weights != IMAGENET and not Path(weights).is_file():
        raise BackboneError(f"no weights at {weights}; put timm's model.safetensors of {name} there")


def create_backbone(name: str, drop_path: float, layer_scale: float | None, weights: str | Path | None) -> Any:
    """A module (B, 5, S, S) float → (B, num_features).  Arguments and errors as of `HeightRegressor`."""
    check_backbone(name, weights)
    options: dict[str, Any] = {} if layer_scale is None else {"ls_init_value": layer_scale}
    if weights is not None and weights != IMAGENET:
        options["pretrained_cfg_overlay"] = {"file": str(weights)}
    try:
        return timm.create_model(
            name, pretrained=weights is not None, in_chans=CHANNELS, num_classes=0, drop_path_rate=drop_path, **options
        )
    except Exception as error:  # timm and the hub raise many unrelated types
        raise BackboneError(_why_not(name, weights, error)) from error


def _why_not(backbone: str, weights: str | Path | None, error: Exception) -> str:
    detail = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if weights is None:
        return f"timm cannot build the backbone {backbone}: {detail}"
    if weights == IMAGENET:
        return (
            f"the ImageNet weights of {backbone} could not be downloaded from the Hugging Face hub ({detail});"
            f" download timm's model.safetensors of {backbone} elsewhere and pass --weights FILE, or train from random"
            " weights with --weights none"
        )
    return f"expected timm weights of {backbone} in {weights}, found something else ({detail})"
