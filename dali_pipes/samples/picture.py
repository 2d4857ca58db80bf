"""Pictures of any format as RGB with 8 bits per sample: JPEG, PNG, TIFF and GeoTIFF.

    pictures = open_pictures([Path("DIR")])
    pictures.rgb(0)                          # (height, width, 3) uint8
    pictures.rgb(0, (top, left, 256, 256))   # a part: a scene need not fit into memory

The same rules hold for every picture, so that equal values look equal:

- 8 bits stay as they are. 16 bits are scaled linearly, from 0 … 65535 to 0 … 255, or from the fewer bits that a TIFF
  states. `value_range` replaces these two ends, and is needed for signed or real numbers.
- Grey becomes three equal channels, and a palette its colours. Bands must be named as red, green and blue, or be
  exactly three.
- What is wholly transparent or has no data is black, like the padding of a frame. Any other alpha changes nothing.

A JPEG stays what it is, and DALI decodes it. Everything else reaches DALI as a PPM of its RGB, or of the window that is
shown, so that all pictures take the same way. TIFFs are read by rasterio, window by window, or without it by OpenCV, as
a whole. PNGs are read by OpenCV.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from simplejpeg import decode_jpeg

from ..errors import InputError
from ..release.byte_range import Segment
from ..release.find import open_images
from ..release.members import Members
from . import png, tiff
from .index import Verified, check_by_decoding
from .jpeg import CONVERTIBLE, MOST_SCENE_PIXELS, format_of, pixels_only, usable_header
from .via import MOST_PIXELS, Reason

UInt8 = NDArray[np.uint8]
Box = tuple[int, int, int, int]
Range = tuple[float, float]

CAMERA_BITS = 14  # values of 16 bits that are all lower come from a camera, and would be almost black
OTHERS = (Reason.PNG, Reason.TIFF)  # formats that are read besides JPEG
_HEAD = 32  # bytes that identify a format
_SILENT = 0  # OpenCV's lowest level of logging


class Pictures(Members):
    """Files that are pictures: `read` gives their bytes, `rgb` their pixels."""

    def __init__(self, files: Members, value_range: Range | None = None) -> None:
        self.names, self.where, self.note = files.names, files.where, files.note
        self.value_range = value_range
        self._files, self._verified = files, Verified(files)
        self._formats: dict[int, Reason | None] = {}
        self._whole = lru_cache(maxsize=1)(self._decoded)  # the polylines of one picture follow each other

    def read(self, index: int) -> UInt8:
        """Return the bytes of picture `index` as (n,) uint8. Raises InputError if they cannot be read."""
        return self._files.read(index)

    def size(self, index: int) -> int:
        """Return the recorded number of bytes of picture `index`."""
        return self._files.size(index)

    def segment(self, index: int) -> Segment | None:
        """Return where the bytes of picture `index` are on disk, or None."""
        return self._files.segment(index)

    def file(self, index: int) -> Path | None:
        """Return the file that picture `index` is, or None if it is in an archive."""
        segment = self.segment(index)
        return None if segment is None or segment.file.suffix.lower() == ".tar" else segment.file

    def format_of(self, index: int) -> Reason | None:
        """Return None for a JPEG, otherwise what picture `index` is, such as Reason.PNG."""
        if index not in self._formats:
            head = self._reader(index)(0, _HEAD)
            self._formats[index] = None if head.startswith(b"\xff\xd8") else format_of(head)
        return self._formats[index]

    def sizes(self, wanted: Sequence[int], *, windowed: bool, console: Console) -> list[tuple[int, int]]:
        """Check the pictures `wanted` → width and height of each.

        `windowed`: only windows of them will be shown. JPEGs are decoded as a whole, others are only opened. Raises
        InputError if one cannot be used.
        """
        most = MOST_SCENE_PIXELS if windowed else MOST_PIXELS
        kinds = {i: self.format_of(i) for i in wanted}
        jpegs = [i for i, kind in kinds.items() if kind not in OTHERS]
        threads = len(os.sched_getaffinity(0))
        check = partial(check_by_decoding, console=console, threads=threads, most_pixels=most)
        found: dict[int, tuple[int, int]] = {}
        for i, jpeg in zip(jpegs, check(self._files, jpegs, title="checking tiles"), strict=True):
            if isinstance(jpeg, Reason):
                raise self._unusable_jpeg(i, jpeg, most)
            found[i] = jpeg.width, jpeg.height
        for i in kinds.keys() - found.keys():
            found[i] = self._png_size(i) if kinds[i] is Reason.PNG else self._tiff_size(i, most)
        return [found[i] for i in wanted]

    def rgb(self, index: int, box: Box | None = None) -> UInt8:
        """Return the pixels of picture `index`, or of its part `box`, as (height, width, 3) uint8.

        `box`: top, left, height and width in pixels. Raises InputError if they cannot be decoded, or are too many.
        """
        if self.format_of(index) is Reason.TIFF and tiff.is_available():
            return self._from_tiff(index, box)
        whole = self._whole(index)
        top, left, height, width = box or (0, 0, *whole.shape[:2])
        return whole[top : top + height, left : left + width]

    # --- JPEG and PNG, and TIFF without rasterio.

    def _decoded(self, index: int) -> UInt8:
        kind, data = self.format_of(index), self._verified.read(index)
        if kind not in OTHERS:
            jpeg = usable_header(data)
            if isinstance(jpeg, Reason):
                raise self._unusable_jpeg(index, jpeg, MOST_PIXELS)
            try:
                rgb: UInt8 = decode_jpeg(pixels_only(data), "RGB", strict=True)
            except ValueError:
                raise self._unusable_jpeg(index, Reason.UNDECODABLE, MOST_PIXELS) from None
            return rgb
        width, height = self._png_size(index) if kind is Reason.PNG else self._tiff_size(index, MOST_PIXELS)
        values = _by_opencv(data)
        if values is None or values.shape[:2] != (height, width):
            raise self._unusable(index, "its data are corrupt", "replace the file")
        values = values if values.ndim == 3 else values[..., None]
        valid = values[..., 3] > 0 if values.shape[2] == 4 else np.ones((height, width), bool)
        rgb_values = values[..., [2, 1, 0] if values.shape[2] > 2 else [0, 0, 0]]
        return self._scaled(index, rgb_values, valid, 8 * values.dtype.itemsize)

    def _png_size(self, index: int) -> tuple[int, int]:
        header = png.usable_header(self._verified.read(index).tobytes())
        if isinstance(header, str):
            raise self._unusable(index, header, "save it again, whole and upright")
        height, width = header
        if width * height > MOST_PIXELS:
            raise self._too_large(index, width, height, MOST_PIXELS)
        return width, height

    # --- TIFF.

    def _tiff_size(self, index: int, most: int) -> tuple[int, int]:
        """Width and height of a TIFF that can be read. Raises InputError if it cannot."""
        tags = tiff.tags(self._reader(index))
        width, height = tags.get(tiff.WIDTH, 0), tags.get(tiff.HEIGHT, 0)
        if not (width and height):
            raise self._unusable(index, "the TIFF is damaged or cut short", "replace the file")
        if tags.get(tiff.ORIENTATION, 1) != 1:
            raise self._unusable(index, "its orientation is not upright", "turn it upright in an image editor")
        most = most if tiff.is_available() else MOST_PIXELS
        if width * height > most:
            raise self._too_large(index, width, height, most)
        if tiff.is_available():
            with self.dataset(index) as dataset:
                self._scaling(index, dataset)
        elif not tiff.is_plain(tags):
            kind = "a TIFF that is compressed, or is not grey or RGB of 8 or 16 bits"
            raise tiff.needs_geo(f"{kind}, such as {self.names[index]},")
        return width, height

    def _from_tiff(self, index: int, box: Box | None) -> UInt8:
        with self.dataset(index) as dataset:
            if box is None and dataset.width * dataset.height > MOST_PIXELS:
                raise self._too_large(index, dataset.width, dataset.height, MOST_PIXELS)
            bits = self._scaling(index, dataset)
            values, valid = tiff.read_window(dataset, box or (0, 0, dataset.height, dataset.width))
        return self._scaled(index, values, valid, bits)

    def _scaling(self, index: int, dataset: Any) -> int:
        """The bits of a dataset's values, 0 if only `value_range` can scale them. Raises InputError if nothing can."""
        bands = tiff.colour_bands(dataset)
        bits = tiff.value_bits(dataset, bands[0])
        if not bits and self.value_range is None:
            raise self._unusable(
                index,
                f"its values are {dataset.dtypes[bands[0] - 1]}, without a lowest and a highest one",
                "state them with --value-range LOW HIGH: what the tiles of training show as black and as white",
            )
        return bits

    @contextmanager
    def dataset(self, index: int) -> Iterator[Any]:
        """Open the TIFF `index` as rasterio's dataset. Raises InputError if it is damaged, also inside the block."""
        try:
            with tiff.opened(self.segment(index) or self._verified.read(index).tobytes()) as dataset:
                yield dataset
        except InputError:
            raise
        except OSError as error:
            raise self._unusable(index, f"rasterio cannot read it ({error.strerror})", "replace the file") from None
        except ValueError as error:
            raise self._unusable(index, str(error), "save it as a TIFF of three bands, red, green and blue") from None

    # --- Shared by all formats.

    def _scaled(self, index: int, values: NDArray[Any], valid: NDArray[np.bool_], bits: int) -> UInt8:
        """Scale values (h, w, 3) of `bits` bits to 8 bits; those that are not `valid` (h, w) become black."""
        if bits == 8:
            rgb = values
        else:
            highest = values[valid].max(initial=0)
            if bits == 16 and self.value_range is None and 0 < highest < 1 << CAMERA_BITS:
                raise self._unusable(
                    index,
                    f"the highest of its 16-bit values is {highest}, so that it would be almost black",
                    "state with --value-range LOW HIGH what the tiles of training show as black and as white",
                )
            low, high = self.value_range or (0, (1 << bits) - 1)
            scaled = (values.astype(np.float32) - low) * np.float32(255 / (high - low))
            rgb = np.clip(np.rint(np.nan_to_num(scaled)), 0, 255).astype(np.uint8)
        return np.where(valid[..., None], rgb, np.uint8(0))

    def _reader(self, index: int) -> Callable[[int, int], bytes]:
        """A function that gives the bytes from a start to a stop, without reading the whole file if it is on disk."""
        segment = self.segment(index)
        if segment is None:
            data = self._verified.read(index)
            return lambda start, stop: data[start:stop].tobytes()

        def read(start: int, stop: int) -> bytes:
            with segment.file.open("rb") as file:
                file.seek(segment.offset + min(start, segment.length))
                return file.read(max(0, min(stop, segment.length) - start))

        return read

    def _unusable(self, index: int, why: str, advice: str) -> InputError:
        return InputError(f"{self.names[index]} cannot be predicted: {why}; {advice}")

    def _too_large(self, index: int, width: int, height: int, most: int) -> InputError:
        advice = f"cut it into images of at most {most:,} pixels"
        return self._unusable(index, f"it has {width:,} × {height:,} pixels", advice)

    def _unusable_jpeg(self, index: int, reason: Reason, most: int) -> InputError:
        if reason is Reason.DAMAGED:
            self._files.read(index)  # raises with a more exact reason, such as two files of the same name
        advice = "replace the file"
        if reason is Reason.TOO_LARGE:
            advice = f"cut it into images of at most {most:,} pixels"
        elif reason in CONVERTIBLE:
            advice = "save it as a JPEG of 8 bits per sample, upright and in RGB"
        return self._unusable(index, reason.value, advice)


