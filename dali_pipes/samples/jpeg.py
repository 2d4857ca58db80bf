"""Read size, number of components and EXIF orientation from the headers of a JPEG, without decoding it."""

from __future__ import annotations

from typing import NamedTuple

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # these three are tables and reserved
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_MOST_MARKERS = 4096  # before the frame; cameras write about twenty, and a hostile file may hold millions


class JpegHeader(NamedTuple):
    """Size in pixels, number of colour components, EXIF orientation (1: upright), whether the file is complete."""

    height: int
    width: int
    components: int
    orientation: int
    complete: bool


def read_header(data: bytes | memoryview) -> JpegHeader | None:
    """Read the headers of the JPEG in `data`, or return None if it is no JPEG with a frame.

    `complete`: whether the end-of-image marker is at the end, before any zero bytes. A truncated download has intact
    headers but no such marker.
    """
    data = memoryview(data)
    if data[:2] != b"\xff\xd8":
        return None
    position, orientation = 2, 1
    for _ in range(_MOST_MARKERS):
        if position + 4 > len(data) or data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:  # a fill byte, or a marker without a body
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")  # includes these two bytes
        if length < 2:
            return None
        body = data[position + 4 : position + 2 + length]
        if marker in _START_OF_FRAME:
            if len(body) < 6:
                return None
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            complete = bytes(data[-64:]).rstrip(b"\0").endswith(b"\xff\xd9")
            return JpegHeader(height, width, body[5], orientation, complete) if height and width else None
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            orientation = _exif_orientation(bytes(body[6:]))
        position += 2 + length
    return None


def _exif_orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory of a TIFF header (EXIF 2.3, 4.6.4), or 1 if there is none."""
    order: dict[bytes, str] = {b"II": "little", b"MM": "big"}
    if tiff[:2] not in order:
        return 1

    def number(position: int, size: int) -> int:
        return int.from_bytes(tiff[position : position + size], order[tiff[:2]])  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(directory + 2, min(directory + 2 + 12 * number(directory, 2), len(tiff) - 11), 12):
        if number(entry, 2) == 0x0112:
            return number(entry + 8, 2)
    return 1
