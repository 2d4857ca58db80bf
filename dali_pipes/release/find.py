"""Find and open the images and labels of a split in a release of any form.

    images, labels = open_split(ReleasePaths(Path("DIR")), "train")

A release of AI Hub 71805 has four archives, known by the stems in `STEMS`. Each may be a ZIP, parts of a ZIP
(`TS_KS.zip.part0`, `TS_KS.zip.part1073741824`, …, numbered by the part's first byte), or a folder of loose files, at
any depth below the release. The release, and anything in it, may also be a tar; the release may be a ZIP.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import CutShort, InputError
from .archive import Archive, Folder, LooseFile
from .byte_range import ByteRange, Segment
from .listing import ListedFile, Listing, list_file
from .members import Members
from .paths import ROLES, ReleasePaths, Role, Split

STEMS: dict[tuple[Split, Role], str] = {
    ("train", "images"): "TS_KS",
    ("train", "labels"): "TL_KS_LINE",
    ("validation", "images"): "VS_KS",
    ("validation", "labels"): "VL_KS_LINE",
}
SUFFIXES: dict[Role, tuple[str, ...]] = {"images": (".jpg", ".jpeg"), "labels": (".json",)}
"""How the names of loose files end."""

_PART = re.compile(r"(.+\.zip)\.part([0-9]{1,19})", re.IGNORECASE)


def open_split(paths: ReleasePaths, split: Split) -> tuple[Members, Members]:
    """Find and open the (images, labels) of `split`.

    Raises InputError if one of them is missing, is there twice, or cannot be read.
    """
    overrides = {role: paths.override(split, role) for role in ROLES}
    listing = _list_release(paths.release) if None in overrides.values() else None
    opened = []
    for role, given in overrides.items():
        if given is not None:
            opened.append(_open_override(given, split, role))
        elif listing is not None:
            opened.append(_open_only(listing, split, role))
    return opened[0], opened[1]


def open_images(given: Sequence[Path]) -> Members:
    """Open JPEGs that belong to no release: files, folders and tars of them at any depth, or one ZIP of them.

    Raises InputError if there are none.
    """
    if len(given) == 1 and given[0].suffix.lower() == ".zip":
        return Archive(given[0])
    if len(given) == 1 and _PART.fullmatch(given[0].name):
        return _open_override(given[0], "train", "images")
    files: list[ListedFile] = []
    for path in given:
        if path.is_dir() or path.suffix.lower() == ".tar":
            files += Listing(path).files
        elif path.is_file():
            files += list_file(path, path.name)
        else:
            raise InputError(
                f"expected images at {path}, found nothing there; give --images a folder, archive or JPEGs"
            )
    where = ", ".join(str(path) for path in given[:3]) + (", …" if len(given) > 3 else "")
    jpegs = [file for file in files if file.path.lower().endswith(SUFFIXES["images"])]
    if not jpegs:
        raise InputError(f"expected .jpg files in {where}, found none; a ZIP of images must be named itself")
    return Folder([LooseFile(file.path, file.segment, file.modified) for file in jpegs if file.segment], where)


def _list_release(path: Path) -> Listing:
    """List a release; a ZIP named TS_KS.zip and so on is one archive of it, whose members are not looked into."""
    if path.is_file() and path.suffix.lower() == ".zip" and path.stem in STEMS.values():
        return Listing(path, open_zip=False)
    return Listing(path)


# --- What in a listing may be the images or labels of a split.


class _Candidate(NamedTuple):
    where: str
    open: Callable[[], Members]


def _open_only(listing: Listing, split: Split, role: Role) -> Members:
    """Open the only candidate for a role. Raises InputError if there is none, or more than one."""
    stem, flag = STEMS[split, role], f"--{split}-{role}"
    found = list(_candidates(listing.files, split, role))
    if len(found) > 1:
        raise InputError(
            f"expected one {stem} below {listing.release}, found {found[0].where} and {found[1].where}; remove one,"
            f" or name the right one with {flag}"
        )
    if not found:
        unvisited = f" ({', '.join(listing.unvisited[:3])} not looked into)" if listing.unvisited else ""
        raise InputError(
            f"no {stem}.zip below {listing.release}, nor its parts or a folder {stem} of {SUFFIXES[role][0]} files,"
            f" among {len(listing.files)} files{unvisited}; download it from AI Hub 71805, or name it with {flag}"
        )
    return found[0].open()


def _candidates(files: Iterable[ListedFile], split: Split, role: Role) -> Iterator[_Candidate]:
    """Yield every ZIP, set of parts and folder of loose files that is named by the stem of the role."""
    stem = STEMS[split, role]
    parts: list[tuple[int, ListedFile]] = []
    folders: dict[str, list[ListedFile]] = {}
    for file in files:
        *above, name = file.path.split("/")
        part = _PART.fullmatch(name)
        if _is_zip_of(name, stem):
            yield _Candidate(file.where, partial(_open_zip, file))
        elif part and _is_zip_of(part[1], stem):
            parts.append((int(part[2]), file))
        elif stem in above and name.lower().endswith(SUFFIXES[role]):
            folders.setdefault("/".join(above[: above.index(stem) + 1]), []).append(file)
    if parts:
        yield _Candidate(parts[0][1].where, partial(_open_parts, parts))
    for folder, inside in folders.items():
        yield _Candidate(_place_of(folder, inside[0]), partial(_open_folder, folder, inside))


def _is_zip_of(name: str, stem: str) -> bool:
    return name[:-4] == stem and name[-4:].lower() == ".zip"


def _place_of(folder: str, file: ListedFile) -> str:
    """Return the place of a folder, given a file in it."""
    return file.where[: len(file.where) - len(file.path) + len(folder)].rstrip(": ")


# --- How each form is opened.


def _open_override(given: Path, split: Split, role: Role) -> Members:
    """Open what a flag names as this role; its name need not be the role's stem."""
    part = _PART.fullmatch(given.name)
    if part and given.is_file():
        siblings = [path for path in given.parent.iterdir() if path.name.startswith(f"{part[1]}.part")]
        numbered = [(_PART.fullmatch(path.name), path) for path in siblings if path.is_file()]
        return _open_parts([(int(m[2]), next(list_file(path, path.name))) for m, path in numbered if m])
    listing, stem = _list_release(given), STEMS[split, role]
    if any(_candidates(listing.files, split, role)):
        return _open_only(listing, split, role)
    loose = [file for file in listing.files if file.path.lower().endswith(SUFFIXES[role])]
    if given.is_dir() and loose:
        return _open_folder(stem, [file._replace(path=f"{stem}/{file.path}") for file in loose])
    if given.suffix.lower() == ".zip":
        return Archive(given)
    return _open_only(listing, split, role)  # raises, and says what was looked for


