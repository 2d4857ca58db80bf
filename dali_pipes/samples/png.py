"""The headers of a PNG, and whether it is whole: libpng would print on the terminal what is wrong.

A PNG is a signature and chunks: length, name, data, CRC-32 of name and data (PNG 1.2, sections 3.2 and 11).
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from .tiff import exif_orientation

_FIRST = 8  # bytes of the signature


class PngHeader(NamedTuple):
    """Size in pixels."""

    height: int
    width: int


def usable_header(data: bytes) -> PngHeader | str:
    """Return the header of a PNG, or why it cannot be used. All checksums are compared."""
    header, position, view = None, _FIRST, memoryview(data)
    while position + 12 <= len(data):
        length, name = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        body, stop = position + 8, position + 8 + length
        if stop + 4 > len(data):
            break
        if zlib.crc32(view[position + 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
            return "the PNG's data are corrupt"
        if name == b"IHDR" and length == 13:
            width, height = (int.from_bytes(data[at : at + 4], "big") for at in (body, body + 4))
            header = PngHeader(height, width) if width and height else None
        if name == b"eXIf" and exif_orientation(data[body:stop]) != 1:
            return "the PNG's orientation is not upright"
        if name == b"acTL":
            return "the PNG is an animation"
        if name == b"IEND":
            return header or "the PNG's data are corrupt"
        position = stop + 4
    return "the PNG is cut short"
