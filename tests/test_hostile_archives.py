"""Hostile archives: each kind is refused in one sentence, loses one member, or is read in full.

A release here has two tiles, `good_1` and `bad_1`. `REFUSED` archives raise InputError. `ONE_MEMBER` archives can be
opened and `good_1.jpg` read, while `bad_1.jpg` is unreadable with a reason. `READ` archives are unusual but valid. None
may take more memory than `bounded_memory` allows.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dali_pipes.errors import InputError, UnreadableMember
from dali_pipes.release.archive import Archive
from dali_pipes.release.find import open_split
from dali_pipes.release.paths import ReleasePaths
from tests.chaos.fuzz import bounded_memory
from tests.conftest import jpeg

GOOD, BAD = jpeg(64, 64, seed=1), jpeg(64, 96, seed=2)
END, LOCATOR64, END64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    with bounded_memory():
        yield


def packed(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytearray:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return bytearray(out.getvalue())


def both(method: int = zipfile.ZIP_STORED, bad: bytes = BAD, name: str = "bad_1.jpg") -> bytearray:
    return packed(("good_1.jpg", GOOD), (name, bad), method=method)


def patched(layout: str, *fields: tuple[int, int], at: bytes = b"", data: bytearray | None = None) -> bytearray:
    """Overwrite (offset, value) fields of the last record with the magic `at`, by default bad_1's directory entry."""
    data = data or both()
    record = data.rfind(at or b"PK\x01\x02")
    for offset, value in fields:
        struct.pack_into(layout, data, record + offset, value)
    return data


def with_zip64(count: int = 2, end_shift: int = 0) -> bytearray:
    """The same archive with the end records of ZIP64."""
    data = both()
    at = data.rfind(END)
    length, offset = struct.unpack_from("<2L", data, at + 12)
    record = struct.pack("<4sQ2H2L4Q", END64, 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sLQL", LOCATOR64, 0, at + end_shift, 1)
    end = struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:at] + record + locator + end


def with_extra(sizes: bytes) -> bytearray:
    """bad_1's sizes saturated, and those of the ZIP64 field `sizes` in their place."""
    data = patched("<L", (20, 0xFFFFFFFF), (24, 0xFFFFFFFF))
    struct.pack_into("<H", data, data.rfind(b"PK\x01\x02") + 30, len(sizes))
    end = data.rfind(END)
    (length,) = struct.unpack_from("<L", data, end + 12)
    struct.pack_into("<L", data, end + 12, length + len(sizes))
    return data[:end] + sizes + data[end:]


def streamed() -> bytes:
    """Written to a pipe: the sizes are in descriptors after the data."""

    class Pipe(io.RawIOBase):
        written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.written += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good_1.jpg", GOOD)
        archive.writestr("bad_1.jpg", BAD)
    return bytes(pipe.written)


def flipped(data: bytearray, at: int) -> bytearray:
    data[at] ^= 0x40
    return data


def tarred(name: str = "TS_KS.zip", data: bytes | None = None, **header: object) -> bytearray:
    """The archive of the images in a tar, with other values in the header."""
    data = bytes(both()) if data is None else data
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in header.items():
            setattr(info, field, value)
        tar.addfile(info, io.BytesIO(data))
    return bytearray(out.getvalue())


def reheaded(at: int, field: bytes, tar: bytearray | None = None) -> bytearray:
    """A field of the first header overwritten, and its checksum corrected."""
    tar = tar or tarred()
    tar[at : at + len(field)] = field
    tar[148:156] = b" " * 8
    tar[148:156] = b"%06o\0 " % sum(tar[:512])
    return tar


def pax(record: bytes) -> bytearray:
    return tarred("x", record, type=b"x")[:1024] + tarred()


