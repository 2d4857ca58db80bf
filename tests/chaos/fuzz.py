"""Mutated archives, labels, pictures and checkpoints raise only the declared errors, or read as an oracle reads them.

    python -m tests.chaos.fuzz --minutes 5

Hypothesis draws the mutations.  The oracles are `zipfile`, `tarfile`, `json` and OpenCV.  Each example may take
`DEADLINE`, and `MEMORY` bytes as Python counts them.  tests/test_fuzz.py tries the same few hundred each time.
"""

from __future__ import annotations

import io
import json
import math
import sys
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from dali_pipes.command import parse as parse_arguments
from dali_pipes.errors import InputError, UnreadableMember
from dali_pipes.release import byte_range, tar_members
from dali_pipes.release.archive import Archive
from dali_pipes.release.byte_range import ByteRange, Segment
from dali_pipes.samples.jpeg import read_header
from dali_pipes.samples.via import Reason, parse
from model.torch_file import Unreadable, read_torch_file
from tests.conftest import jpeg, via_label
from tests.test_samples import with_exif

DEADLINE = timedelta(seconds=2)
MEMORY = 8 << 20  # most bytes that Python may allocate while something hostile is opened and read
TURN = 1000  # mutations of each kind, then the next kind


def fuzzed(examples: int, *, random: bool) -> settings:
    """Hypothesis draws so many `examples`: others each time if `random`, otherwise the same ones."""
    return settings(
        max_examples=examples,
        deadline=DEADLINE,
        derandomize=not random,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@contextmanager
def bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def a_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/K3_1.jpg", b"stored" * 20)
        archive.writestr("a/K3_2.jpg", b"deflated" * 20, zipfile.ZIP_DEFLATED)
        with archive.open("a/K3_3.jpg", "w", force_zip64=True) as member:
            member.write(b"wide" * 20)
        archive.writestr("원천/K3_4.jpg", b"Korean")
        archive.comment = b"a comment"
    return out.getvalue()


def a_tar(layout: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as tar:
        for i, name in enumerate(
            ("short", "긴이름/" * 20 + "part0", "다운로드/TS_KS.zip.part1073741824", "d/" * 60 + "x")
        ):
            info = tarfile.TarInfo(name)
            info.size = 100 * i
            tar.addfile(info, io.BytesIO(bytes([i]) * info.size))
    return out.getvalue().rstrip(b"\0") + bytes(1024)


ZIP, GNU_TAR, PAX_TAR = a_zip(), a_tar(tarfile.GNU_FORMAT), a_tar(tarfile.PAX_FORMAT)


def a_checkpoint() -> dict[str, bytes]:
    out = io.BytesIO()
    state = {"w": torch.arange(12.0).reshape(3, 4).T, "b": torch.ones(2, dtype=torch.bfloat16)}
    torch.save(
        {"model": state, "stats": (0.2, 0.1, 109.0, 49.0), "about": {"scenes": ["K3"], "x": [None, True, 7]}}, out
    )
    with zipfile.ZipFile(out) as archive:
        return {"x/" + name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


CHECKPOINT = a_checkpoint()
PICKLE = CHECKPOINT["x/data.pkl"]
JPEGS = [jpeg(24, 40), with_exif(jpeg(24, 40), 6), jpeg(513, 7)]
LABEL = json.dumps(
    via_label("K3_1.jpg", [[(10, 20), (30, 40)], [(1, 2), (3, 4), (5, 6)]], img_resolution="0.7", img_roll_tilt="-16.7")
).encode()

odd_values = st.recursive(
    st.sampled_from([None, True, 0, -1, 10**400, "", "polyline", "1e999", "-0", " 7 ", "1_0", "٣", "NaN", 1e300, 2.5])
    | st.floats()
    | st.integers(0, 600)
    | st.integers(0, 600).map(str)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
numbers = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)


@st.composite
def mutated(draw: st.DrawFn, *originals: bytes) -> bytes:
    """An original with bytes overwritten, a run of it repeated, removed or moved, and perhaps cut."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        length = draw(st.integers(1, 8) | st.integers(1, 200))
        what = draw(st.sampled_from(["overwrite", "overwrite", "overwrite", "remove", "repeat", "move", "cut"]))
        run = bytes(data[at : at + length])
        if what == "overwrite":
            new = draw(st.binary(min_size=1, max_size=8) | st.lists(numbers, min_size=1, max_size=8).map(bytes))
            data[at : at + len(new)] = new
        elif what == "cut":
            data = data[: max(at, 1)]
        elif what == "repeat":
            data[at:at] = run
        else:
            del data[at : at + length]
            if what == "move":
                to = draw(st.integers(0, len(data)))
                data[to:to] = run
        if not data:
            return b"\0"
    return bytes(data)


def rechecked(tar: bytes) -> bytes:
    """The same tar with the checksum of each header corrected, so that a mutation gets past the check."""
    blocks = [bytearray(tar[at : at + 512]) for at in range(0, len(tar), 512)]
    for block in blocks:
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


@st.composite
def mutated_values(draw: st.DrawFn) -> bytes:
    """The label with some of its values, at any depth, replaced by others."""
    document = json.loads(LABEL)
    for _ in range(draw(st.integers(1, 3))):
        parent, value = None, document
        while isinstance(value, (dict, list)) and value and (parent is None or draw(st.integers(0, 5))):
            parent, key = value, draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
            value = parent[key]
        if parent is not None:
            parent[key] = draw(odd_values)
    return json.dumps(document).encode()


def in_pieces(folder: str, data: bytes, cut: int) -> ByteRange:
    """The bytes in two files, so that members straddle them."""
    files = []
    for i, piece in enumerate((data[:cut], data[cut:])):
        (file := Path(folder) / str(i)).write_bytes(piece)
        files.append(Segment(file, 0, len(piece)))
    return ByteRange(files, "pieces")


def zipfile_reads(archive: zipfile.ZipFile, path: str) -> bytes | None:
    """What the standard library reads, or None if it refuses."""
    try:
        return archive.read(path)
    except Exception:
        return None


@given(data=mutated(ZIP), cut=st.integers(0, 600))
@example(data=ZIP, cut=100)
def a_mutated_zip_reads_as_zipfile_reads_it_or_not_at_all(data: bytes, cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded_memory():
        try:
            mine = Archive(in_pieces(folder, data, cut))
        except InputError:
            return
        read: dict[str, bytes] = {}
        for i, name in enumerate(mine.names):
            with suppress(UnreadableMember):
                read[name] = mine.read(i).tobytes()
        try:
            oracle = zipfile.ZipFile(io.BytesIO(data))
        except Exception:
            return  # it is stricter, for example about a month of 13 in a timestamp
        theirs = [(zip_name(info), zipfile_reads(oracle, info.filename)) for info in oracle.infolist()]
        for name, bytes_read in read.items():
            same_name = [theirs_read for their_name, theirs_read in theirs if their_name == name]
            agreed = [x for x in same_name if x is not None]
            assert not agreed or bytes_read in agreed


def zip_name(info: zipfile.ZipInfo) -> str:
    """The name as `Archive` has it: without the UTF-8 flag it is decoded by its bytes."""
    raw = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "surrogateescape")
    return byte_range.decode(raw).replace("\\", "/").rsplit("/", 1)[-1]


@given(data=mutated(GNU_TAR, PAX_TAR).map(rechecked))
@example(data=GNU_TAR)
@example(data=PAX_TAR)
def a_mutated_tar_lists_what_tarfile_lists_or_nothing(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded_memory():
        try:
            mine = list(tar_members.plain_files(in_pieces(folder, data, len(data) // 2)))
        except InputError:
            return
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:", errors="surrogateescape") as oracle:
                theirs = [info for info in oracle.getmembers() if info.isreg()]
        except Exception:
            return
        listed = {member.offset: member for member in mine}
        for info in theirs:
            member = listed.pop(info.offset_data, None)
            if member is None:  # a folder: tarfile removes the last slash of a pax path
                assert info.pax_headers.get("path", info.name).endswith("/")
                continue
            assert member.length == info.size
            name = byte_range.decode(info.name.encode("utf-8", "surrogateescape"))
            # tarfile takes GNU's fields for a prefix, and reads a name without a NUL to the end of its block.
            assert name.startswith(member.path) or name.endswith(f"/{member.path}")


@given(data=mutated_values() | mutated(LABEL))
@example(data=LABEL)
def a_mutated_label_is_read_as_json_reads_it_or_refused(data: bytes) -> None:
    with bounded_memory():
        try:
            tiles = parse(data)
        except ValueError:
            return
    document = json.loads(data.decode("utf-8-sig"))
    for tile, image in zip(tiles, document.values(), strict=True):
        assert image["filename"].replace("\\", "/").endswith(tile.filename)
        for region in tile.regions:
            regions = image["regions"]
            plain = list(regions.values() if isinstance(regions, dict) else regions)[region.index]
            shape = plain["shape_attributes"]
            assert region.points.T.tolist() == [[float(v) for v in shape[f"all_points_{axis}"]] for axis in "xy"]
            assert region.height == float(plain["region_attributes"]["chi_height_m"])
            assert np.isfinite(region.points).all()
            assert math.isfinite(region.height)
            assert region.height > 0


@given(data=mutated(*JPEGS))
@example(data=JPEGS[0])
@example(data=JPEGS[1])
def the_size_of_a_mutated_jpeg_is_that_of_the_decoder(data: bytes) -> None:
    with bounded_memory():
        header = read_header(data)
    if isinstance(header, Reason) or header.height * header.width > 1 << 20:  # the decoder's own memory has no bound
        return
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is not None:
        assert decoded.shape[:2] == (header.height, header.width)


@given(data=mutated(PICKLE))
@example(data=PICKLE)
def a_checkpoint_with_a_mutated_pickle_and_right_checksums_holds_plain_values_or_is_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, bounded_memory():
        with zipfile.ZipFile(Path(folder) / "x.pt", "w") as archive:
            for name, content in {**CHECKPOINT, "x/data.pkl": data}.items():
                archive.writestr(name, content)
        try:
            contents = read_torch_file(Path(folder) / "x.pt")
        except Unreadable:
            return
    assert_plain(contents)


def assert_plain(value: Any) -> None:
    """No objects of other classes come out of a pickle, and each tensor lies within its bytes."""
    if isinstance(value, torch.Tensor):
        used = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
        assert 0 in value.shape or value.storage_offset() + used <= value.untyped_storage().size() // value.itemsize
    elif isinstance(value, (list, tuple)):
        for each in value:
            assert_plain(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            assert_plain(key)
            assert_plain(each)
    else:
        assert value is None or type(value) in (bool, int, float, str, bytes, complex), type(value)


PROPERTIES = (
    a_mutated_zip_reads_as_zipfile_reads_it_or_not_at_all,
    a_mutated_tar_lists_what_tarfile_lists_or_nothing,
    a_mutated_label_is_read_as_json_reads_it_or_refused,
    the_size_of_a_mutated_jpeg_is_that_of_the_decoder,
    a_checkpoint_with_a_mutated_pickle_and_right_checksums_holds_plain_values_or_is_refused,
)


@dataclass(frozen=True)
class Arguments:
    """Try random mutations until the time is over."""

    minutes: float = 5
    """For all properties together."""

    seed: int = 0
    """Seed of the first turn; each further turn takes the next one."""


def main(argv: list[str]) -> None:
    """Print one JSON object.  The first mutation that breaks a property ends it, with that mutation in a traceback."""
    arguments = parse_arguments(Arguments, argv, module="tests.chaos.fuzz", description=__doc__)
    end, turns = time.monotonic() + 60 * arguments.minutes, 0
    many = [fuzzed(TURN, random=True)(each) for each in PROPERTIES]
    while time.monotonic() < end:
        for each in many:
            seed(arguments.seed + turns)(each)()
        turns += 1
        print(f"\r{turns * TURN} mutations of each kind", end="", file=sys.stderr, flush=True)
    print(json.dumps({"mutations": turns * TURN * len(many), "seeds": turns}))


if __name__ == "__main__":
    main(sys.argv[1:])
