"""A timm ConvNeXt with five input channels and no classifier, with random or pretrained weights.

timm downloads the weights of ImageNet, extends the stem to five channels, and drops the classifier. This module does
the same with a local file, and refuses one that lacks a tensor of the backbone.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from .errors import BackboneError as BackboneError
from .hub import cached_weights, check_download, refuse_download
from .names import STEM, timm_names
from .torch_file import LARGEST_FILE, read_torch_file

CHANNELS = 5  # RGB, polyline mask, padding mask
IMAGENET = "imagenet"


def check_backbone(name: str, weights: str | Path | None) -> None:
    """Raise BackboneError if timm has no ConvNeXt `name`, or if `weights` is a file that does not exist."""
    if "convnext" not in name or not timm.is_model(name):
        like = (get_close_matches(name, timm.list_models("*convnext*"), 1) or ["convnext_base"])[0]
        raise BackboneError(f"expected a ConvNeXt that timm knows, such as {like}, found {name!r}")
    if weights is not None and weights != IMAGENET and not Path(weights).is_file():
        raise BackboneError(f"no weights at {weights}; put timm's model.safetensors of {name} there")


def with_tag(name: str) -> str:
    """The name of a backbone with the tag of timm's default weights, such as convnext_tiny.in12k_ft_in1k."""
    weights = timm.get_pretrained_cfg(name)
    return weights.hf_hub_id.removeprefix("timm/") if weights and weights.hf_hub_id else name


def create_backbone(name: str, drop_path: float, layer_scale: float | None, weights: str | Path | None) -> Any:
    """A module (B, 5, S, S) float → (B, num_features). Arguments and errors as for `HeightRegressor`."""
    check_backbone(name, weights)
    options: dict[str, Any] = {} if layer_scale is None else {"ls_init_value": layer_scale}
    if weights == IMAGENET:
        tagged = with_tag(name)
        check_download(tagged)
        if cached := cached_weights(tagged):  # timm would ask the hub first, for half a minute without a network
            options["pretrained_cfg_overlay"] = {"file": str(cached)}
    file = None if weights in (None, IMAGENET) else Path(str(weights))
    try:
        backbone = timm.create_model(
            name,
            pretrained=weights == IMAGENET,
            in_chans=CHANNELS,
            num_classes=0,
            drop_path_rate=drop_path,
            **options,
        )
    except Exception as error:  # timm and the hub raise many unrelated types
        detail = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if weights == IMAGENET:
            refuse_download(name, detail)
        raise BackboneError(f"timm cannot build the backbone {name}: {detail}") from error
    if file is not None:
        _load_weights(backbone, name, file)
    return backbone


def _load_weights(backbone: nn.Module, name: str, path: Path) -> None:
    """Load every tensor of `backbone` from `path`, or raise BackboneError and load none.

    The stem is widened to five channels as timm does it.
    """
    try:
        own = timm_names(_read(path))
    except ValueError as error:
        raise BackboneError(f"expected timm weights of {name} in {path}, but {error}") from None
    expected = backbone.state_dict()
    found = {key: _fitted(value, key, expected[key]) for key, value in own.items() if key in expected}
    if not found:
        raise BackboneError(
            f"expected the tensors of timm's {name} in {path}, found none of them: the file is of another network, or"
            " its names are unknown; pass timm's model.safetensors, or --weights none to train from random weights"
        )
    if missing := [key for key in expected if key not in found]:
        raise BackboneError(
            f"expected all {len(expected)} tensors of timm's {name} in {path}, found {len(found)}: {missing[0]} is"
            " missing; was another --backbone trained?"
        )
    for key, value in found.items():
        if value.shape != expected[key].shape:
            raise BackboneError(
                f"expected timm weights of {name} in {path}, found {key} of shape {tuple(value.shape)} instead of"
                f" {tuple(expected[key].shape)}; was another --backbone trained?"
            )
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise BackboneError(f"expected finite numbers in {key} of {path}, found others; download the file again")
    if unknown := sorted(key for key in own if key.startswith(("stem.", "stages.")) and key not in expected):
        raise BackboneError(f"expected timm weights of {name} in {path}, found {unknown[0]}, which {name} lacks")
    backbone.load_state_dict(found)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names. Raises ValueError if it has none."""
    if not path.is_file():
        raise ValueError("it is a pipe, a device or a folder, not a file")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it has more than the {LARGEST_FILE >> 30} GiB allowed")
    if path.suffix == ".safetensors":
        try:
            return dict(safetensors.torch.load_file(path))
        except Exception as error:  # safetensors raises several unrelated types
            raise ValueError(f"it is no safetensors file, or is damaged ({type(error).__name__})") from None
    contents = read_torch_file(path)
    for key in ("state_dict", "model_state_dict", "model_ema", "model"):
        if isinstance(contents, dict) and isinstance(contents.get(key), dict):
            contents = contents[key]
    tensors = {}
    if isinstance(contents, dict):
        tensors = {str(name): value for name, value in contents.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("it holds no tensors by their names")
    return tensors


def _fitted(value: Tensor, name: str, expected: Tensor) -> Tensor:
    """`value`, with more channels in the stem and without the axes of length 1 by which layouts differ."""
    if name == STEM and value.ndim == 4 and value.shape[1] not in (0, expected.shape[1]):
        return adapt_input_conv(CHANNELS, value)
    same = [n for n in value.shape if n != 1] == [n for n in expected.shape if n != 1]
    return value.reshape(expected.shape) if same else value
