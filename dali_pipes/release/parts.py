"""Join the parts of a ZIP, as AI Hub's download tool writes them.

Each part is numbered by its first byte in the ZIP: `TS_KS.zip.part0`, `TS_KS.zip.part1073741824`, …. Other tools count
the parts, from 0 or 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ..errors import CutShort, InputError
from . import zip_members
from .byte_range import ByteRange
from .listing import ListedFile

PART = re.compile(r"(.+\.zip)\.part([0-9]{1,19})", re.IGNORECASE | re.DOTALL)

Numbered = Sequence[tuple[int, ListedFile]]


def join_parts(parts: Numbered) -> ByteRange:
    """Return the ZIP that is made of parts (number, file). Raises InputError if one is missing or overlaps another."""
    parts = sorted(parts, key=lambda part: part[0])
    whole = PART.sub(r"\1", parts[0][1].where)
    if _are_counted(parts):
        _refuse_count_gap(parts, whole)
    else:
        _refuse_byte_gap(parts, whole)
    last = parts[-1][1]
    segments = [segment for _, file in parts for segment in file.bytes().segments]
    joined = ByteRange(segments, f"{parts[0][1].where} (parts: {len(parts)})")
    try:
        zip_members.find_end(joined)
    except CutShort:
        following = parts[-1][0] + 1 if _are_counted(parts) else joined.size
        raise InputError(
            f"expected a central directory at the end of {whole}, found none in the last of its {len(parts)} parts:"
            f" one that begins at byte {joined.size} is missing, or {last.where} is damaged; download"
            f" {os.path.basename(whole)}.part{following} again"
        ) from None
    return joined


def _are_counted(parts: Numbered) -> bool:
    """Return whether the numbers count the parts: more than one, all small, and too small to be first bytes."""
    numbers = [number for number, _ in parts]
    return 1 < len(parts) == len(set(numbers)) and numbers[-1] <= 2 * len(parts) and numbers[1] < parts[0][1].length


def _refuse_count_gap(parts: Numbered, whole: str) -> None:
    first = min(parts[0][0], 1)
    missing = set(range(first, parts[-1][0])) - {number for number, _ in parts}
    if missing:
        raise InputError(
            f"expected parts of {whole} that count {first}, {first + 1}, {first + 2}, …, found no part {min(missing)};"
            f" download {os.path.basename(whole)}.part{min(missing)} again"
        )


def _refuse_byte_gap(parts: Numbered, whole: str) -> None:
    end, previous = 0, ""
    for offset, file in parts:
        if offset > end:
            raise InputError(
                f"expected a part of {whole} that begins at byte {end}, found {file.where} to be the next: bytes"
                f" {end} to {offset - 1} are missing; download {os.path.basename(whole)}.part{end} again"
            )
        if offset < end:
            raise InputError(
                f"expected the next part of {whole} to begin at byte {end}, where {previous} ends, found {file.where}"
                f" to begin at byte {offset}; keep the parts of one download only, and move the others elsewhere"
            )
        end, previous = end + file.length, file.where