Kind = Callable[[], "bytes | bytearray"]
REFUSED: dict[str, tuple[Kind, str]] = {
    "an empty file": (lambda: b"", "its 0 bytes do not end with a central directory"),
    "a page of HTML": (lambda: b"<html>please log in</html>", "found a web page; log in"),
    "a RAR archive": (lambda: b"Rar!\x1a\x07\x01\x00" + bytes(99), "found a RAR archive; unpack it into a folder"),
    "a tar with another name": (tarred, r"found a tar; give it a name in \.tar"),
    "a line behind the ZIP": (lambda: both() + b"\n", "found 1 more bytes; copy the ZIP without them, by `head -c"),
    "parts joined in a wrong order": (
        lambda: (d := both())[:999] + d[-500:] + d[999:-500],
        r"its parts were joined in a wrong order, .*by number: `cat \$\(ls -v TS_KS\.zip\.part\*\) > TS_KS\.zip`",
    ),
    "cut in the middle": (lambda: both()[:3000], "do not end with a central directory"),
    "cut in its last record": (lambda: both()[:-1], "do not end with a central directory"),
    "bit flip in the last record's magic": (lambda: flipped(both(), -21), "do not end with a central directory"),
    "count one too high": (lambda: patched("<H", (8, 3), (10, 3), at=END), "counts 3 members and has 2"),
    "count one too low": (lambda: patched("<H", (8, 1), (10, 1), at=END), "counts 1 members and has 2"),
    "counts that disagree": (lambda: patched("<H", (8, 1), at=END), "one disk of a ZIP split over several"),
    "second disk of two": (lambda: patched("<H", (4, 1), at=END), "one disk of a ZIP split over several"),
    "directory longer than the file": (lambda: patched("<L", (12, 1 << 30), at=END), "reaches beyond byte"),
    "directory shorter than it is": (lambda: patched("<L", (12, 40), at=END), "no entry at byte"),
    "directory beyond the file": (lambda: patched("<L", (16, 1 << 31), at=END), "reaches beyond byte"),
    "bit flip in an entry's magic": (lambda: patched("<B", (2, 3)), "no entry at byte"),
    "name longer than the directory": (lambda: patched("<H", (28, 0xFFFF)), "counts|no entry|beyond"),
    "extra field longer than the directory": (lambda: patched("<H", (30, 0xFFFF)), "counts|no entry|beyond"),
    "ZIP64 directory that ends beyond the file": (lambda: with_zip64(end_shift=1 << 40), "recorded to end at byte"),
    "ZIP64 directory that is elsewhere": (lambda: with_zip64(end_shift=-7), "no end of a ZIP64 directory"),
    "ZIP64 count of 2^60": (lambda: with_zip64(count=1 << 60), "counts 1152921504606846976 members"),
    "nothing readable": (
        lambda: patched("<H", (10, 14), data=packed(("bad_1.jpg", BAD))),
        "found none that can be read; of the first, 'bad_1.jpg', it is neither stored nor deflated",
    ),
}
ONE_MEMBER: dict[str, tuple[Kind, str]] = {
    "encrypted": (lambda: patched("<H", (8, 1)), "encrypted"),
    "compressed by LZMA": (lambda: patched("<H", (10, 14)), "compressed by method 14"),
    "sizes that disagree": (lambda: patched("<L", (24, 1)), "bytes are recorded as stored for its 1$"),
    "a size that leads beyond the file": (
        lambda: patched("<L", (20, 1 << 25), (24, 1 << 25)),
        "reach into what begins",
    ),
    "a size of 2 GB": (lambda: patched("<L", (20, 1 << 31), (24, 1 << 31)), "more than the 64 MiB allowed"),
    "a size of 10 GB": (lambda: with_extra(struct.pack("<2H2Q", 1, 16, *[10 << 30] * 2)), "10737418240 bytes are more"),
    "ZIP64 sizes that are missing": (lambda: with_extra(b""), "ZIP64 sizes are missing"),
    "ZIP64 sizes cut short": (lambda: with_extra(struct.pack("<2HQ", 1, 8, 10)), "ZIP64 sizes are missing"),
    "ZIP64 field that leads beyond itself": (lambda: with_extra(struct.pack("<2HQ", 1, 999, 10)), "sizes are missing"),
    "an offset to its neighbour": (lambda: patched("<L", (42, 0)), "another name"),
    "an offset beyond the file": (lambda: patched("<L", (42, 1 << 31)), "reaches into what begins"),
    "an offset into the directory": (
        lambda: patched("<L", (42, both().find(b"PK\x01\x02"))),
        "reaches into what begins",
    ),
    "another disk": (lambda: patched("<H", (34, 7)), "disk 7"),
    "bit flip in its local magic": (lambda: flipped(d := both(), d.rfind(b"PK\x03\x04")), "local header is not where"),
    "bit flip in its local name": (lambda: flipped(d := both(), d.rfind(b"PK\x03\x04") + 32), "another name"),
    "local name longer than the file": (
        lambda: patched("<H", (26, 0xFFFF), at=b"PK\x03\x04"),
        "its local header has another name",
    ),
    "local extra field longer than the file": (
        lambda: patched("<H", (28, 0xFFFF), at=b"PK\x03\x04"),
        "reach into what",
    ),
    "a bomb that says so": (
        lambda: patched("<L", (24, 1 << 30), data=both(zipfile.ZIP_DEFLATED, bytes(1 << 20))),
        "its 1073741824 bytes are more than the 64 MiB allowed",
    ),
    "a bomb that does not": (
        lambda: patched("<L", (24, 1000), data=both(zipfile.ZIP_DEFLATED, bytes(1 << 20))),
        "1000 bytes were recorded, found more",
    ),
    "deflated data that are none": (
        lambda: flipped(d := both(zipfile.ZIP_DEFLATED), d.rfind(b"PK\x03\x04") + 39),
        "deflated data are broken|bytes were recorded",
    ),
    "two pictures under one name": (
        lambda: packed(("good_1.jpg", GOOD), ("a/bad_1.jpg", BAD), ("b/bad_1.jpg", GOOD)),
        "its name is there twice, as 'a/bad_1.jpg' and 'b/bad_1.jpg'",
    ),
}
READ: dict[str, Kind] = {
    "an absolute name": lambda: both(name="/etc/bad_1.jpg"),
    "a name that climbs": lambda: both(name="../../../bad_1.jpg"),
    "a name of Windows": lambda: both(name="C:\\Users\\bad_1.jpg"),
    "a folder in cp949": lambda: both(name="xxxx/bad_1.jpg").replace(b"xxxx", "원천".encode("cp949")),
    "a folder that is no text": lambda: both(name="xxxx/bad_1.jpg").replace(b"xxxx", b"\xff\xfe\x80\x81"),
    "ZIP64": with_zip64,
    "ZIP64 sizes": lambda: with_extra(struct.pack("<2H2Q", 1, 16, len(BAD), len(BAD))),
    "a program before the ZIP": lambda: b"MZ" * 500 + both(),
    "sizes behind the data": streamed,
    "the same picture twice": lambda: packed(("good_1.jpg", GOOD), ("a/bad_1.jpg", BAD), ("b/bad_1.jpg", BAD)),
    "in a tar": tarred,
    "in a tar without an end": lambda: tarred()[: 512 + -(-len(both()) // 512) * 512],
    "in a tar with sizes in base 256": lambda: reheaded(124, b"\x80" + len(both()).to_bytes(11, "big")),
    "in a tar behind a link of its name": lambda: tarred("x", b"", type=b"2", linkname="/etc")[:512] + tarred(),
    "in a pax tar with odd records": lambda: pax(b"30 path=/tmp/../\xec\x9b\x90/TS_KS.zip\n" + b"11 none=42\n"),
}
BAD_TARS: dict[str, tuple[Kind, str]] = {
    "tar cut in its data": (lambda: tarred()[:2000], "beyond the end, 2000"),
    "tar cut in a header": (lambda: tarred()[:300], "cut short in a header"),
    "tar with a bit flip in a header": (lambda: flipped(tarred(), 3), "no member's header"),
    "compressed tar": (lambda: gzip.compress(tarred()), "a compressed tar has to be decompressed first|cut short"),
    "tar with a negative size": (lambda: reheaded(124, b"\xff" * 12), "a size of -1 bytes"),
    "tar with a size of 2^80": (lambda: reheaded(124, b"\x80" + bytes([1]) + bytes(10)), "beyond the end"),
    "tar with a size that is no number": (lambda: reheaded(124, b"0x00000012\0 "), "has the size"),
    "tar with a name of a gigabyte": (
        lambda: reheaded(124, b"%011o\0" % (1 << 30), tarred("x", b"", type=b"L")),
        "beyond the end",
    ),
    "tar with a name of 100 kB": (lambda: tarred("x", bytes(100_000), type=b"L") + tarred(), "100000 bytes is longer"),
    "sparse tar": (lambda: reheaded(156, b"S"), "sparse"),
    "pax tar with a broken record": (lambda: pax(b"99 path=TS_KS.zip\n"), "pax header is broken"),
    "pax tar with a record of no length": (lambda: pax(b"0 path=TS_KS.zip\n"), "pax header is broken"),
    "pax tar with a size that lies": (lambda: pax(b"20 size=99999999999\n"), "beyond the end"),
    "pax tar with a size that is no number": (lambda: pax(b"11 size=-1\n"), "the size '-1'"),
    "pax tar with a sparse file": (lambda: pax(b"22 GNU.sparse.major=1\n"), "sparse"),
}


def opened(folder: Path, data: bytes | bytearray, name: str = "TS_KS.zip") -> Archive:
    """The images of a release with valid labels."""
    (folder / name).write_bytes(data)
    (folder / "TL_KS_LINE.zip").write_bytes(packed(("good_1.json", b"{}")))
    images, _ = open_split(ReleasePaths(folder), "train")
    assert isinstance(images, Archive)
    return images


@pytest.mark.parametrize("kind", REFUSED)
def test_an_archive_that_contradicts_itself_is_refused(kind: str, tmp_path: Path) -> None:
    make, sentence = REFUSED[kind]
    with pytest.raises(InputError, match=rf"TS_KS\.zip.*({sentence})") as refusal:
        opened(tmp_path, make())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ONE_MEMBER)
def test_a_bad_member_is_unreadable_and_its_neighbour_is_not(kind: str, tmp_path: Path) -> None:
    make, reason = ONE_MEMBER[kind]
    images = opened(tmp_path, make())
    assert images.names == ["bad_1.jpg", "good_1.jpg"]
    assert images.read(1).tobytes() == GOOD
    with pytest.raises(UnreadableMember, match=r"TS_KS\.zip is damaged at member 'bad_1\.jpg'") as unreadable:
        images.read(0)
    assert re.search(reason, str(unreadable.value).removesuffix("; download it again"))


@pytest.mark.parametrize("kind", READ)
def test_an_unusual_but_valid_archive_is_read(kind: str, tmp_path: Path) -> None:
    images = opened(tmp_path, READ[kind](), "TS_KS.tar" if "tar" in kind else "TS_KS.zip")
    assert images.names == ["bad_1.jpg", "good_1.jpg"]
    assert [images.read(i).tobytes() for i in range(2)] == [BAD, GOOD]


@pytest.mark.parametrize("kind", BAD_TARS)
def test_a_tar_that_contradicts_itself_is_refused(kind: str, tmp_path: Path) -> None:
    make, sentence = BAD_TARS[kind]
    with pytest.raises(InputError, match=rf"download\.tar is no tar that can be read here: at byte \d+ .*({sentence})"):
        opened(tmp_path, make(), "download.tar")
