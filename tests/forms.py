"""One release in every form in which people have it, written from its four ZIPs with the standard library.

Each writer takes the folder with the ZIPs and an empty folder, and returns the path for `--release`.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

STEMS = ("TS_KS", "TL_KS_LINE", "VS_KS", "VL_KS_LINE")
PART = 70_001  # bytes, about one tile, so that many members cross two parts
KOREAN = "다운로드/133.국토위성영상/01-1.정식개방데이터/" + "아주긴이름의폴더/" * 8  # more than a header's 100 bytes
FOLDERS = {
    "TS_KS": "Training/01.원천데이터",
    "TL_KS_LINE": "Training/02.라벨링데이터",
    "VS_KS": "Validation/01.원천데이터",
    "VL_KS_LINE": "Validation/02.라벨링데이터",
}


def parts(archive: Path, size: int = PART) -> dict[str, bytes]:
    """The parts of a ZIP by name, in text order, which is not their numeric order."""
    data = archive.read_bytes()
    cut = {f"{archive.name}.part{at}": data[at : at + size] for at in range(0, len(data), size)}
    return dict(sorted(cut.items()))


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def one_tar(zips: Path, out: Path, layout: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(out / "download.tar", "w", format=layout) as tar:
        for stem in STEMS:
            folder = tarfile.TarInfo(f"{KOREAN}{FOLDERS[stem]}")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for name, data in parts(zips / f"{stem}.zip").items():
                add(tar, f"{KOREAN}{FOLDERS[stem]}/{name}", data)
    return out / "download.tar"


def pax_tar(zips: Path, out: Path) -> Path:
    return one_tar(zips, out, tarfile.PAX_FORMAT)


def tar_an_archive(zips: Path, out: Path) -> Path:
    for stem in STEMS:
        with tarfile.open(out / f"{stem}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            for name, data in parts(zips / f"{stem}.zip").items():
                add(tar, f"{KOREAN}{name}", data)
    return out


def loose_parts(zips: Path, out: Path) -> Path:
    for stem, folder in FOLDERS.items():
        (out / folder).mkdir(parents=True, exist_ok=True)
        for name, data in parts(zips / f"{stem}.zip").items():
            (out / folder / name).write_bytes(data)
    return out


def folders(zips: Path, out: Path) -> Path:
    for stem, folder in FOLDERS.items():
        with zipfile.ZipFile(zips / f"{stem}.zip") as archive:
            archive.extractall(out / folder / stem)
        (out / folder / stem.replace("_LINE", "_BBOX")).mkdir(exist_ok=True)
        (out / folder / stem.replace("_LINE", "_BBOX") / "not_ours.txt").touch()
    return out


def repacked(archive: Path, out: Path, method: int, below: str = "") -> None:
    """The same members in another order."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w", method) as new:
        for name in reversed(old.namelist()):
            new.writestr(below + name, old.read(name))


def deflated(zips: Path, out: Path) -> Path:
    for stem in STEMS:
        repacked(zips / f"{stem}.zip", out / f"{stem}.zip", zipfile.ZIP_DEFLATED, f"{KOREAN}{stem}/")
        shutil.copy(out / f"{stem}.zip", out / f"{stem.replace('_LINE', '')}_BBOX.zip")
    return out


def zip_of_zips(zips: Path, out: Path) -> Path:
    with zipfile.ZipFile(out / "all.zip", "w") as archive:
        for stem in STEMS:
            archive.write(zips / f"{stem}.zip", f"{FOLDERS[stem]}/{stem}.zip")
    return out / "all.zip"


def zip_of_folders(zips: Path, out: Path) -> Path:
    with zipfile.ZipFile(out / "all.zip", "w", zipfile.ZIP_DEFLATED) as whole:
        for stem in STEMS:
            with zipfile.ZipFile(zips / f"{stem}.zip") as archive:
                for name in archive.namelist():
                    whole.writestr(f"{FOLDERS[stem]}/{stem}/{name}", archive.read(name))
    return out / "all.zip"


def tar_of_folders(zips: Path, out: Path) -> Path:
    with tarfile.open(out / "all.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(folders(zips, out / "unpacked"), "릴리스")
    shutil.rmtree(out / "unpacked")
    return out / "all.tar"


def mixture(zips: Path, out: Path) -> Path:
    """Images in parts, some loose and some in a tar; a folder; a link to a ZIP; a ZIP in a tar."""
    pieces = list(parts(zips / "TS_KS.zip").items())
    with tarfile.open(out / "some.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in pieces[::2]:
            add(tar, name, data)
        tar.add(zips / "VS_KS.zip", f"{KOREAN}VS_KS.zip")
    for name, data in pieces[1::2]:
        (out / name).write_bytes(data)
    with zipfile.ZipFile(zips / "TL_KS_LINE.zip") as archive:
        archive.extractall(out / "깊은" / "곳" / "TL_KS_LINE")
    (out / "VL_KS_LINE.zip").symlink_to(zips / "VL_KS_LINE.zip")
    return out


FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "one tar of parts": one_tar,
    "one pax tar of parts": pax_tar,
    "one tar an archive": tar_an_archive,
    "loose parts": loose_parts,
    "folders": folders,
    "deflated ZIPs": deflated,
    "a ZIP of ZIPs": zip_of_zips,
    "a ZIP of folders": zip_of_folders,
    "a tar of folders": tar_of_folders,
    "a mixture": mixture,
}
