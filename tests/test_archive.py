"""Archives are read byte for byte as the standard library reads them, and damaged ones are refused by name."""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import re
import struct
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.errors import InputError, UnreadableMember
from dali_pipes.release.archive import Archive
from dali_pipes.release.byte_range import ByteRange, Segment


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w", request.param) as file:
        file.mkdir("폴더") if hasattr(file, "mkdir") else file.writestr("폴더/", b"")
        for i in range(20):
            name = zipfile.ZipInfo(f"폴더/K3_{i}.jpg")
            name.compress_type = request.param
            name.extra = b"\x99\x99\x04\x00abcd" * (i % 3)
            file.writestr(name, rng.integers(0, 4, i * 100, np.uint8).tobytes())
        file.comment = b"a comment, so that the end of the directory is not the end of the file"
    return path


def test_every_member_reads_as_zipfile_reads_it(archive: Path) -> None:
    mine = Archive(archive)
    with zipfile.ZipFile(archive) as oracle:
        members = [info for info in oracle.infolist() if not info.is_dir()]
        members.sort(key=lambda info: info.filename)
        assert mine.names == [info.filename.rsplit("/", 1)[-1] for info in members]
        for i, info in enumerate(members):
            assert mine.read(i).tobytes() == oracle.read(info)
            assert mine.crc(i) == info.CRC


def test_a_pickled_archive_reads_the_same_bytes(archive: Path) -> None:
    assert len(pickle.dumps(Archive(archive))) < 1000, "the map itself must not travel"
    there = pickle.loads(pickle.dumps(Archive(archive)))
    assert there.read(7).tobytes() == Archive(archive).read(7).tobytes()


def test_a_pickled_archive_is_refused_if_the_file_changed(archive: Path) -> None:
    pickled = pickle.dumps(Archive(archive))
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("K3_05.jpg", b"which would shift the numbers of those behind it")
    with pytest.raises(InputError, match=r"changed|is cut short"):
        pickle.loads(pickled)


@pytest.fixture
def in_three_pieces(archive: Path) -> Archive:
    """The archive in parts, so that members straddle their borders."""
    data, pieces = archive.read_bytes(), []
    for start, stop in itertools.pairwise((0, len(data) // 3, len(data) // 2, len(data))):
        (piece := archive.with_suffix(f".{start}")).write_bytes(data[start:stop])
        pieces.append(Segment(piece, 0, stop - start))
    return Archive(ByteRange(pieces, "some.zip in parts"))


def test_threads_and_forked_processes_read_the_same_bytes(archive: Path, in_three_pieces: Archive) -> None:
    expected = [Archive(archive).read(i).tobytes() for i in range(20)] * 20
    with ThreadPoolExecutor(4) as pool:
        assert [data.tobytes() for data in pool.map(in_three_pieces.read, list(range(20)) * 20)] == expected
    into, out = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: a fork of a process with threads
        child = os.fork()
    if child == 0:
        os.write(out, hashlib.sha256(b"".join(in_three_pieces.read(i).tobytes() for i in range(20))).digest())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(into, 32) == hashlib.sha256(b"".join(expected[:20])).digest()
    os.close(into)
    os.close(out)


def test_a_zip64_of_the_standard_library_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 50)
    with zipfile.ZipFile(tmp_path / "wide.zip", "w") as file:
        for i in range(9):
            file.writestr(f"K3_{i}.jpg", bytes([i]) * 40 * i)
    data = (tmp_path / "wide.zip").read_bytes()
    assert b"PK\x06\x06" in data
    assert b"\xff\xff\xff\xff" in data
    mine = Archive(tmp_path / "wide.zip")
    assert [mine.read(i).tobytes() for i in range(9)] == [bytes([i]) * 40 * i for i in range(9)]


def test_bytes_that_were_read_are_read_only(archive: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Archive(archive).read(3)[0] = 1


def test_a_comment_may_look_like_the_end_of_a_directory(archive: Path) -> None:
    expected = Archive(archive).names
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"a comment, so that the end", b"PK\x05\x06mment, so that the end"))
    assert Archive(archive).names == expected


def test_a_korean_windows_folder_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xxxx/K3_1.jpg", b"1")
    path.write_bytes(path.read_bytes().replace(b"xxxx", "원천".encode("cp949")))
    assert Archive(path).names == ["K3_1.jpg"]


@pytest.mark.parametrize("keep", [0, 1, 21, 200, -1, -30])
def test_a_cut_archive_is_refused(archive: Path, keep: int) -> None:
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"some\.zip"):
        Archive(archive)


def _patch_entry(path: Path, offset: int, layout: str, value: int) -> str:
    """Overwrite a field of the last member's central directory entry; returns that member's name."""
    data = bytearray(path.read_bytes())
    entry = data.rfind(b"PK\x01\x02")
    struct.pack_into(layout, data, entry + offset, value)
    path.write_bytes(data)
    return data[entry + 46 : entry + 46 + data[entry + 28]].decode().rpartition("/")[2]


@pytest.mark.parametrize(
    ("offset", "layout", "value", "sentence"),
    [
        (8, "<H", 1, "encrypted"),
        (10, "<H", 14, "compressed by method 14"),
        (20, "<L", 7, "bytes are recorded as stored|deflated data are broken|bytes were recorded"),
        (24, "<L", 1 << 31, "more than the 64 MiB allowed"),
        (42, "<L", 0, "another name|reaches into what begins at"),
        (42, "<L", 1, "reaches into what begins at"),
        (42, "<L", 2**31 - 1, "reaches into what begins at"),
    ],
)
def test_a_bad_member_costs_only_itself(archive: Path, offset: int, layout: str, value: int, sentence: str) -> None:
    good = [Archive(archive).read(i).tobytes() for i in range(20)]
    name = _patch_entry(archive, offset, layout, value)
    if value == 1 << 31:  # for stored members both sizes must agree to come so far
        _patch_entry(archive, 20, layout, value)
    mine = Archive(archive)
    for i in range(20):
        if mine.names[i] == name:
            with pytest.raises(UnreadableMember, match=rf"some\.zip.*{name}.*({sentence})"):
                mine.read(i)
        else:
            assert mine.read(i).tobytes() == good[i]


def test_an_archive_without_a_readable_member_is_refused(archive: Path) -> None:
    archive.write_bytes(re.sub(rb"(?s)(PK\x01\x02....).", lambda m: m[1] + b"\1", archive.read_bytes()))
    with pytest.raises(InputError, match=r"none that can be read; of the first, 'K3_0\.jpg', it is encrypted"):
        Archive(archive)


def test_a_member_that_inflates_to_more_than_its_recorded_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("K3_1.jpg", bytes(10_000_000))
    _patch_entry(path, 24, "<L", 1000)
    with pytest.raises(InputError, match="1000 bytes were recorded"):
        Archive(path).read(0)
