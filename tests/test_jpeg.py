"""An unusual JPEG is used, and both decoders see the same picture; one that cannot be read is named for what it is."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from dali_pipes.samples.index import decode_whole
from dali_pipes.samples.jpeg import JpegHeader, pixels_only, usable_header
from dali_pipes.samples.via import Reason
from tests.conftest import jpeg
from tests.test_index import checked, dali_decoded

GOOD = jpeg(64, 96)
PICTURE = np.asarray(cv2.imdecode(np.frombuffer(GOOD, np.uint8), cv2.IMREAD_COLOR_RGB))
PROGRESSIVE = cv2.imencode(".jpg", PICTURE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 95])[
    1
].tobytes()
RESTARTS = cv2.imencode(".jpg", PICTURE, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def inserted(data: bytes) -> bytes:
    """GOOD with bytes between its first segment, JFIF's, and the next."""
    return GOOD[:20] + data + GOOD[20:]


def twelve_bits() -> bytes:
    """One grey of 12 bits: each block is two zero bits, for no change of the mean and for the block's end."""
    huffman = bytes([1, *[0] * 15, 0])
    frame = segment(0xC1, struct.pack(">BHHB", 12, 64, 64, 1) + b"\1\x11\0")
    tables = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC4, b"\0" + huffman) + segment(0xC4, b"\x10" + huffman)
    return b"\xff\xd8" + tables + frame + segment(0xDA, b"\1\1\0\0\x3f\0") + bytes(16) + b"\xff\xd9"


def with_frame(marker: int) -> bytes:
    return GOOD.replace(b"\xff\xc0", bytes([0xFF, marker]), 1)


def without_tables() -> bytes:
    """GOOD without its Huffman tables, which are those of the standard."""
    data = GOOD
    while (at := data.find(b"\xff\xc4")) >= 0:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    return data


def without_last_scan() -> bytes:
    return PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")] + PROGRESSIVE[-2:]


TRAILER = b"\0\0\1\x0a\x0e\0\0\0Image_UTC_Data1496000000SEFHj\0\0\0\1\0\0\0SEFT"
UNUSUAL = {
    "a line feed behind its end": GOOD + b"\n",
    "CR LF behind its end": GOOD + b"\r\n",
    "zeros behind its end": GOOD + bytes(5000),
    "a maker's trailer behind its end": GOOD + TRAILER,
    "a web page behind its end": GOOD + b"<html>" * 1000,
    "a second picture behind its end": GOOD + jpeg(300, 400, seed=1),
    "a second picture that is cut short": GOOD + jpeg(300, 400, seed=1)[:-700],
    "wrong ICC chunk numbers": inserted(segment(0xE2, b"ICC_PROFILE\0\5\2" + bytes(100))),
    "an ICC chunk that is missing": inserted(segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(100))),
    "JFIF version 3": GOOD.replace(b"JFIF\0\1\1", b"JFIF\0\3\0", 1),
    "JFIF version 0": GOOD.replace(b"JFIF\0\1\1", b"JFIF\0\0\0", 1),
    "JFIF cut short": GOOD[:2] + segment(0xE0, b"JFIF\0\1\1") + GOOD[20:],
    "JFIF twice": inserted(GOOD[2:20]),
    "no JFIF": GOOD[:2] + GOOD[20:],
    "zeros in its header": inserted(bytes(3)),
    "text in its header": inserted(b"odd"),
    "a line feed in its header": inserted(b"\r\n"),
    "FF 00 in its header": inserted(b"\xff\0"),
    "fill bytes": inserted(b"\xff\xff\xff"),
    "a restart marker in its header": inserted(b"\xff\xd0"),
    "a comment that is no text": inserted(segment(0xFE, bytes(range(256)))),
    "EXIF with a picture inside": inserted(segment(0xE1, b"Exif\0\0II*\0" + GOOD[:200] + b"\xff\xd9")),
    "an unknown segment": inserted(segment(0xEB, b"HDR_RI" + bytes(60_000))),
    "no Huffman tables, as in an M-JPEG": without_tables(),
    "an Adobe segment of no use": inserted(segment(0xEE, b"Adobe\0\x64\0\0\0\0\5")),
}
OTHERS = {
    "empty": (b"", Reason.EMPTY),
    "PNG": (cv2.imencode(".png", PICTURE)[1].tobytes(), Reason.PNG),
    "GIF": (b"GIF89a" + bytes(50), Reason.GIF),
    "TIFF": (cv2.imencode(".tiff", PICTURE)[1].tobytes(), Reason.TIFF),
    "WebP": (cv2.imencode(".webp", PICTURE)[1].tobytes(), Reason.WEBP),
    "BMP": (cv2.imencode(".bmp", PICTURE)[1].tobytes(), Reason.BMP),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), Reason.JPEG_2000),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(50), Reason.HEIC),
    "AVIF": (b"\0\0\0\x1cftypavif" + bytes(50), Reason.HEIC),
    "a login page": (b"<!DOCTYPE html><html>", Reason.WEB_PAGE),
    "text": (b"not found", Reason.NOT_A_JPEG),
    "12 bits": (twelve_bits(), Reason.TWELVE_BITS),
    "arithmetic coding": (with_frame(0xC9), Reason.ARITHMETIC),
    "lossless": (with_frame(0xC3), Reason.RARE_CODING),
    "cut in its header": (GOOD[:100], Reason.TRUNCATED),
    "cut behind its header": (GOOD[: GOOD.index(b"\xff\xda") + 20], Reason.TRUNCATED),
    "two starts": (GOOD[:2] + GOOD, Reason.NOT_A_JPEG),
    "the first scans of a progressive one": (without_last_scan(), Reason.PARTIAL),
    "8200 × 8200": (cv2.imencode(".jpg", np.zeros((8200, 8200), np.uint8))[1].tobytes(), Reason.TOO_LARGE),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_both_decoders_see_the_picture_of_an_unusual_jpeg(kind: str) -> None:
    data = np.frombuffer(UNUSUAL[kind], np.uint8)
    header = usable_header(data)
    assert isinstance(header, JpegHeader)
    pixels = np.empty((64, 96, 3), np.uint8)
    assert not isinstance(decode_whole(data, header, pixels.reshape(-1)), Reason)
    np.testing.assert_array_equal(pixels, PICTURE)
    np.testing.assert_array_equal(dali_decoded(pixels_only(data)), PICTURE)


