"""Every form of a release gives the same samples and the same batches; a missing or repeated role is named."""

from __future__ import annotations

import os
import pickle
import shutil
import tarfile
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipes import Loader, SampleTable, Shard
from dali_pipes.batches.plan import TrainingPlan
from dali_pipes.batches.source import Source, SourceBatch
from dali_pipes.batches.view import WHOLE_TILE
from dali_pipes.errors import InputError
from dali_pipes.release.find import open_split
from dali_pipes.release.members import Members
from dali_pipes.release.paths import SPLITS, ReleasePaths
from tests.conftest import STEMS
from tests.forms import FORMS, PART, add, loose_parts, one_tar, parts


def first_batch(table: SampleTable) -> SourceBatch:
    """What DALI receives for the first step."""
    return Source(WHOLE_TILE.frames(table, 224), TrainingPlan(len(table), 16, Shard(seed=4)))(0)


@pytest.fixture(params=FORMS.values(), ids=list(FORMS))
def other_form(request: pytest.FixtureRequest, release: Path, tmp_path: Path) -> Path:
    (tmp_path / "unpacked").mkdir()
    path: Path = request.param(release, tmp_path)
    return path


def test_every_form_gives_the_same_table_and_the_same_first_batch(release: Path, other_form: Path) -> None:
    for split in STEMS:
        expected, found = (SampleTable.from_release(form, split) for form in (release, other_form))  # type: ignore[arg-type]
        assert found.images.names == expected.images.names
        for field in fields(SampleTable):
            if field.name != "images":
                a, b = getattr(expected, field.name), getattr(found, field.name)
                assert a.tobytes() == b.tobytes() if isinstance(a, np.ndarray) else a == b, field.name
        for column in SourceBatch._fields:
            a, b = (getattr(first_batch(table), column) for table in (expected, found))
            assert [x.tobytes() for x in a] == [x.tobytes() for x in b], column


def test_every_form_loads_the_same_tensors(release: Path, other_form: Path) -> None:
    batches = [
        next(iter(Loader(SampleTable.from_release(form), 16, shuffle=True, shard=Shard(seed=4))))
        for form in (release, other_form)
    ]
    for mine, theirs in zip(*(vars(batch).values() for batch in batches), strict=True):
        assert torch.equal(mine, theirs)


def test_every_form_reads_what_zipfile_reads_and_can_be_pickled(release: Path, other_form: Path) -> None:
    for split, stems in STEMS.items():
        for stem, members in zip(stems, open_split(ReleasePaths(other_form), split), strict=True):  # type: ignore[arg-type]
            there: Members = pickle.loads(pickle.dumps(members))
            assert there.fingerprint() == members.fingerprint()
            with zipfile.ZipFile(release / f"{stem}.zip") as oracle:
                assert there.names == members.names == sorted(oracle.namelist())
                for i, name in enumerate(members.names):
                    assert members.read(i).tobytes() == there.read(i).tobytes() == oracle.read(name)
                    assert members.crc(i) in (oracle.getinfo(name).CRC, None)
                    assert not members.fault(i)
                    assert not members.read(i).flags.writeable


def test_the_fingerprint_changes_with_the_data(release: Path, other_form: Path) -> None:
    before = [members.fingerprint() for members in open_split(ReleasePaths(other_form), "train")]
    assert before == [members.fingerprint() for members in open_split(ReleasePaths(other_form), "train")]
    assert before[0] != before[1]
    top = other_form if other_form.is_dir() else other_form.parent
    for path in top.rglob("*"):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    assert not set(before) & {members.fingerprint() for members in open_split(ReleasePaths(other_form), "train")}


@pytest.mark.parametrize("lost", [0, 3, 7])
def test_a_gap_between_parts_names_its_first_byte(release: Path, tmp_path: Path, lost: int) -> None:
    top = loose_parts(release, tmp_path)
    name = f"TS_KS.zip.part{lost * PART}"
    next(top.rglob(name)).unlink()
    with pytest.raises(InputError, match=rf"begins at byte {lost * PART}, .*{name} again"):
        open_split(ReleasePaths(top), "train")


def test_a_missing_last_part_is_named(release: Path, tmp_path: Path) -> None:
    top = loose_parts(release, tmp_path)
    at = max(int(path.name.rpartition("part")[2]) for path in top.rglob("TS_KS.zip.part*"))
    next(top.rglob(f"TS_KS.zip.part{at}")).unlink()
    with pytest.raises(InputError, match=rf"one that begins at byte {at} is missing.*TS_KS\.zip\.part{at} again"):
        open_split(ReleasePaths(top), "train")


