"""The DALI graph: decode, cut and letterbox, one definition for the CPU and the GPU.

An image is decoded once for all of its views, and each is cut out of it by whole pixels.  Where a window is all that is
shown, nothing else is decoded: to the same bytes as if it had been cut out afterwards, for 500 CPU-µs instead of 1,010,
at 256² of 512².

The letterbox is bit-near to OpenCV's `INTER_LINEAR` (at most one grey level, padding exact).  Every default is
wrong for that: antialiasing differs by up to 153 levels, `subpixel_scale` by up to 51, `rounding="round"` shifts
odd paddings by a row, and `mode="not_larger"` rounds halves up where Python rounds them to even; hence the size
comes from the callback.

On a CPU this resize costs 550 CPU-µs a tile of 512² where OpenCV's costs 78 and decoding 800, and nothing that DALI
has is cheaper at this parity: fused `resize_crop_mirror` 550 to 600, `tensor_resize` 560, float output 730, two passes
1,700, `warp_affine` 1,700; even nearest neighbours, which are off by 63 levels, cost 180.
"""

from __future__ import annotations

from typing import Any

from nvidia.dali import fn, pipeline_def, types

from .source import Source

TILE = 512  # pixels; a hint for the decoder's buffers, not a limit


def build(
    source: Source, *, batch_size: int, device: str, device_id: int | None, threads: int, prefetch: int = 2
) -> Any:
    """Build the pipeline (rgb (B,S,S,3·V), polyline (B,S,S,V) uint8, sample (B,1) int64).

    `device` is "cpu" or "gpu"; `device_id` is the GPU's number, or None to build a graph for the CPU (or, in
    tests, a GPU graph that is serialised but not run).  `batch_size` is the largest batch of `source`.
    """
    # The dynamic executor alone gives outputs that stay valid after the next run.
    return _letterboxed(
        source,
        device,
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=prefetch,
        exec_dynamic=True,
    )


@pipeline_def
def _letterboxed(source: Source, device: str) -> Any:
    frames = source.frames
    jpeg, polyline, sample, windows, sizes = _inputs(source)
    if frames.views == 1:
        shown = [_decode(jpeg, device, windows[0])]
    else:
        image = _decode(jpeg, device, {})
        shown = [fn.slice(image, **window, device=device) if window else image for window in windows]
    placed = []
    for rgb, size, square in zip(shown, sizes, frames.square, strict=True):
        rgb = fn.resize(
            rgb, size=size, interp_type=types.INTERP_LINEAR, antialias=False, subpixel_scale=False, device=device
        )
        if not square:  # a square window fills its frame, and the crop would only copy it
            crop = (frames.size, frames.size)
            rgb = fn.crop(rgb, crop=crop, out_of_bounds_policy="pad", fill_values=0, rounding="truncate", device=device)
        placed.append(rgb)
    rgb = placed[0] if frames.views == 1 else fn.cat(*placed, axis=2, device=device)  # torch's takes 2.5 times as long
    # What merely passes through must be copied: the callback's arrays do not outlive its ring of batches.
    passed = [x.gpu() if device == "gpu" else fn.copy(x) for x in (polyline, sample)]
    return rgb, *passed


def _inputs(source: Source) -> tuple[Any, Any, Any, list[dict[str, Any]], list[Any]]:
    """JPEGs, polylines, rows, and for each view its windows, {} for whole images, and its sizes in the frame."""
    whole = source.frames.whole.tolist()

    def batch(call: int) -> list[Any]:
        given = source(call)
        cut = [
            part[view] for view, all_of_it in enumerate(whole) if not all_of_it for part in (given.start, given.shape)
        ]
        return [given.jpeg, given.polyline, given.sample, *given.resized, *cut]

    cuts = 2 * whole.count(False)
    jpeg, polyline, sample, *places = fn.external_source(
        batch,
        num_outputs=3 + len(whole) + cuts,
        batch=True,
        no_copy=True,
        dtype=[types.UINT8, types.UINT8, types.INT64] + [types.FLOAT] * len(whole) + [types.INT32] * cuts,
        ndim=[1, 3, 1] + [1] * (len(whole) + cuts),
        layout=["", "HWC", ""] + [""] * (len(whole) + cuts),
    )
    starts_and_shapes = iter(places[len(whole) :])
    windows = [
        {} if all_of_it else {"start": next(starts_and_shapes), "shape": next(starts_and_shapes), "axes": (0, 1)}
        for all_of_it in whole
    ]
    return jpeg, polyline, sample, windows, places[: len(whole)]


def _decode(jpeg: Any, device: str, window: dict[str, Any]) -> Any:
    decode = fn.decoders.image_slice if window else fn.decoders.image
    # The polylines are in stored pixels: orientation by EXIF would turn the image from under its mask.
    if device == "cpu":
        return decode(jpeg, **window, device="cpu", output_type=types.RGB, adjust_orientation=False)
    return decode(
        jpeg,
        **window,
        device="mixed",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # what libjpeg-turbo does on the CPU
        hw_decoder_load=0.65,
        preallocate_width_hint=TILE,
        preallocate_height_hint=TILE,
    )
