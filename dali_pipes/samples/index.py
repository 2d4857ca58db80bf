"""The index of a release: every image is decoded once, on all cores, and the result is kept for later runs.

    paths = ReleasePaths(Path("DIR"), index_cache=Path("runs/index-cache"))
    table, listing = open_index(paths, "train")
    refuse_above(0.01, "train", table, listing)

The checksum, the headers and the entropy-coded data of each image are checked here, so that no damaged image reaches a
batch. Like the loader, this decodes `pixels_only`, without the segments that may be odd in an intact image. The decoder
is simplejpeg in strict mode, because no other one names the damaged image: DALI fails for a whole batch without naming
the sample, and, like OpenCV, accepts a truncated JPEG and fills the rest with grey. All three use libjpeg-turbo;
simplejpeg turns its warning into an error and is as fast (`python -m bench.index`).

On a CPU, its pixels are those of DALI to the bit. A run that caches its tiles there keeps them while they are checked,
so that each image is read and decoded once: see batches/first_pass.py. A GPU decodes with nvJPEG, whose pixels differ.

The cache has two files per split, named by a fingerprint of the archives: the table, and `….left_out.csv`, which lists
everything that was skipped. They are written whole or not at all. A file that is damaged, or belongs to other data or
another version, is built again. Processes that start together, such as the ranks of a node, use a file lock: the first
one builds, the others wait. If it dies, the kernel frees the lock and the next one builds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from simplejpeg import decode_jpeg

from ..console import activity, open_console, say
from ..errors import InputError
from ..files import alone, write_text
from ..release.find import open_split
from ..release.members import Members
from ..release.paths import ReleasePaths, Split
from .cache_folder import remove_unfinished
from .csv_text import escaped
from .jpeg import JpegHeader, pixels_only, usable_header
from .labels import Drawn, LeftOut
from .table import SampleTable
from .via import MOST_PIXELS, Reason

DAMAGE = (Reason.DAMAGED, Reason.NOT_A_JPEG, Reason.TRUNCATED, Reason.UNDECODABLE)  # another download may help
LARGE = 1 << 24  # pixels; decoding a larger image would take more than 50 MB per thread
PART = 32  # images per task: starting a task costs a twentieth of a decode

Keep = Callable[[int, NDArray[np.uint8]], object]
"""Is called with the number of each intact image and its pixels (h, w, 3), which are valid during the call only.

Several threads call it at the same time. An image of more than `LARGE` pixels is not passed on.
"""

Keeper = Callable[[Members, Sequence[int], Drawn], Keep | None]
"""(images, numbers, polylines) → what keeps the pixels of these images, or None."""


class Index(NamedTuple):
    """The samples that can be used, and the CSV file that lists what was skipped (None without a cache)."""

    table: SampleTable
    listing: Path | None


def open_index(
    paths: ReleasePaths,
    split: Split,
    *,
    console: Console | None = None,
    threads: int | None = None,
    keeper: Keeper | None = None,
) -> Index:
    """Return the checked samples of one split, read from `paths.index_cache` if they are there, otherwise built.

    Building uses `threads` threads, by default one per core, and shows its progress on `console`, by default stderr.
    `keeper` gets the decoded images if the table is built.
    Raises InputError if an archive is missing or damaged, if no sample is left, or if the cache cannot be written.
    """
    console = console or open_console(stderr=True)
    with activity(console, f"reading the {split} split"):
        jpegs, texts = open_split(paths, split)
        for note in filter(None, (jpegs.note, texts.note)):
            say(console, note)
        build = partial(_build, texts, jpegs, split, console, threads or _cores(), keeper)
        return _cached(paths.index_cache, split, jpegs, texts, build)


def _cached(
    cache: Path | None, split: Split, jpegs: Members, texts: Members, build: Callable[[], SampleTable]
) -> Index:
    """Read the table from `cache`, or build it and write it there."""
    if cache is None:
        return Index(build(), None)
    key = hashlib.sha256(f"{jpegs.fingerprint()} {texts.fingerprint()}".encode()).hexdigest()[:32]
    path, listing = cache / f"{split}-{key}.npz", cache / f"{split}-{key}.left_out.csv"
    remove_unfinished(cache)
    with suppress(InputError):
        return _load(path, listing, jpegs, key)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with alone(cache / f"{split}-{key}.lock"):
            with suppress(InputError):  # another process may have built it in the meantime
                return _load(path, listing, jpegs, key)
            table = build()
            _write_listing(listing, table.left_out)
            table.save(path, key)
    except OSError as error:
        raise InputError(
            f"the index cache {cache} cannot be written: {error.strerror or error}; choose another --index-cache"
        ) from None
    return Index(table, listing)


def _load(path: Path, listing: Path, images: Members, key: str) -> Index:
    index = Index(SampleTable.load(path, images, key), listing)
    for file in (path, listing):
        with suppress(OSError):  # on a read-only disk they keep their time of last use
            os.utime(file)
    return index


def refuse_above(max_bad: float, split: str, table: SampleTable, listing: Path | None = None) -> None:
    """Raise InputError, with counts by reason, if a larger share of the tiles than `max_bad` was skipped, even in part.

    An image without a label does not count: a release may have images without chimneys.
    """
    left_out = [item for item in table.left_out if item.reason != Reason.NO_LABEL]
    bad = {item.file for item in left_out}
    tiles = len(bad.union(np.unique(table.tile).tolist()))
    if len(bad) <= max_bad * tiles:
        return
    reasons = "; ".join(
        f"{count} because {reason.value}" for reason, count in Counter(item.reason for item in left_out).most_common()
    )
    is_damaged = any(item.reason in DAMAGE for item in left_out)
    advice = "download the damaged archives again" if is_damaged else "correct them"
    listed = f", all listed in {listing}" if listing else ""
    raise InputError(
        f"{len(bad)} of the {tiles} {split} tiles cannot be used in whole, more than --max-bad {max_bad:g} allows:"
        f" {reasons}{listed}; {advice}, or raise --max-bad"
    )


class Verified(Members):
    """The members of an archive; each read compares the bytes with the recorded checksum."""

    def __init__(self, archive: Members) -> None:
        self.names, self.where = archive.names, archive.where
        self._archive = archive

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of member `index` as (n,) uint8. Raises InputError if their checksum is wrong."""
        data = self._archive.read(index)
        recorded = self._archive.crc(index)
        if recorded is not None and zlib.crc32(data.data) != recorded:
            raise InputError(f"member {self.names[index]!r} does not match its checksum; download the archive again")
        return data


