"""The names of tensors in third-party files: without the prefixes of wrappers, and as timm calls them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

STEM = "stem.0.weight"  # the first tensor of a ConvNeXt in timm
WRAPPERS = ("module", "_orig_mod")  # of DistributedDataParallel and torch.compile, at any level
TRANSFORMERS = (
    (r"embeddings\.patch_embeddings", "stem.0"),
    (r"embeddings\.layernorm", "stem.1"),
    (r"encoder\.stages\.(\d+)\.downsampling_layer", r"stages.\1.downsample"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv", r"stages.\1.blocks.\2.conv_dw"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layernorm", r"stages.\1.blocks.\2.norm"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.pwconv([12])", r"stages.\1.blocks.\2.mlp.fc\3"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.grn", r"stages.\1.blocks.\2.mlp.grn"),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter", r"stages.\1.blocks.\2.gamma"),
    (r"layernorm", "head.norm"),
)
ORIGINAL = (  # of the authors of ConvNeXt
    (r"downsample_layers\.0\.([01])", r"stem.\1"),
    (r"downsample_layers\.(\d+)", r"stages.\1.downsample"),
    (r"stages\.(\d+)\.(\d+)\.dwconv", r"stages.\1.blocks.\2.conv_dw"),
    (r"stages\.(\d+)\.(\d+)\.pwconv([12])", r"stages.\1.blocks.\2.mlp.fc\3"),
    (r"stages\.(\d+)\.(\d+)\.grn\.beta", r"stages.\1.blocks.\2.mlp.grn.bias"),
    (r"stages\.(\d+)\.(\d+)\.grn\.gamma", r"stages.\1.blocks.\2.mlp.grn.weight"),
    (r"stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"norm\.", "head.norm."),
)
STYLES = ((STEM, ()), ("embeddings.patch_embeddings.weight", TRANSFORMERS), ("downsample_layers.0.0.weight", ORIGINAL))
"""The first tensor's name in timm, in transformers and in the original code, and how to rename the others."""


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` without the parts of names that DistributedDataParallel and torch.compile add.

    Raises ValueError if two names become the same.
    """
    bare = {".".join(part for part in name.split(".") if part not in WRAPPERS): value for name, value in state.items()}
    if len(bare) < len(state):
        raise ValueError("two of its tensors differ only in the prefix module. or _orig_mod.")
    return bare


def below_prefix(state: Mapping[str, Tensor], anchor: str) -> dict[str, Tensor]:
    """The tensors of `state` whose names begin like that of `anchor`, without the prefix before it.

    `anchor`: the name of a tensor in the wanted network; nothing is returned if `state` does not have it. Raises
    ValueError if it has two.
    """
    named = [name for name in state if name == anchor or name.endswith(f".{anchor}")]
    if len(named) > 1:
        raise ValueError(f"it holds several networks, with {named[0]} and {named[1]}")
    if not named:
        return {}
    prefix = named[0].removesuffix(anchor)
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the ConvNeXt in `state` by timm's names; nothing if there is no ConvNeXt.

    Raises ValueError if there are two.
    """
    bare = without_wrappers(state)
    for anchor, renamings in STYLES:
        if own := below_prefix(bare, anchor):
            return {_renamed(name, renamings): value for name, value in own.items()}
    return {}


def _renamed(name: str, renamings: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in renamings:
        if match := re.match(pattern, name):
            return match.expand(replacement) + name[match.end() :]
    return name
