"""The headers of a JPEG: its size, whether it can be used, and its bytes without what no pixel depends on.

The header of a JPEG is a row of segments in front of the first scan. Cameras and editors write much there that no pixel
depends on: EXIF, ICC profiles, comments, odd versions, even junk between two segments. A strict decoder refuses some of
it, and DALI's parser refuses other parts. Therefore both get `pixels_only(data)`, which keeps only the segments that
decoding needs. Bytes after the end of the image stay, because no decoder reads them. A frame of an M-JPEG video has no
Huffman tables and means those of the standard, which are inserted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .tiff import exif_orientation
from .via import MOST_PIXELS, Reason

MOST_SCENE_PIXELS = 1 << 29  # of an image of which only windows are decoded

_SCAN, _JFIF, _EXIF, _ADOBE = 0xDA, 0xE0, 0xE1, 0xEE
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})  # Huffman, arithmetic, quantisation, restart interval
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # C4 and CC are tables, C8 is reserved
_FOR_PIXELS = _TABLES | _START_OF_FRAME | {_SCAN}
_HUFFMAN = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended and progressive
_SEQUENTIAL = _HUFFMAN - {0xC2}
_ARITHMETIC = frozenset({0xC9, 0xCA})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_START, _END, _PROGRESSIVE, _HUFFMAN_TABLES = 0xD8, 0xD9, 0xC2, 0xC4
_BEGIN = re.compile(rb"\xff")  # of a marker
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # not those inside a scan: 00 and restarts
_BITS = 99  # more than any coefficient has
_MOST_MARKERS = 4096  # before the scan; cameras write about twenty, and a hostile file may have millions

_FORMATS = (
    (Reason.PNG, 0, b"\x89PNG"),
    (Reason.GIF, 0, b"GIF8"),
    (Reason.TIFF, 0, b"II*\0"),
    (Reason.TIFF, 0, b"MM\0*"),
    (Reason.TIFF, 0, b"II+\0"),  # BigTIFF
    (Reason.TIFF, 0, b"MM\0+"),
    (Reason.WEBP, 8, b"WEBP"),
    (Reason.HEIC, 4, b"ftyp"),
    (Reason.JPEG_2000, 4, b"jP  \r\n"),
    (Reason.JPEG_2000, 0, b"\xff\x4f\xff\x51"),
    (Reason.BMP, 0, b"BM"),
    (Reason.WEB_PAGE, 0, b"<html"),
    (Reason.WEB_PAGE, 0, b"<!doctype"),
)
"""Formats that people rename to .jpg: the reason, and the bytes at a position, in either case."""

CONVERTIBLE = frozenset(reason for reason, _, _ in _FORMATS if reason is not Reason.WEB_PAGE) | {
    *(Reason.TWELVE_BITS, Reason.ARITHMETIC, Reason.RARE_CODING, Reason.COLOURS, Reason.ROTATED)
}
"""Reasons of images that are intact, so that another program can save them in a usable form."""


class JpegHeader(NamedTuple):
    """What the headers state.

    Size in pixels, number of colour components, EXIF orientation (1: upright), whether the file has its end, bits per
    sample, the marker of the frame, which says how it is coded, and whether later scans of a progressive JPEG are
    missing.
    """

    height: int
    width: int
    components: int
    orientation: int
    complete: bool
    bits: int = 8
    frame: int = 0xC0
    partial: bool = False


class _Segment(NamedTuple):
    marker: int
    start: int
    """Position of its marker."""
    stop: int


class _Cut(ValueError):
    """The data end inside the header."""


def usable_header(data: NDArray[np.uint8], most_pixels: int = MOST_PIXELS) -> JpegHeader | Reason:
    """Return the header of the JPEG `data` (n,) uint8, or the reason why the image cannot be used."""
    jpeg = read_header(data.data)
    if isinstance(jpeg, Reason):
        return jpeg
    faults = {
        Reason.ARITHMETIC: jpeg.frame in _ARITHMETIC,
        Reason.RARE_CODING: jpeg.frame not in _HUFFMAN | _ARITHMETIC,
        Reason.TWELVE_BITS: jpeg.bits == 12,
        Reason.UNDECODABLE: jpeg.bits not in (8, 12),
        Reason.TRUNCATED: not jpeg.complete,
        Reason.PARTIAL: jpeg.partial,
        Reason.ROTATED: jpeg.orientation != 1,
        Reason.COLOURS: jpeg.components not in (1, 3),
        Reason.TOO_LARGE: jpeg.height * jpeg.width > most_pixels,
    }
    return next((reason for reason, faulty in faults.items() if faulty), jpeg)


def read_header(data: bytes | memoryview) -> JpegHeader | Reason:
    """Read the headers of the JPEG in `data`, or return the reason why it is not a JPEG with a frame header.

    `complete`: whether the end-of-image marker follows the first scan. Bytes after it, such as a line end, a camera
    maker's trailer or a second picture, do no harm. A truncated download has intact headers but no such marker.
    """
    data = bytes(data)
    frame, orientation, complete, scan = None, 1, False, 0
    try:
        for marker, start, stop in _segments(data):
            body = data[start + 4 : stop]
            if marker in _START_OF_FRAME and frame is None:
                if len(body) < 6:
                    return Reason.NOT_A_JPEG
                frame = (marker, body)
            if marker == _EXIF and body[:6] == b"Exif\0\0" and frame is None:
                orientation = exif_orientation(body[6:])
            if marker == _SCAN:  # inside a scan FF is followed by 00 or a restart marker
                complete, scan = data.find(b"\xff\xd9", stop) >= 0, start
    except _Cut:
        complete = False
        if frame is None:
            return Reason.TRUNCATED
    except ValueError:
        if frame is None:
            return format_of(data)
    if frame is None:
        return Reason.NOT_A_JPEG
    marker, body = frame
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    if not (height and width):
        return Reason.NOT_A_JPEG
    partial = complete and marker == _PROGRESSIVE and _lacks_scans(data, scan, body[6::3])
    return JpegHeader(height, width, body[5], orientation, complete, body[0], marker, partial)


def _lacks_scans(data: bytes, position: int, components: bytes) -> bool:
    """Whether the scans of a progressive JPEG do not bring all bits of all coefficients (ITU-T T.81, G.1.1).

    `position`: of the marker of the first scan; `components`: their identifiers in the frame header.
    """
    lacking = {component: [_BITS] * 64 for component in components}
    while data[position + 1] != _END:
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : stop]
        if data[position + 1] == _SCAN and len(body) > 3:
            first, last, bits = body[-3], body[-2], body[-1] & 15  # brings these coefficients up to this bit
            for component in lacking.keys() & set(body[1:-3:2]):
                lacking[component][first : last + 1] = [bits] * (min(last, 63) + 1 - first)
        following = _MARKER.search(data, stop)
        if following is None:
            return True
        position = following.start()
    return any(bit for bits in lacking.values() for bit in bits)


def pixels_only(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the JPEG `data` (n,) uint8 with only those segments of its header that the pixels depend on.

    These are its tables and its frame, and the two that state the colour space: JFIF, with a version that exists, and
    Adobe. Returns `data` itself if nothing has to be removed, or if it is not a JPEG.
    """
    head = data.data  # not a copy, which would take as long as the rest
    kept: list[bytes | memoryview] = [head[:2]]
    end, found = 2, set[int]()
    unchanged = True
    try:
        for marker, start, stop in _segments(head):
            segment: bytes | memoryview = head[start:stop]
            found.add(marker)
            if marker == _SCAN and _HUFFMAN_TABLES not in found and found & _SEQUENTIAL:
                kept.append(_standard_tables())
                unchanged = False
            is_jfif = marker == _JFIF and segment[4:9] == b"JFIF\0" and len(segment) >= 18
            is_adobe = marker == _ADOBE and segment[4:9] == b"Adobe" and len(segment) >= 16
            if not (is_jfif or is_adobe or marker in _FOR_PIXELS):
                unchanged = False
                continue
            if is_jfif and segment[9] not in (1, 2):
                segment, unchanged = b"".join([segment[:9], b"\1\1", segment[11:]]), False
            unchanged = unchanged and start == end
            kept.append(segment)
            end = stop
    except ValueError:
        return data
    return data if unchanged else np.frombuffer(b"".join([*kept, head[end:]]), np.uint8)


