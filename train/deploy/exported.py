"""The function that is exported: uint8 tiles and the length of a polyline in, calibrated metres out.

It includes every step that a user could get wrong: normalisation, statistics, decoding to metres and calibration. It
cannot include how a tile becomes its input; `contract` describes that in plain values, which are stored in the file.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from dali_pipes import Loader, SampleTable
from dali_pipes.batches.view import View, ViewKind
from dali_pipes.geometry import MARGIN
from model import HeightRegressor
from model.calibration import Calibration

from ..engine.step import MEAN, STD, five_channels
from ..engine.trained import Trained
from .cutting import as_text

OUTPUTS = ("mu", "sigma")
VIEWS_IN_WORDS: dict[ViewKind, str] = {
    "tile": "the tile",
    "crop": "a window of the tile around the polyline",
    "aligned": "a window of the tile, turned so that the polyline points up",
    "both": "the tile and a window of it around the polyline",
    "tile+aligned": "the tile, letterboxed, and a window of it that is turned so that the polyline points up",
}
WINDOW = (
    "side = max({crop}, ceil({margin:g} * longer side of the polyline's bounding box)) in pixels of the tile;"
    " height = min(side, tile height), width = min(side, tile width); top = floor((lowest y + highest y - height) / 2)"
    " clamped to 0 ... tile height - height; left in the same way from x and width; cut from the tile and from the mask"
    " that was drawn at the tile's size, then letterboxed as an image of that size"
)


class HeightFunction(nn.Module):
    """`trained` as one function of tensors, in fp32."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model: HeightRegressor = trained.model.float().eval().requires_grad_(False)
        self.stats = trained.statistics
        self.target = trained.target
        self.calibration = trained.calibration or Calibration()
        self.register_buffer("scale", torch.tensor([1 / (255 * std) for std in STD])[:, None, None])
        shift = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]
        self.register_buffer("shift", torch.tensor(shift)[:, None, None])

    def forward(
        self, rgb: Tensor, polyline: Tensor, padding: Tensor, length: Tensor, sides: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, S, S, 3·V), (B, S, S, V), (B, S, S, V) uint8, (B, 1) float32 → calibrated height and σ, (B,) metres.

        `length` is the polyline's length in (x / width, y / height) of the tile. `sides` (B, 1) is its length in units
        of the tile's longer side; only the target log_scale uses it.
        """
        image = five_channels(rgb, polyline, padding).float() * self.get_buffer("scale") + self.get_buffer("shift")
        scaled = (length - self.stats.length_mean) / self.stats.length_std
        mu, log_var = self.model(image, scaled)
        side = None if sides is None else sides[:, 0]
        return self.calibration.apply(*self.target.decode_arrays(mu, log_var, side, library=torch))


def input_names(trained: Trained) -> tuple[str, ...]:
    """The names of the inputs of the exported function, in order."""
    return ("rgb", "polyline", "padding", "length", *(("sides",) if trained.target.kind == "log_scale" else ()))


def real_tiles(trained: Trained, table: SampleTable, device: torch.device) -> tuple[Tensor, ...]:
    """All samples of a small `table`, as inputs of the exported function."""
    batch = next(iter(Loader(table, len(table), size=trained.size, view=trained.view)))  # raw lengths: no statistics
    sides = torch.from_numpy(table.length_in_sides).float()[:, None]
    inputs = (batch.rgb, batch.polyline, batch.padding, batch.length, sides)
    return tuple(x.to(device) for x in inputs[: len(input_names(trained))])


def random_tiles(trained: Trained, n: int, device: torch.device) -> tuple[Tensor, ...]:
    """`n` tiles of noise with random lengths, the same in each run."""
    noise, size, views = torch.Generator().manual_seed(n), trained.size, len(trained.view)
    channels = (3 * views, views, views)
    frames = [torch.randint(0, 256, (n, size, size, c), dtype=torch.uint8, generator=noise) for c in channels]
    lengths = [torch.rand(n, 1, generator=noise) for _ in input_names(trained)[3:]]
    return tuple(x.to(device) for x in (*frames, *lengths))


def contract(trained: Trained) -> dict[str, str]:
    """How to make the inputs and read the outputs: text by name, JSON if a value has parts."""
    size = trained.size
    values: dict[str, Any] = {
        "task": "height of a chimney in metres from a satellite tile and a polyline from its base to its top",
        "inputs": _describe_inputs(trained),
        "outputs": {
            "mu": "float32 (B,): height in metres, calibrated",
            "sigma": "float32 (B,): its standard deviation in metres, calibrated",
        },
        "view": trained.view.kind,
        "window": _window(trained.view, size),
        "letterbox": (
            f"scale = min({size} / width, {size} / height); sides rounded half to even; bilinear without antialiasing;"
            " centred, odd paddings one pixel larger below and to the right; zeros outside"
        ),
        "stroke": "cv2.polylines, open, 255 on 0, at the tile's size, max(1, int(0.004 * min(height, width))) px thick",
        "normalisation": "inside: ImageNet's for RGB, .5/.5 for both masks",
        "statistics": trained.statistics._asdict(),
        "target": asdict(trained.target),
        "calibration": _without_infinity((trained.calibration or Calibration()).to_dict()),
        "calibrated": trained.calibration is not None,
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, allow_nan=False) for name, value in values.items()
    }


def _window(view: View, size: int) -> str:
    """How to cut the window of a view: in words, or as Python code if it is turned."""
    if view.turned:
        return as_text(view.crop, size)
    return "none" if view.kind == "tile" else WINDOW.format(crop=view.crop, margin=MARGIN)


def _describe_inputs(trained: Trained) -> dict[str, str]:
    size, views = trained.size, len(trained.view)
    order = ", the tile in the first channels" if views > 1 else ""
    fitted = "" if trained.view.turned else ", letterboxed"
    words = {
        "rgb": f"uint8 (B, {size}, {size}, {3 * views}): {VIEWS_IN_WORDS[trained.view.kind]}{fitted}{order}",
        "polyline": f"uint8 (B, {size}, {size}, {views}): a mask of its polyline, made in the same way",
        "padding": f"uint8 (B, {size}, {size}, {views}): 255 outside the picture, 0 inside it",
        "length": "float32 (B, 1): sum of the polyline's segment lengths in (x / tile width, y / tile height)",
        "sides": "float32 (B, 1): the same sum in pixels, divided by the longer side of the tile",
    }
    return {name: words[name] for name in input_names(trained)}


def _without_infinity(value: Any) -> Any:
    """`value` with null for infinity, which JSON lacks: the quantile of a level that needs more scenes."""
    if isinstance(value, dict):
        return {key: _without_infinity(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
