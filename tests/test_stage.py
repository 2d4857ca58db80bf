"""--stage: a release is copied to a local disk, checked, continued after a kill, and read from there."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from dali_pipes.errors import InputError
from dali_pipes.release import file_copy
from dali_pipes.release.file_copy import FileCopy
from dali_pipes.release.mounts import slow_mount
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.release.stage import staged
from dali_pipes.samples.index import open_index
from train.recipe.flags import flags_of

QUIET = Console(quiet=True)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_copy, "PIECE", 64 << 10)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_tar(release: Path, to: Path) -> Path:
    with tarfile.open(to / "download.tar", "w") as tar:
        for path in sorted(release.glob("*.zip")):
            tar.add(path, f"71805/{path.name}")
    return to / "download.tar"


def as_parts(release: Path, to: Path) -> Path:
    """The ZIPs in parts that are named by their first byte; next to them a file that is not of the release."""
    for path in release.glob("*.zip"):
        data, half = path.read_bytes(), path.stat().st_size // 2
        (to / f"{path.name}.part0").write_bytes(data[:half])
        (to / f"{path.name}.part{half}").write_bytes(data[half:])
    (to / "notes.bin").write_bytes(b"not of the release")
    return to


def as_folders(release: Path, to: Path) -> Path:
    for path in release.glob("*.zip"):
        shutil.unpack_archive(path, to / "deep" / path.stem)
    return to


@pytest.mark.parametrize("form", [lambda release, to: release, as_tar, as_parts, as_folders])
def test_a_copy_is_read_like_the_release(
    release: Path, tmp_path: Path, small_pieces: None, form: Callable[[Path, Path], Path]
) -> None:
    (tmp_path / "given").mkdir()
    paths = ReleasePaths(form(release, tmp_path / "given"), stage=tmp_path / "local")
    local = staged(paths, QUIET)
    assert local.release.is_relative_to(tmp_path / "local")
    for split in ("train", "validation"):
        here, there = (open_index(each, split, console=QUIET).table for each in (local, paths))
        assert here.tile.tolist() == there.tile.tolist()
        assert np.array_equal(here.polyline, there.polyline)
        assert here.images.where.startswith(str(tmp_path / "local"))
        assert all(np.array_equal(here.images.read(i), there.images.read(i)) for i in here.image.tolist()[:3])
    copied = {name.partition("/")[2]: data for name, data in contents(tmp_path / "local").items() if "/" in name}
    source = paths.release.parent if paths.release.is_file() else paths.release
    assert copied == {name: data for name, data in contents(source).items() if name != "notes.bin"}


def test_labels_elsewhere_are_copied_and_read(release: Path, tmp_path: Path) -> None:
    (tmp_path / "corrected").mkdir()
    labels = Path(shutil.copy(release / "TL_KS_LINE.zip", tmp_path / "corrected/new.zip"))
    local = staged(ReleasePaths(release, train_labels=labels, stage=tmp_path / "local"), QUIET)
    assert local.train_labels is not None
    assert local.train_labels.read_bytes() == labels.read_bytes()
    assert not list((tmp_path / "local").rglob("TL_KS_LINE.zip"))  # it is not in use


@settings(max_examples=25, deadline=None)
@given(data=st.data(), size=st.integers(0, 9_000))
def test_a_copy_that_was_killed_anywhere_is_continued(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int
) -> None:
    """A kill leaves any part of what was written, and a crash of the machine may also leave wrong bytes in it."""
    folder = tmp_path_factory.mktemp("copy")
    source = folder / "source.zip"
    source.write_bytes(np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes())
    copy = FileCopy.of(source, folder / "local" / "source.zip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_copy, "PIECE", 1_000)
        for _, _stop in zip(copy.pieces(0), range(data.draw(st.integers(0, 9), "pieces")), strict=False):
            pass
        left = data.draw(st.integers(0, copy.unfinished.stat().st_size), "bytes that reached the disk")
        os.truncate(copy.unfinished, left)
        if left and data.draw(st.booleans(), "a wrong byte"):
            with copy.unfinished.open("r+b") as file:
                file.seek(data.draw(st.integers(0, left - 1), "place"))
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))
        os.truncate(copy.checksums, data.draw(st.integers(0, copy.checksums.stat().st_size), "bytes of checksums"))
        assert not copy.is_current()
        start = copy.good_bytes()
        assert copy.unfinished.read_bytes()[:start] == source.read_bytes()[:start]
        for _ in copy.pieces(start):
            pass
        copy.complete()
    assert copy.is_current()
    assert copy.target.read_bytes() == source.read_bytes()
    assert [path.name for path in copy.target.parent.iterdir()] == ["source.zip"]


def test_a_complete_copy_is_not_read_again_and_a_changed_source_is(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Path(shutil.copytree(release, tmp_path / "given"))
    paths = ReleasePaths(given, stage=tmp_path / "local")
    read: list[str] = []
    pieces = FileCopy.pieces

    def recorded(copy: FileCopy, start: int) -> Iterator[int]:
        read.append(copy.source.name)
        return pieces(copy, start)

    monkeypatch.setattr(FileCopy, "pieces", recorded)
    first = staged(paths, QUIET)
    assert len(read) == 4
    assert staged(paths, QUIET) == first
    assert len(read) == 4
    with (given / "VS_KS.zip").open("r+b") as file:  # same size, another time
        file.write(b"PK\3\4")
    os.utime(given / "VS_KS.zip", ns=(1, 1))
    assert staged(paths, QUIET) == first
    assert read[4:] == ["VS_KS.zip"]


def test_a_small_disk_is_refused_before_anything_is_copied(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_pipes.release.stage.free_disk", lambda folder: 1 << 20)
    with pytest.raises(
        InputError, match=r"--stage .*local needs [\d.]+ MiB for the copy of the release, found 1 MiB free"
    ):
        staged(ReleasePaths(release, stage=tmp_path / "local"), QUIET)
    assert not [name for name in contents(tmp_path / "local") if name != ".lock"]


def test_what_cannot_be_copied_is_one_sentence(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is inside"):
        staged(ReleasePaths(release, stage=release / "local"), QUIET)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be copied to --stage .*file: "):
        staged(ReleasePaths(release, stage=tmp_path / "file"), QUIET)
    copy = FileCopy.of(release / "VS_KS.zip", tmp_path / "VS_KS.zip")
    for _ in copy.pieces(0):
        pass
    with copy.unfinished.open("r+b") as file:
        file.write(b"\0\0")
    with pytest.raises(InputError, match="differs from the bytes that were read"):
        copy.complete()
    with pytest.raises(InputError, match="was changed while it was being copied"):
        copy._replace(size=1).complete()


def test_a_release_that_lacks_a_split_is_read_where_it_is(release: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    for name in ("TS_KS.zip", "TL_KS_LINE.zip"):
        shutil.copy(release / name, tmp_path / "half")
    paths = ReleasePaths(tmp_path / "half", stage=tmp_path / "local")
    assert staged(paths, QUIET) == paths


def test_the_run_continues_with_the_same_stage(tmp_path: Path) -> None:
    given = ReleasePaths(Path("/drive/71805"), stage=Path("/content/local")).given()
    assert flags_of(given) == ["--release=/drive/71805", "--stage=/content/local"]


MOUNTS = """\
27 1 254:0 / / rw - ext4 /dev/vda rw
60 27 0:50 / /content/drive rw,nosuid - fuse.drive drive rw,user_id=0
61 60 0:51 / /content/drive/fast rw - ext4 /dev/sdb rw
62 27 0:52 / /mnt/c rw - 9p drvfs rw,aname=drvfs
63 27 0:53 / /net\\040work rw shared:7 - nfs4 server:/x rw
64 27 0:54 / /shm rw - nfs server:/y rw
65 64 0:55 / /shm rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/content/drive/MyDrive/71805", "fuse.drive"),
        ("/content/drive/fast/71805", ""),
        ("/content/drives", ""),
        ("/mnt/c/Users", "9p"),
        ("/net work/71805", "nfs4"),
        ("/shm/71805", ""),  # what was mounted last hides what was there
        ("/home", ""),
    ],
)
def test_a_slow_mount_is_known_by_its_type(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert slow_mount(Path(path), tmp_path / "mountinfo") == kind


def test_a_container_on_fuse_and_a_system_without_mounts_get_no_advice(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text("27 1 0:1 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw\n")
    assert slow_mount(Path("/data"), tmp_path / "mountinfo") == ""
    assert slow_mount(Path("/data"), tmp_path / "absent") == ""


def test_advice_is_given_once_and_only_without_a_stage(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_pipes.release.stage.slow_mount", lambda path: "fuse.drive")
    console = Console(record=True, file=SimpleNamespace(write=len, flush=int), width=200)  # type: ignore[arg-type]
    assert staged(ReleasePaths(release), console) == ReleasePaths(release)
    staged(ReleasePaths(release, stage=tmp_path / "local"), console)
    assert console.export_text().count("fuse.drive mount, which reads small pieces slowly: --stage FOLDER") == 1