def test_a_jpeg_of_needed_segments_alone_is_not_copied() -> None:
    for data in (GOOD, PROGRESSIVE, RESTARTS, GOOD + TRAILER, b"", b"text", GOOD[:50]):
        array = np.frombuffer(data, np.uint8)
        assert pixels_only(array) is array
    left = pixels_only(np.frombuffer(UNUSUAL["an unknown segment"], np.uint8))
    assert left.tobytes() == GOOD


@pytest.mark.parametrize("kind", OTHERS)
def test_what_cannot_be_read_is_named(kind: str) -> None:
    data, reason = OTHERS[kind]
    assert checked(data) == [reason]


@pytest.mark.parametrize("whole", [GOOD, PROGRESSIVE, RESTARTS, UNUSUAL["EXIF with a picture inside"]])
def test_a_jpeg_that_is_cut_anywhere_is_refused(whole: bytes) -> None:
    cuts = [whole[:n] for n in [*range(1, len(whole) - 2, 7), len(whole) - 2, len(whole) - 1]]
    assert not [len(cut) for cut, found in zip(cuts, checked(*cuts), strict=True) if isinstance(found, JpegHeader)]


@pytest.mark.parametrize("whole", [GOOD, RESTARTS, PROGRESSIVE])
@pytest.mark.parametrize("behind", [b"\xff\xd9", TRAILER, bytes(200), GOOD])
def test_a_cut_jpeg_with_something_behind_it_is_refused(whole: bytes, behind: bytes) -> None:
    cuts = [whole[:n] + behind for n in range(whole.index(b"\xff\xda") + 14, len(whole) - 40, 29)]
    assert not [len(cut) for cut, found in zip(cuts, checked(*cuts), strict=True) if isinstance(found, JpegHeader)]


def test_a_large_image_is_checked_to_its_end() -> None:
    large = jpeg(4100, 4110, quality=30)
    whole, cut = checked(large, large[: len(large) // 2] + large[-2:])
    assert isinstance(whole, JpegHeader)
    assert whole[:2] == (4100, 4110)
    assert cut is Reason.UNDECODABLE