def test_parts_that_overlap_are_named(release: Path, tmp_path: Path) -> None:
    top = loose_parts(release, tmp_path)
    first = next(top.rglob("TS_KS.zip.part0"))
    (first.parent / "TS_KS.zip.part1000").write_bytes(b"x")
    with pytest.raises(
        InputError, match=rf"begin at byte {PART}, where .*part0 ends, found .*part1000 to begin at byte 1000"
    ):
        open_split(ReleasePaths(top), "train")
    (first.parent / "TS_KS.zip.part1000").rename(top / "TS_KS.zip.part0")
    with pytest.raises(InputError, match="keep the parts of one download only"):
        open_split(ReleasePaths(top), "train")


def test_two_candidates_for_one_role_are_both_named(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "a")
    one_tar(release, tmp_path)
    (tmp_path / "a" / "TS_KS.zip").unlink()
    shutil.copy(release / "VS_KS.zip", tmp_path / "a" / "TS_KS.zip")
    with pytest.raises(
        InputError, match=r"one TS_KS below .*a/TS_KS\.zip and .*download\.tar.*TS_KS\.zip\.part0.*--train-images"
    ):
        open_split(ReleasePaths(tmp_path), "train")
    paths = ReleasePaths(tmp_path, images=tmp_path / "a" / "TS_KS.zip", labels=tmp_path / "download.tar")
    images, labels = open_split(paths, "train")
    assert images.where == str(tmp_path / "a" / "TS_KS.zip")
    assert "download.tar" in labels.where


def test_a_missing_role_is_named(release: Path, tmp_path: Path) -> None:
    shutil.copy(release / "TS_KS.zip", tmp_path)
    with pytest.raises(InputError, match=r"no TL_KS_LINE\.zip below .*among 1 files; download"):
        open_split(ReleasePaths(tmp_path), "train")
    with pytest.raises(InputError, match=r"no TL_KS_LINE\.zip below .*TS_KS\.zip"):
        open_split(ReleasePaths(tmp_path / "TS_KS.zip"), "train")
    with pytest.raises(InputError, match="found none of them at"):
        open_split(ReleasePaths(tmp_path / "nowhere"), "train")
    (tmp_path / "download.tar.gz").touch()
    with pytest.raises(InputError, match="found none of them at"):
        open_split(ReleasePaths(tmp_path / "download.tar.gz"), "train")


def test_overrides_need_no_role_in_their_names(release: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(release / "TS_KS.zip") as archive:
        archive.extractall(tmp_path / "pictures" / "of" / "mine")
    for name, data in parts(release / "TL_KS_LINE.zip").items():
        (tmp_path / name.replace("TL_KS_LINE", "texts")).write_bytes(data)
    shutil.copy(release / "TS_KS.zip", tmp_path / "some.zip")
    expected = SampleTable.from_release(release)
    for images in (tmp_path / "pictures", tmp_path / "some.zip", release / "TS_KS.zip", release):
        found = SampleTable.from_release("nowhere", images=images, labels=tmp_path / "texts.zip.part0")
        assert found.tile.tolist() == expected.tile.tolist()
        assert found.polyline.tobytes() == expected.polyline.tobytes()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"no TS_KS\.zip below .*nothing"):
        open_split(ReleasePaths(release, images=tmp_path / "nothing"), "train")


def test_links_in_a_circle_are_not_followed(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "round").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    (folder / "everything").symlink_to("/")
    (folder / "TS_KS.zip").symlink_to("gone")
    with pytest.raises(InputError, match=r"no TS_KS\.zip below .*TS_KS\.zip \(a link to no file\), .*not looked into"):
        open_split(ReleasePaths(folder), "train")
    os.mkfifo(folder / "TL_KS_LINE.zip")
    with pytest.raises(InputError, match=r"no TL_KS_LINE\.zip below"):
        open_split(ReleasePaths(folder, images=release / "TS_KS.zip"), "train")


def test_links_in_a_tar_are_skipped(release: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, kind in enumerate(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
        ):
            info = tarfile.TarInfo("TS_KS.zip" if i % 2 else "../../TS_KS.zip")
            info.type, info.linkname = kind, str(release / "TS_KS.zip")
            tar.addfile(info)
        add(tar, "/absolute/../TL_KS_LINE.zip", (release / "TL_KS_LINE.zip").read_bytes())
    with pytest.raises(InputError, match=r"no TS_KS\.zip below"):
        open_split(ReleasePaths(tmp_path), "train")
    images, labels = open_split(ReleasePaths(tmp_path, images=release), "train")
    assert len(images.names) == len(labels.names)


def test_a_path_for_both_splits_and_one_for_a_single_split_contradict_each_other(release: Path) -> None:
    paths = ReleasePaths(release, images=Path("a"), validation_labels=Path("b"))
    assert [paths.override(split, "images") for split in SPLITS] == [Path("a"), Path("a")]
    assert [paths.override(split, "labels") for split in SPLITS] == [None, Path("b")]
    with pytest.raises(InputError, match="--images is for both splits, found --validation-images as well; give"):
        replace(paths, validation_images=Path("c"))
