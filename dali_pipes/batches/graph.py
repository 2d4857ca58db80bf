"""The DALI graph, one definition for CPU and GPU: decode, cut, letterbox. No other module of dali_pipes imports DALI.

On a CPU it ends after decoding, and OpenCV makes the frames (`letterbox.py`): DALI's CPU resize takes seven times as
long. Tests run its letterbox and its turn on the CPU, too, and compare them.

An image is decoded once for all of its views, and each view is cut out of it at whole pixels. If the only view is a
window, only the window is decoded: the same bytes in 500 CPU-µs instead of 1,010 (256² of 512²).

The letterbox matches OpenCV's `INTER_LINEAR` to one grey level, and its padding exactly. DALI's defaults do not:
antialiasing differs by up to 153 levels, `subpixel_scale` by up to 51, `rounding="round"` shifts odd paddings by one
row, and `mode="not_larger"` rounds halves up, but Python to even. Therefore the callback computes the size.
"""

from __future__ import annotations

from typing import Any

from nvidia.dali import __version__ as DALI_VERSION
from nvidia.dali import fn, pipeline_def, types

from .source import PREFETCH, Source

__all__ = ["DALI_VERSION", "build"]

TILE = 512  # pixels; a hint for the decoder's buffers, not a limit


def build(source: Source, *, device: str, device_id: int | None, threads: int, letterbox: bool = True) -> Any:
    """Build the pipeline: `run()` gives rgb (B, S, S, 3·V) and polyline (B, S, S, V) uint8, and sample (B, 1) int64.

    `device`: "cpu" or "gpu". `device_id`: the GPU's number; None on the CPU, and in tests of the GPU graph that
    serialise it without running it. `letterbox`: if False, rgb are the decoded images, or the windows of a single view,
    each (h, w, 3), for `letterbox.py`.
    """
    return _graph(
        source,
        device,
        letterbox,
        batch_size=source.plan.largest_batch,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=PREFETCH,
        exec_dynamic=True,  # the only executor whose outputs stay valid after the next run
    )


@pipeline_def
def _graph(source: Source, device: str, letterbox: bool) -> Any:
    frames = source.frames
    jpeg, polyline, sample, windows, placed = _inputs(source, letterbox)
    rgb = _decode(jpeg, device, windows[0] if frames.views == 1 else {})
    if letterbox:
        cut = [fn.slice(rgb, **window, device=device) if window and frames.views > 1 else rgb for window in windows]
        views = [
            _turn(part, placement, frames.size, device)
            if turned
            else _letterbox(part, placement, frames.size, filled, device)
            for part, placement, turned, filled in zip(cut, placed, frames.turned, frames.filled, strict=True)
        ]
        # torch.cat takes 2.5 times as long
        rgb = views[0] if frames.views == 1 else fn.cat(*views, axis=2, device=device)
    # The callback's arrays are freed after a few batches, so inputs that pass through unchanged must be copied.
    passed = [x.gpu() if device == "gpu" else fn.copy(x) for x in (polyline, sample)]
    return rgb, *passed


def _inputs(source: Source, letterbox: bool) -> tuple[Any, Any, Any, list[dict[str, Any]], list[Any]]:
    """JPEGs, polylines, rows; for each view its window ({} for the whole image) and, to letterbox, its placement."""
    views, cuts = source.frames.views, letterbox or source.frames.views == 1
    windowed = [view for view, whole in enumerate(source.frames.whole.tolist()) if cuts and not whole]
    placed = [2 if turned else 1 for turned in source.frames.turned.tolist()] if letterbox else []  # dimensions

    def callback(call: int) -> list[Any]:
        batch = source(call)
        windows = [part[view] for view in windowed for part in (batch.start, batch.shape)]
        return [batch.jpeg, batch.polyline, batch.sample, *batch.placed[: len(placed)], *windows]

    corners = [1] * 2 * len(windowed)
    jpeg, polyline, sample, *rest = fn.external_source(
        callback,
        num_outputs=3 + len(placed) + len(corners),
        batch=True,
        no_copy=True,
        dtype=[types.UINT8, types.UINT8, types.INT64] + [types.FLOAT for _ in placed] + [types.INT32 for _ in corners],
        ndim=[1, 3, 1, *placed, *corners],
        layout=["", "HWC", ""] + ["" for _ in (*placed, *corners)],
    )
    windows: list[dict[str, Any]] = [{} for _ in range(views)]
    for view, start, shape in zip(windowed, rest[len(placed) :: 2], rest[len(placed) + 1 :: 2], strict=True):
        windows[view] = {"start": start, "shape": shape, "axes": (0, 1)}
    return jpeg, polyline, sample, windows, rest[: len(placed)]


def _decode(jpeg: Any, device: str, window: dict[str, Any]) -> Any:
    decode = fn.decoders.image_slice if window else fn.decoders.image
    # Polylines are in stored pixels: a rotation by EXIF would move the image away from its mask.
    options: dict[str, Any] = {"output_type": types.RGB, "adjust_orientation": False, **window}
    if device == "cpu":
        return decode(jpeg, device="cpu", **options)
    return decode(
        jpeg,
        device="mixed",
        jpeg_fancy_upsampling=True,  # as libjpeg-turbo does on the CPU
        hw_decoder_load=0.65,
        preallocate_width_hint=TILE,
        preallocate_height_hint=TILE,
        **options,
    )


def _turn(rgb: Any, matrix: Any, size: int, device: str) -> Any:
    return fn.warp_affine(
        rgb, matrix=matrix, size=(size, size), interp_type=types.INTERP_LINEAR, fill_value=0, device=device
    )


def _letterbox(rgb: Any, resized: Any, size: int, square: bool, device: str) -> Any:
    rgb = fn.resize(
        rgb, size=resized, interp_type=types.INTERP_LINEAR, antialias=False, subpixel_scale=False, device=device
    )
    if square:  # it fills its frame, and the crop would only copy it
        return rgb
    return fn.crop(
        rgb, crop=(size, size), out_of_bounds_policy="pad", fill_values=0, rounding="truncate", device=device
    )