def open_pictures(given: Sequence[Path], value_range: Range | None = None) -> Pictures:
    """Open pictures: files, folders at any depth, ZIPs, parts of a ZIP, or tars.

    `value_range`: the values that become 0 and 255, for all pictures that do not have 8 bits. Raises InputError if
    there are none, or if the range is empty.
    """
    if value_range is not None and not value_range[0] < value_range[1]:
        raise InputError(f"--value-range takes LOW and HIGH, found {value_range[0]:g} and {value_range[1]:g}")
    return Pictures(open_images(given), value_range)


def encoded(images: Members, index: int, windows: NDArray[np.int64]) -> tuple[UInt8, tuple[int, int]]:
    """Return what DALI decodes for the `windows` (V, 4) of an image, and where its top left corner is in the image.

    A window is top, left, height and width in pixels. A JPEG is returned as a whole, another picture as a PPM of the
    smallest part that has all windows.
    """
    if not isinstance(images, Pictures) or images.format_of(index) is None:
        return pixels_only(images.read(index)), (0, 0)
    top, left = windows[:, :2].min(axis=0).tolist()
    bottom, right = (windows[:, :2] + windows[:, 2:]).max(axis=0).tolist()
    rgb = images.rgb(index, (top, left, bottom - top, right - left))
    header = b"P6\n%d %d\n255\n" % (right - left, bottom - top)
    return np.frombuffer(header + rgb.tobytes(), np.uint8), (top, left)


def _by_opencv(data: UInt8) -> NDArray[Any] | None:
    """The values of a PNG or TIFF (h, w), or (h, w, 3 or 4) as BGR or BGRA; None if they cannot be decoded.

    OpenCV must not print about what becomes an InputError, or about tags that it does not know.
    """
    import cv2  # `--help` reads this module, and OpenCV takes long to import

    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # the first until OpenCV 4
    before = set_level(_SILENT)
    try:
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    finally:
        set_level(before)
