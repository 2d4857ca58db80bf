"""A release is found under the names that people give its parts, and a near miss is named with what to do."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dali_pipes import SampleTable
from dali_pipes.errors import InputError
from dali_pipes.release.find import open_images, open_split
from dali_pipes.release.names import NumberOf, is_foreign
from dali_pipes.release.paths import SPLITS, ReleasePaths
from tests.conftest import jpeg, via_label
from tests.forms import add

Files = dict[str, bytes]
STEMS = ("TS_KS", "TL_KS_LINE", "VS_KS", "VL_KS_LINE")
SHADOW = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(140)
POLYLINE = [[(10, 20), (40, 60)]]


def tiles(scene: str, first: int) -> tuple[Files, Files]:
    """Three images and their labels, by name."""
    names = [f"K3_{scene}_{i}" for i in range(3)]
    images = {f"{name}.jpg": jpeg(64, 64, seed=first + i) for i, name in enumerate(names)}
    return images, {f"{name}.json": json.dumps(via_label(f"{name}.jpg", POLYLINE)).encode() for name in names}


RELEASE = dict(zip(STEMS, (*tiles("A", 0), *tiles("B", 10)), strict=True))


def zipped(files: Files, method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def tarred(files: Files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            add(tar, name, data)
    return out.getvalue()


def write(folder: Path, files: Files) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def below(folder: str, files: Files) -> Files:
    return {f"{folder}/{name}": data for name, data in files.items()}


def cut(data: bytes, count: int) -> list[bytes]:
    size = len(data) // count + 1
    return [data[at : at + size] for at in range(0, len(data), size)]


def folders(names: str) -> Callable[[Path], None]:
    """Four folders with these names."""

    def build(out: Path) -> None:
        for name, files in zip(names.split(), RELEASE.values(), strict=True):
            write(out, below(name, files))

    return build


def each(change: Callable[[str, Files], Files], stems: str = " ".join(STEMS)) -> Callable[[Path], None]:
    """The files that `change` makes of each archive among `stems`; the others are ZIPs."""

    def build(out: Path) -> None:
        for stem, files in RELEASE.items():
            write(out, change(stem, files) if stem in stems.split() else {f"{stem}.zip": zipped(files)})

    return build


def line_tar(inside: str) -> Callable[[str, Files], Files]:
    """A tar named TL_LINE in place of TL_KS_LINE, of bare files or of one ZIP."""

    def make(stem: str, files: Files) -> Files:
        name = stem.replace("_KS_LINE", "_LINE")
        return {f"{name}.tar": tarred({f"{name}{inside}": zipped(files)} if inside else files)}

    return make


def finder(stem: str, files: Files) -> Files:
    shadows = {f"__MACOSX/{stem}/._{name}": SHADOW for name in files}
    return {f"{stem}.zip": zipped({**below(stem, files), **shadows, f"{stem}/.DS_Store": b"x", "Thumbs.db": b"x"})}


def counted(first: int) -> Callable[[str, Files], Files]:
    return lambda stem, files: {
        f"{stem}.zip.part{first + i}": part for i, part in enumerate(cut(zipped(files), 11 if "S_" in stem else 1))
    }


def linked(out: Path) -> None:
    folders("../elsewhere TL_KS_LINE VS_KS VL_KS_LINE")(out)
    (out / "TS_KS").symlink_to("../elsewhere", target_is_directory=True)
    (out / "elsewhere_too").symlink_to("..", target_is_directory=True)  # a circle


def tree_of_windows_and_macos(out: Path) -> None:
    folders("TS_KS TL_KS_LINE VS_KS VL_KS_LINE")(out)
    for folder, files in RELEASE.items():
        write(out / folder, {f"._{name}": SHADOW for name in files})
        write(out / folder, {"desktop.ini": b"", "Thumbs.db": b"", ".DS_Store": b"", "__MACOSX/K3_A_9.jpg": b""})


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "set folders": folders("training_set tline_label validation_set vline_label"),
    "set folders in other case": folders("Training_Set TLine_Label Validation_Set VLine_Label"),
    "images and lines": folders("images/train lines/train images/val lines/val"),
    "images and labels": folders("images/train labels/train_p2 images/val labels/val_p2"),
    "train and valid": folders("data/train/images data/train/labels data/valid/images data/valid/labels"),
    "KS folders": folders("train_data/KS train_data/KS_LINE val_data/KS val_data/KS_LINE"),
    "LINE folders": folders("TS_KS TL_LINE VS_KS VL_LINE"),
    "LINE tars of files": each(line_tar("")),
    "LINE tars of ZIPs": each(line_tar(".zip")),
    "LINE tars of parts": each(line_tar(".zip.part0")),
    "LINE ZIPs": each(lambda stem, files: {f"{stem.replace('_KS_LINE', '_LINE')}.zip": zipped(files)}),
    "LINE parts": each(lambda stem, files: {f"{stem.replace('_KS_LINE', '_LINE')}.zip.part0": zipped(files)}),
    "tars of ZIPs of other names": each(lambda stem, files: {f"{stem}.tar": tarred({"files.zip": zipped(files)})}),
    "browser copies": each(lambda stem, files: {f"{stem} (1).zip": zipped(files)}),
    "copies of Windows": each(lambda stem, files: {f"{stem} - 복사본 (2).zip": zipped(files)}),
    "copies of macOS": each(lambda stem, files: below(f"{stem} 2", files)),
    "folders named like ZIPs": each(lambda stem, files: below(f"{stem}.zip", files)),
    "ZIPs with two suffixes": each(lambda stem, files: {f"{stem}.zip.zip": zipped(files)}),
    "names in lower case": each(lambda stem, files: {f"{stem.lower()}.ZIP": zipped(files)}),
    "a linked folder": linked,
    "leading slashes": each(lambda stem, files: {f"{stem}.zip": zipped(below("", files))}),
    "ZIPs next to their folders": each(lambda stem, files: {f"{stem}.zip": zipped(files), **below(stem, files)}),
    "ZIPs of macOS Finder": each(finder),
    "tars of macOS": each(lambda stem, files: {f"{stem}.tar": tarred({**files, **{f"._{n}": SHADOW for n in files}})}),
    "folders of Windows and macOS": tree_of_windows_and_macos,
    "ZIPs in ZIPs": each(lambda stem, files: {f"{stem}.zip": zipped({f"{stem}.zip": zipped(files)})}),
    "ZIPs in ZIPs of other names": each(lambda stem, files: {f"{stem}.zip": zipped({"new/a.zip": zipped(files)})}),
    "parts counted from 0": each(counted(0)),
    "parts counted from 1": each(counted(1)),
    "parts of ZIPs in ZIPs": each(
        lambda stem, files: {
            f"{stem}.zip.part{i}": part for i, part in enumerate(cut(zipped({f"{stem}.zip": zipped(files)}), 3))
        }
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_found_without_a_flag(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path / "release")
    for split, stems in zip(SPLITS, (STEMS[:2], STEMS[2:]), strict=True):
        for stem, members in zip(stems, open_split(ReleasePaths(tmp_path / "release"), split), strict=True):
            found = {name: members.read(i).tobytes() for i, name in enumerate(members.names)}
            assert found == RELEASE[stem]


def test_what_was_chosen_among_equals_or_taken_for_another_is_said(tmp_path: Path) -> None:
    LAYOUTS["ZIPs next to their folders"](tmp_path / "twice")
    zip_file = tmp_path / "twice" / "TS_KS.zip"
    images, _ = open_split(ReleasePaths(tmp_path / "twice"), "train")
    assert images.note.endswith("hold the same files; " + images.where + " is used")
    assert images.where in (str(zip_file), str(zip_file.with_suffix("")))
    LAYOUTS["browser copies"](tmp_path / "copies")
    images, _ = open_split(ReleasePaths(tmp_path / "copies"), "train")
    assert images.note.startswith(f"{tmp_path}/copies/TS_KS (1).zip is taken for the train images")


def test_a_copy_counts_only_where_the_name_itself_is_missing(tmp_path: Path) -> None:
    each(lambda stem, files: {f"{stem}.zip": zipped(files), f"{stem} (1).zip": b"cut short"})(tmp_path)
    images, _ = open_split(ReleasePaths(tmp_path), "train")
    assert (images.where, images.note) == (str(tmp_path / "TS_KS.zip"), "")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a compressed tar": (
        each(lambda stem, files: {f"{stem}.tar.gz": gzip.compress(tarred(files))}, "TS_KS"),
        r"found .*TS_KS\.tar\.gz, which is a compressed tar; decompress it to a \.tar, or name the images",
    ),
    "a 7z": (
        each(lambda stem, files: {f"{stem}.7z": b"7z"}, "TS_KS"),
        r"found .*TS_KS\.7z, which is an archive of another kind; unpack it",
    ),
    "a volume": (
        each(lambda stem, files: {f"{stem}.zip.001": zipped(files)}, "TS_KS"),
        r"TS_KS\.zip\.001, which is a copy or one volume of a ZIP; give the whole ZIP a name in \.zip",
    ),
    "an unfinished download": (
        each(lambda stem, files: {f"{stem}.zip.crdownload": b"PK"}, "TS_KS"),
        r"TS_KS\.zip\.crdownload, which is an unfinished download; finish",
    ),
    "PNGs": (
        each(lambda stem, files: {f"{stem}/{name[:-4]}.png": data for name, data in files.items()}, "TS_KS"),
        r"expected images in .*/TS_KS, which are \.jpg files, found files of other kinds \(3 of \.png\), such as K3_A",
    ),
    "PNGs in a ZIP": (
        each(lambda stem, files: {f"{stem}.zip": zipped({f"{n[:-4]}.png": d for n, d in files.items()})}, "TS_KS"),
        r"expected images in .*TS_KS\.zip, which are \.jpg files, found files of other kinds \(3 of \.png\), such as",
    ),
    "labels in place of images": (
        each(lambda stem, files: {f"{stem}.zip": zipped(RELEASE["TL_KS_LINE"])}, "TS_KS"),
        r"expected images in .*TS_KS\.zip.* \(3 of \.json\), such as K3_A_0\.json",
    ),
    "an empty ZIP": (
        each(lambda stem, files: {f"{stem}.zip": zipped({})}, "TS_KS"),
        r"expected images in .*TS_KS\.zip, which are \.jpg files, found no files",
    ),
    "a deflated ZIP in a ZIP": (
        each(
            lambda stem, files: {f"{stem}.zip": zipped({"a.zip": zipped(files)}, zipfile.ZIP_DEFLATED)},
            "TS_KS",
        ),
        r"TS_KS\.zip: a\.zip is deflated or damaged in its ZIP and cannot be read in place; unpack that ZIP",
    ),
    "a ZIP and a folder that differ": (
        each(
            lambda stem, files: {f"{stem}.zip": zipped(files), **below(stem, dict(list(files.items())[:2]))},
            "TS_KS",
        ),
        r"expected one TS_KS below .*, found .* and .*, which differ; name the right one with --train-images",
    ),
    "labels that differ in a digit": (
        each(
            lambda stem, files: {
                f"{stem}.zip": zipped(files),
                **below(stem, {name: data.replace(b"100.00", b"200.00") for name, data in files.items()}),
            },
            "TL_KS_LINE",
        ),
        "expected one TL_KS_LINE below .*, which differ; name the right one with --train-labels",
    ),
    "a counted part that is missing": (
        each(
            lambda stem, files: {f"{stem}.zip.part{i}": p for i, p in enumerate(cut(zipped(files), 5)) if i != 2},
            "TS_KS",
        ),
        r"expected parts of .*TS_KS\.zip that count 0, 1, 2, …, found no part 2; download TS_KS\.zip\.part2",
    ),
    "parts joined in text order": (
        each(
            lambda stem, files: {
                f"{stem}.zip": b"".join(cut(zipped(files), 12)[i] for i in sorted(range(12), key=str))
            },
            "TS_KS",
        ),
        r"its parts were joined in a wrong order, such as part10 before part2; give the parts themselves, or join",
    ),
    "parts joined in text order, of which the last is the last by number, too": (
        each(
            lambda stem, files: {
                f"{stem}.zip": b"".join(cut(zipped(files), 12)[i] for i in [*sorted(range(11), key=str), 11])
            },
            "TS_KS",
        ),
        r"found K3_\w+\.jpg at byte .*: its parts were joined in a wrong order, such as part10 before part2",
    ),
    "a ZIP of another name": (
        each(lambda stem, files: {"download.zip": zipped(files)}, "TS_KS"),
        r"no TS_KS\.zip below .* among 4 files \(.*/download\.zip not looked into\); download it from AI Hub",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_near_miss_is_named_with_what_to_do(kind: str, tmp_path: Path) -> None:
    build, sentence = REFUSED[kind]
    build(tmp_path)
    with pytest.raises(InputError, match=sentence) as refusal:
        open_split(ReleasePaths(tmp_path), "train")
    assert "\n" not in str(refusal.value)


def test_a_flag_takes_any_name(tmp_path: Path) -> None:
    images, labels = RELEASE["TS_KS"], RELEASE["TL_KS_LINE"]
    write(tmp_path, {"a.tar": tarred(images), "b.tar": tarred({"c.zip.part0": zipped(labels)})})
    write(tmp_path / "d", {"only one.zip": zipped(images)})
    for given in ("a.tar", "d"):
        paths = ReleasePaths(Path("none"), images=tmp_path / given, labels=tmp_path / "b.tar")
        assert [members.names for members in open_split(paths, "train")] == [list(images), list(labels)]


# --- Images for a prediction.


def test_images_to_predict_may_be_whatever_training_takes(tmp_path: Path) -> None:
    files = RELEASE["VS_KS"]
    write(tmp_path, {"VS_KS.tar": tarred({"Validation/VS_KS.zip.part0": zipped(files)}), "VS_KS.zip": zipped(files)})
    write(tmp_path / "zips", {f"{i}.zip": zipped({name: data}) for i, (name, data) in enumerate(files.items())})
    write(tmp_path / "parts", {f"a.zip.part{i}": part for i, part in enumerate(cut(zipped(files), 3))})
    write(tmp_path / "nested", {"all.zip": zipped({"VS_KS.zip": zipped(files)})})
    write(tmp_path / "release", {f"{stem}.zip": zipped(RELEASE[stem]) for stem in STEMS})
    write(tmp_path, {"release.zip": zipped({f"{stem}.zip": zipped(RELEASE[stem]) for stem in STEMS})})
    write(tmp_path / "loose", files)
    first, *others = sorted((tmp_path / "loose").iterdir())
    forms = {
        "a tar of parts": [tmp_path / "VS_KS.tar"],
        "a ZIP": [tmp_path / "VS_KS.zip"],
        "a ZIP in a ZIP": [tmp_path / "nested" / "all.zip"],
        "a folder of ZIPs": [tmp_path / "zips"],
        "a part": [tmp_path / "parts" / "a.zip.part1"],
        "a folder of parts": [tmp_path / "parts"],
        "several ZIPs": sorted((tmp_path / "zips").iterdir()),
        "files and ZIPs": [first, tmp_path / "zips" / "1.zip", tmp_path / "zips" / "2.zip"],
        "files": [first, *others],
        "one twice": [tmp_path / "loose", tmp_path / "VS_KS.zip"],
    }
    for form, given in forms.items():
        images = open_images(given)
        assert {name: images.read(i).tobytes() for i, name in enumerate(images.names)} == files, form
    for whole in (tmp_path / "release", tmp_path / "release.zip"):
        assert sorted(open_images([whole]).names) == sorted([*RELEASE["TS_KS"], *files])


def test_images_that_are_ambiguous_or_not_there_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.zip": zipped({"x.jpg": b"1"}), "b.zip": zipped({"x.jpg": b"2"})})
    for name, found in (("c.tar.gz", "a compressed tar; decompress it"), ("c.gif", "none; name the folder")):
        write(tmp_path, {name: b"x"})
        with pytest.raises(InputError, match=rf"expected \.jpg, \.png or \.tif files in .*{name}, found {found}"):
            open_images([tmp_path / name])
    with pytest.raises(InputError, match=r"two different ones named x\.jpg, in .*a\.zip and .*b\.zip"):
        open_images([tmp_path / "a.zip", tmp_path / "b.zip"])


# --- Names.


def test_names_are_compared_in_one_form_of_unicode_without_case_and_by_kind_of_suffix(tmp_path: Path) -> None:
    stored = unicodedata.normalize("NFD", "굴뚝_7.jpg")
    names = {stored: "굴뚝_7.jpg", "K3_A_1.JPG": "K3_A_1.jpg", "K3_A_2.jpeg": "K3_A_2.jpg", "k3_a_3.jpg": "K3_A_3.JPEG"}
    write(tmp_path / "TS_KS", {name: jpeg(64, 64) for name in names})
    labels = {f"{named.rpartition('.')[0]}.json": via_label(named, POLYLINE) for named in names.values()}
    write(tmp_path / "TL_KS_LINE", {name: json.dumps(label).encode() for name, label in labels.items()})
    table = SampleTable.from_release(tmp_path)
    assert sorted(table.tile) == sorted(["굴뚝_7.jpg", "K3_A_1.JPG", "K3_A_2.jpeg", "k3_a_3.jpg"])
    assert table.left_out == ()


def test_a_name_that_fits_two_files_in_a_looser_way_fits_none() -> None:
    number_of = NumberOf(["a.jpg", "A.JPG", "b.jpeg", "c.JPG", "c.png"])
    assert [number_of(name) for name in ("a.jpg", "A.JPG", "a.JPG", "B.jpg", "c.jpg", "d.jpg")] == [
        *(0, 1, None, 2, 3, None),
    ]
    assert [number_of.of_tile(name) for name in ("a.json", "A.json", "b.json", "c.json")] == [0, None, 2, None]


def test_files_that_systems_leave_are_known_by_one_rule() -> None:
    foreign = ["__MACOSX/a.jpg", "x/._a.jpg", "x/.DS_Store", "Thumbs.db", "x/DESKTOP.INI", ".hidden/a.jpg"]
    assert all(map(is_foreign, foreign))
    assert not any(map(is_foreign, ["a.jpg", "../a.jpg", "./x/a.jpg", "x/a..jpg", "/a.jpg", "...", "__MACOS/a.jpg"]))


def test_a_link_inside_a_linked_folder_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "far" / "TS_KS", RELEASE["TS_KS"])
    write(tmp_path / "far" / "TL_KS_LINE", RELEASE["TL_KS_LINE"])
    (tmp_path / "near").mkdir()
    os.symlink(tmp_path / "far", tmp_path / "near" / "link")
    (tmp_path / "release").mkdir()
    os.symlink(tmp_path / "near", tmp_path / "release" / "link")
    with pytest.raises(InputError, match=r"release/link/link \(a link to a folder\) not looked into"):
        open_split(ReleasePaths(tmp_path / "release"), "train")
    assert len(open_split(ReleasePaths(tmp_path / "near"), "train")[0].names) == 3