def _open_zip(file: ListedFile) -> Members:
    return Archive(_bytes_of(file))


def _bytes_of(file: ListedFile) -> ByteRange:
    if file.segment is None:
        raise InputError(f"{file.where} is deflated or damaged in its ZIP and cannot be read in place; unpack that ZIP")
    return ByteRange([file.segment], file.where)


def _open_parts(parts: list[tuple[int, ListedFile]]) -> Members:
    """Open the ZIP that is made of parts (first byte, file). Raises InputError where they do not join."""
    parts = sorted(parts, key=lambda part: part[0])
    end, previous = 0, ""
    segments: list[Segment] = []
    for offset, file in parts:
        whole = _PART.sub(r"\1", file.where)
        if offset > end:
            raise InputError(
                f"expected a part of {whole} that begins at byte {end}, found {file.where} to be the next: bytes"
                f" {end} to {offset - 1} are missing; download {os.path.basename(whole)}.part{end} again"
            )
        if offset < end:
            raise InputError(
                f"expected the next part of {whole} to begin at byte {end}, where {previous} ends, found {file.where}"
                f" to begin at byte {offset}; remove the wrong one"
            )
        segments += _bytes_of(file).segments
        end, previous = sum(segment.length for segment in segments), file.where
    try:
        return Archive(ByteRange(segments, f"{parts[0][1].where} (parts: {len(parts)})"))
    except CutShort:
        raise InputError(
            f"expected a central directory at the end of {whole}, found none in the last of its {len(parts)} parts:"
            f" one that begins at byte {end} is missing, or {previous} is damaged; download"
            f" {os.path.basename(whole)}.part{end} again"
        ) from None


def _open_folder(folder: str, files: list[ListedFile]) -> Members:
    """Open the loose files of a folder, on disk, in a tar or in a ZIP."""
    container = files[0].container
    if container is not None:  # the files may be deflated, so their ZIP reads them
        return Archive(container, below=folder.partition("/")[2] + "/")
    below = len(folder) + 1
    loose = [LooseFile(file.path[below:], file.segment, file.modified) for file in files if file.segment is not None]
    return Folder(loose, _place_of(folder, files[0]))