def check_by_decoding(
    images: Members,
    wanted: Sequence[int],
    *,
    title: str,
    console: Console,
    threads: int,
    most_pixels: int = MOST_PIXELS,
    keep: Keep | None = None,
) -> Iterator[JpegHeader | Reason]:
    """Decode each image → its header or the reason why it cannot be used; `keep` gets the pixels.

    In `threads` threads: the decoder releases the GIL.
    """
    parts = [wanted[i : i + PART] for i in range(0, len(wanted), PART)]
    decode = partial(_decode, Verified(images), most_pixels, keep)
    with ThreadPoolExecutor(threads) as executor, activity(console, title, len(wanted)) as shown:
        try:
            for checked in executor.map(decode, parts):
                yield from checked
                shown.done += len(checked)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def _decode(images: Members, most_pixels: int, keep: Keep | None, part: Sequence[int]) -> list[JpegHeader | Reason]:
    pixels = np.empty(0, np.uint8)  # one buffer for all: allocating one per image takes half as long as decoding
    checked: list[JpegHeader | Reason] = []
    for image in part:
        try:
            data = images.read(image)
        except InputError:
            checked.append(Reason.DAMAGED)
            continue
        jpeg = usable_header(data, most_pixels)
        if isinstance(jpeg, JpegHeader):
            size = 3 * math.prod(_decoded_size(jpeg))
            pixels = pixels if pixels.size >= size else np.empty(size, np.uint8)
            decoded = decode_whole(data, jpeg, pixels)
            if isinstance(decoded, Reason):
                jpeg = decoded
            elif keep and decoded.shape[:2] == jpeg[:2]:
                keep(image, decoded)
        checked.append(jpeg)
    return checked


def _decoded_size(jpeg: JpegHeader) -> tuple[int, int]:
    """Height and width to decode to: a large image is decoded to an eighth, so that it takes little memory."""
    divisor = 8 if jpeg.height * jpeg.width > LARGE else 1
    return -(-jpeg.height // divisor), -(-jpeg.width // divisor)


def decode_whole(data: NDArray[np.uint8], jpeg: JpegHeader, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | Reason:
    """Decode the JPEG `data` (n,) uint8 into the buffer `pixels` → (h, w, 3), or why it does not decode to its end."""
    height, width = _decoded_size(jpeg)
    try:
        decoded = decode_jpeg(
            pixels_only(data), "RGB", min_height=height, min_width=width, min_factor=1, buffer=pixels, strict=True
        )
    except ValueError as error:  # also raised if a second header needs a larger buffer than the first
        return Reason.TRUNCATED if "Premature end of JPEG file" in str(error) else Reason.UNDECODABLE
    return decoded if decoded.shape == (height, width, 3) else Reason.UNDECODABLE


def _build(
    labels: Members, images: Members, split: Split, console: Console, threads: int, keeper: Keeper | None
) -> SampleTable:
    def check(images: Members, wanted: Sequence[int], drawn: Drawn) -> Iterator[JpegHeader | Reason]:
        keep = keeper(images, wanted, drawn) if keeper else None
        title = f"checking {split} tiles"
        return check_by_decoding(images, wanted, title=title, console=console, threads=threads, keep=keep)

    return SampleTable.from_labels(Verified(labels), images, where=labels.where, check=check)


def _write_listing(path: Path, left_out: Sequence[LeftOut]) -> None:
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(LeftOut._fields)
    rows.writerows((escaped(item.file), item.region, item.reason.value) for item in left_out)
    write_text(path, text.getvalue())


def _cores() -> int:
    return len(os.sched_getaffinity(0))
