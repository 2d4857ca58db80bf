"""The opened pictures, as a browser shows them: one by one in full resolution, and all of them as thumbnails.

A JPEG is sent as it is. Other formats become a PNG of the RGB that the network sees, which loses nothing.
"""

from __future__ import annotations

import threading

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from simplejpeg import decode_jpeg

from dali_pipes.errors import InputError
from dali_pipes.samples.jpeg import pixels_only, usable_header
from dali_pipes.samples.picture import Pictures
from dali_pipes.samples.via import MOST_PIXELS, Reason

from .heights import Recent

THUMBNAIL_PX = 144  # the longer side: twice its size on the page, for screens with a high density
MOST_THUMBNAILS = 4096  # about 6 kB each


class Thumbnails:
    """Small JPEGs of `pictures`, made when they are first seen."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self._made: Recent[int, bytes] = Recent(MOST_THUMBNAILS)
        self._busy = threading.Lock()

    def jpeg(self, image: int) -> bytes:
        """The thumbnail of a picture. Raises InputError if it cannot be decoded."""
        with self._busy:
            if image not in self._made:
                self._made[image] = _thumbnail(_small(self.pictures, image))
            return self._made[image]


def picture(pictures: Pictures, image: int) -> tuple[bytes, str]:
    """A file that every browser shows, and its media type. Raises InputError if the picture is not a usable one."""
    (width, height) = _checked_size(pictures, image)
    if pictures.format_of(image) is None:
        return pixels_only(pictures.read(image)).tobytes(), "image/jpeg"
    if width * height > MOST_PIXELS:
        raise InputError(f"{pictures.names[image]} cannot be shown: it has more than {MOST_PIXELS:,} pixels; cut it")
    bgr = np.ascontiguousarray(pictures.rgb(image)[..., ::-1])
    return cv2.imencode(".png", bgr, (cv2.IMWRITE_PNG_COMPRESSION, 1))[1].tobytes(), "image/png"


def _checked_size(pictures: Pictures, image: int) -> tuple[int, int]:
    if pictures.format_of(image) is not None:
        return pictures.sizes([image], windowed=True, console=Console(quiet=True))[0]
    header = usable_header(pictures.read(image))
    if isinstance(header, Reason):
        raise _unusable(pictures, image, header)
    return header.width, header.height


def _small(pictures: Pictures, image: int) -> NDArray[np.uint8]:
    """A picture as BGR (h, w, 3) uint8, for a JPEG at the smallest size that its decoder has above a thumbnail's."""
    _checked_size(pictures, image)
    if pictures.format_of(image) is not None:
        return np.ascontiguousarray(pictures.rgb(image)[..., ::-1])
    data = pixels_only(pictures.read(image))
    try:
        bgr: NDArray[np.uint8] = decode_jpeg(data, "BGR", min_height=THUMBNAIL_PX, min_width=THUMBNAIL_PX, min_factor=1)
    except ValueError:
        raise _unusable(pictures, image, Reason.UNDECODABLE) from None
    return bgr


def _thumbnail(bgr: NDArray[np.uint8]) -> bytes:
    scale = min(1.0, THUMBNAIL_PX / max(bgr.shape[:2]))
    size = [max(1, round(side * scale)) for side in bgr.shape[1::-1]]
    small = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 80))[1].tobytes()


def _unusable(pictures: Pictures, image: int, reason: Reason) -> InputError:
    return InputError(f"{pictures.names[image]} cannot be shown, because {reason.value}; replace the file")
