"""Archives are read to the byte as the standard library reads them, and damaged ones are refused by name."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dali_pipes.archive import Archive, find_archives
from dali_pipes.errors import InputError


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
        assert mine.names == [info.filename.rsplit("/", 1)[-1] for info in members]
        for i, info in enumerate(members):
            assert mine.read(i).tobytes() == oracle.read(info)


def test_a_pickled_archive_reads_the_same_bytes(archive: Path) -> None:
    assert len(pickle.dumps(Archive(archive))) < 1000, "the map itself must not travel"
    there = pickle.loads(pickle.dumps(Archive(archive)))
    assert there.read(7).tobytes() == Archive(archive).read(7).tobytes()


def test_what_is_read_cannot_be_written(archive: Path) -> None:
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


def _patch_entry(path: Path, offset: int, layout: str, value: int) -> None:
    """Overwrite a field of the last member's central directory entry."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.rfind(b"PK\x01\x02") + offset, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "sentence"),
    [
        (8, "<H", 1, "encrypted"),
        (10, "<H", 14, "compression method 14"),
        (24, "<L", 1 << 31, "expected stored or deflated members below"),
    ],
)
def test_what_cannot_be_read_here_is_named(archive: Path, offset: int, layout: str, value: int, sentence: str) -> None:
    _patch_entry(archive, offset, layout, value)
    if value == 1 << 31:  # for stored members both sizes must agree to come so far
        _patch_entry(archive, 20, layout, value)
    with pytest.raises(InputError, match=sentence):
        Archive(archive)


@pytest.mark.parametrize("offset", [0, 2**31 - 1, 40])
def test_a_lying_offset_is_refused_when_the_member_is_read(archive: Path, offset: int) -> None:
    _patch_entry(archive, 42, "<L", offset + 1)
    with pytest.raises(InputError, match=r"K3_19\.jpg"):
        Archive(archive).read(19)


def test_a_member_that_inflates_to_more_than_promised_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("K3_1.jpg", bytes(10_000_000))
    _patch_entry(path, 24, "<L", 1000)
    with pytest.raises(InputError, match="1000 bytes were promised"):
        Archive(path).read(0)


def test_archives_are_found_anywhere_below_the_release(tmp_path: Path) -> None:
    for name in ("01.원천데이터/TS_KS.zip", "02.라벨링데이터/TL_KS_LINE.zip", "02.라벨링데이터/TL_KS_BBOX.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.stem for path in find_archives(tmp_path, "train")] == ["TS_KS", "TL_KS_LINE"]
    with pytest.raises(InputError, match=r"no VS_KS\.zip below"):
        find_archives(tmp_path, "validation")
    (tmp_path / "TS_KS.zip").touch()
    with pytest.raises(InputError, match=r"expected one TS_KS\.zip"):
        find_archives(tmp_path, "train")
    with pytest.raises(InputError, match="found no folder"):
        find_archives(tmp_path / "nowhere", "train")
