"""The DALI graph: decode and letterbox, one definition for the CPU and the GPU.

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

_DTYPES = [types.UINT8, types.FLOAT, types.UINT8, types.INT64]
_NDIM = [1, 1, 3, 1]
_LAYOUTS = ["", "", "HWC", ""]
TILE = 512  # pixels; a hint for the decoder's buffers, not a limit


def build(
    source: Source, *, batch_size: int, device: str, device_id: int | None, threads: int, prefetch: int = 2
) -> Any:
    """Build the pipeline (rgb (B,S,S,3), polyline (B,S,S,1) uint8, sample (B,1) int64).

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
    jpeg, resized, polyline, sample = fn.external_source(
        source, num_outputs=4, batch=True, no_copy=True, dtype=_DTYPES, ndim=_NDIM, layout=_LAYOUTS
    )
    rgb = _decode(jpeg, device)
    rgb = fn.resize(
        rgb, size=resized, interp_type=types.INTERP_LINEAR, antialias=False, subpixel_scale=False, device=device
    )
    if not source.square:  # a square image fills its frame, and the crop would only copy it
        frame = (source.size, source.size)
        rgb = fn.crop(rgb, crop=frame, out_of_bounds_policy="pad", fill_values=0, rounding="truncate", device=device)
    # What merely passes through must be copied: the callback's arrays do not outlive its ring of batches.
    passed = [x.gpu() if device == "gpu" else fn.copy(x) for x in (polyline, sample)]
    return rgb, *passed


def _decode(jpeg: Any, device: str) -> Any:
    # The polylines are in stored pixels: orientation by EXIF would turn the image from under its mask.
    if device == "cpu":
        return fn.decoders.image(jpeg, device="cpu", output_type=types.RGB, adjust_orientation=False)
    return fn.decoders.image(
        jpeg,
        device="mixed",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # what libjpeg-turbo does on the CPU
        hw_decoder_load=0.65,
        preallocate_width_hint=TILE,
        preallocate_height_hint=TILE,
    )