@cache
def _standard_tables() -> bytes:
    """The Huffman tables of the standard (ITU-T T.81, K.3), as OpenCV writes them."""
    import cv2  # `--help` reads this module, and OpenCV takes long to import

    data = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    return b"".join(data[start:stop] for marker, start, stop in _segments(data) if marker == _HUFFMAN_TABLES)


def _segments(data: bytes | memoryview) -> Iterator[_Segment]:
    """Yield the segments of a header up to the first scan; junk between two is skipped, as libjpeg does.

    Raises ValueError if `data` is not a JPEG, and its subclass `_Cut` if it ends before the first scan.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("no start of an image")
    position = 2
    for _ in range(_MOST_MARKERS):
        found = _BEGIN.search(data, position)
        if found is None or found.start() + 4 > len(data):
            raise _Cut
        position = found.start()
        marker = data[position + 1]
        if marker == 0xFF or marker == 0 or marker in _WITHOUT_LENGTH:  # a fill byte, junk, or a marker without a body
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")  # includes these two bytes
        if length < 2 or marker in (_START, _END):
            raise ValueError("a segment without a length, or two images")
        stop = position + 2 + length
        if stop > len(data):
            raise _Cut
        yield _Segment(marker, position, stop)
        if marker == _SCAN:
            return
        position = stop
    raise ValueError("more markers than a JPEG has")


def format_of(data: bytes) -> Reason:
    """Return what `data`, which are no JPEG, are instead."""
    if not data:
        return Reason.EMPTY
    start = data[:16].lower()
    return next((reason for reason, at, magic in _FORMATS if start[at:].startswith(magic.lower())), Reason.NOT_A_JPEG)
