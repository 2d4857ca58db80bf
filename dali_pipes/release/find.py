"""Where the images and labels of a split lie in a release, whatever form it has.

    images, labels = open_split(ReleasePaths(Path("DIR")), "train")

A release of AI Hub 71805 has four roles, told by the stems in `STEMS`.  Each may come as a ZIP, as parts of one
(`TS_KS.zip.part0`, `TS_KS.zip.part1073741824`, …: the number is the part's first byte in the ZIP), or as a folder
of loose files.  Any of them may lie anywhere below the release, under folders of any name, or in a tar there; the
release may itself be a tar or a ZIP.  A tar counts as a folder of its own stem.  Nothing is unpacked, and no link
to a folder is followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import CutShort, InputError
from . import tar_members, zip_members
from .archive import Archive, Folder, LooseFile
from .byte_range import Extent, Segment
from .members import Members
from .paths import ROLES, ReleasePaths, Role, Split

STEMS: dict[tuple[Split, Role], str] = {
    ("train", "images"): "TS_KS",
    ("train", "labels"): "TL_KS_LINE",
    ("validation", "images"): "VS_KS",
    ("validation", "labels"): "VL_KS_LINE",
}
SUFFIXES = {"images": (".jpg", ".jpeg"), "labels": (".json",)}  # of loose files

_PART = re.compile(r"(.+\.zip)\.part([0-9]{1,19})", re.IGNORECASE)


def open_split(paths: ReleasePaths, split: Split) -> tuple[Members, Members]:
    """Find and open the (images, labels) of `split`.

    Raises InputError if a role is missing, is there twice, or cannot be read.
    """
    overrides = {role: paths.override(split, role) for role in ROLES}
    listing = _Listing(paths.release) if None in overrides.values() else None
    opened = []
    for role, given in overrides.items():
        if given is not None:
            opened.append(_open_given(given, split, role))
        elif listing is not None:
            opened.append(_open_one(listing, split, role))
    return opened[0], opened[1]


def open_images(given: Sequence[Path]) -> Members:
    """Open JPEGs that belong to no release: files, folders and tars of them at any depth, or one ZIP of them.

    Raises InputError if there are none.
    """
    if len(given) == 1 and given[0].suffix.lower() == ".zip":
        return Archive(given[0])
    if len(given) == 1 and _PART.fullmatch(given[0].name):
        return _open_given(given[0], "train", "images")
    loose = []
    for path in given:
        if path.is_dir() or path.suffix.lower() == ".tar":
            files: Iterable[_File] = _Listing(path).files
        elif path.is_file():
            files = _listed(path, path.name, path.stat())
        else:
            raise InputError(
                f"expected images at {path}, found nothing there; give --images a folder, archive or JPEGs"
            )
        loose += [file for file in files if file.path.lower().endswith(SUFFIXES["images"])]
    where = ", ".join(str(path) for path in given[:3]) + (", …" if len(given) > 3 else "")
    if not loose:
        raise InputError(f"expected .jpg files in {where}, found none; a ZIP of images must be named itself")
    return Folder([LooseFile(file.path, file.segment, file.modified) for file in loose if file.segment], where)


class _File(NamedTuple):
    """A file on disk or in a tar or ZIP of the release."""

    path: str
    """Below the release, / between folders, in which an archive counts as one, named by its stem."""
    where: str
    """Its place for sentences."""
    segment: Segment | None
    """Its bytes; None where it lies deflated or otherwise unreadable in a ZIP."""
    modified: int
    """Time of writing, in nanoseconds."""
    container: Extent | None = None
    """The ZIP that it lies in."""


class _Listing:
    """All files of a release, and what was not looked into, each with its reason."""

    def __init__(self, release: Path) -> None:
        self.release = release
        self.unvisited: list[str] = []
        if release.is_dir():
            self.files = list(self._below(release))
        elif release.is_file() and release.suffix.lower() in (".tar", ".zip"):
            self.files = list(_listed(release, release.name, release.stat(), release_itself=True))
        else:
            raise InputError(
                f"expected a release, which is a folder, a .tar or a .zip, found none of them at {release}"
            )

    def _below(self, top: Path) -> Iterator[_File]:
        """Walk the tree; a link to a file is that file, a link to a folder might lead anywhere and round in circles."""
        folders = [str(top)]
        while folders:
            folder = folders.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self.unvisited.append(f"{folder} ({error.strerror})")
                continue
            for entry in entries:
                try:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":  # unfinished work, and macOS's shadows
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_dir():
                        self.unvisited.append(f"{entry.path} (a link to a folder)")
                    elif entry.is_file():
                        path = Path(entry.path)
                        yield from _listed(path, path.relative_to(top).as_posix(), entry.stat())
                    elif entry.is_symlink():
                        self.unvisited.append(f"{entry.path} (a link to no file)")
                except OSError as error:  # a link that leads to itself, or a file that is gone
                    self.unvisited.append(f"{entry.path} ({error.strerror})")


def _listed(path: Path, below: str, status: os.stat_result, release_itself: bool = False) -> Iterator[_File]:
    """A file on disk and, if it is a tar, or a ZIP given as the release, what it holds."""
    modified = max(status.st_mtime_ns, status.st_ctime_ns)  # cp -p and rsync -t set the former back
    yield _File(below, str(path), Segment(path, 0, status.st_size), modified)
    stem, suffix = os.path.splitext(below)
    if suffix.lower() == ".tar" and status.st_size:
        for member in tar_members.plain_files(Extent.of_file(path)):
            segment = Segment(path, member.offset, member.length)
            yield _File(f"{stem}/{member.path}", f"{path}: {member.path}", segment, modified)
    elif release_itself and suffix.lower() == ".zip" and stem not in STEMS.values():
        container = Extent.of_file(path)
        for inner in zip_members.directory(container).members:
            yield _File(f"{stem}/{inner.path}", f"{path}: {inner.path}", _stored(container, inner), modified, container)


def _stored(container: Extent, member: zip_members.Member) -> Segment | None:
    """Where a ZIP's member lies in its file, if that is all there is to reading it."""
    if member.fault or member.method != zip_members.STORED:
        return None
    try:
        start, stop = zip_members.locate(container, member)
    except ValueError:
        return None
    return Segment(container.segments[0].file, start, stop - start)


class _Candidate(NamedTuple):
    """One thing that could be the role: its place for sentences, and how to open it."""

    where: str
    open: Callable[[], Members]


def _open_one(listing: _Listing, split: Split, role: Role) -> Members:
    stem, flag = STEMS[split, role], f"--{split}-{role}"
    found = list(_candidates(listing.files, split, role))
    if len(found) > 1:
        raise InputError(
            f"expected one {stem} below {listing.release}, found {found[0].where} and {found[1].where}; remove one,"
            f" or name the right one with {flag}"
        )
    if not found:
        missed = f" ({', '.join(listing.unvisited[:3])} not looked into)" if listing.unvisited else ""
        raise InputError(
            f"no {stem}.zip below {listing.release}, nor its parts or a folder {stem} of {SUFFIXES[role][0]} files,"
            f" among {len(listing.files)} files{missed}; download it from AI Hub 71805, or name it with {flag}"
        )
    return found[0].open()


def _candidates(files: Iterable[_File], split: Split, role: Role) -> Iterator[_Candidate]:
    """Every ZIP, row of parts and folder of loose files that claims the stem."""
    stem = STEMS[split, role]
    parts: list[tuple[int, _File]] = []
    folders: dict[str, list[_File]] = {}
    for file in files:
        *above, name = file.path.split("/")
        part = _PART.fullmatch(name)
        if _same(name, f"{stem}.zip"):
            yield _Candidate(file.where, partial(_open_zip, file))
        elif part and _same(part[1], f"{stem}.zip"):
            parts.append((int(part[2]), file))
        elif stem in above and name.lower().endswith(SUFFIXES[role]):
            folders.setdefault("/".join(above[: above.index(stem) + 1]), []).append(file)
    if parts:
        yield _Candidate(parts[0][1].where, partial(_open_parts, parts))
    for folder, inside in folders.items():
        yield _Candidate(_place(inside[0], folder), partial(_open_loose, inside, folder))


def _same(name: str, expected: str) -> bool:
    """Whether a file has this name; its stem counts to the letter, its suffix may be .ZIP."""
    return name[:-4] == expected[:-4] and name[-4:].lower() == expected[-4:]


def _open_zip(file: _File) -> Members:
    return Archive(_extent_of(file))


def _extent_of(file: _File) -> Extent:
    if file.segment is None:
        raise InputError(f"{file.where} is deflated or damaged in its ZIP and cannot be read in place; unpack that ZIP")
    return Extent([file.segment], file.where)


def _open_parts(parts: list[tuple[int, _File]]) -> Members:
    """The ZIP that parts make up, each beginning where the one before it ends."""
    reached, before = 0, ""
    segments: list[Segment] = []
    for offset, file in sorted(parts, key=lambda part: part[0]):
        whole = _PART.sub(r"\1", file.where)
        if offset > reached:
            raise InputError(
                f"expected a part of {whole} that begins at byte {reached}, found {file.where} to be the next: bytes"
                f" {reached} to {offset - 1} are missing; download {os.path.basename(whole)}.part{reached} again"
            )
        if offset < reached:
            raise InputError(
                f"expected the next part of {whole} to begin at byte {reached}, where {before} ends, found {file.where}"
                f" to begin at byte {offset}; remove the wrong one"
            )
        segments += _extent_of(file).segments
        reached, before = sum(segment.length for segment in segments), file.where
    first = min(parts, key=lambda part: part[0])[1].where
    try:
        return Archive(Extent(segments, f"{first} (parts: {len(parts)})"))
    except CutShort:
        raise InputError(
            f"expected a central directory at the end of {whole}, found none in the last of its {len(parts)} parts:"
            f" one that begins at byte {reached} is missing, or {before} is damaged; download"
            f" {os.path.basename(whole)}.part{reached} again"
        ) from None


def _place(file: _File, folder: str) -> str:
    """The place of a folder, from that of a file in it."""
    return file.where[: len(file.where) - len(file.path) + len(folder)].rstrip(": ")


def _open_loose(files: list[_File], folder: str) -> Members:
    container = files[0].container
    if container is not None:  # where files may be deflated, their ZIP reads them
        return Archive(container, below=folder.partition("/")[2] + "/")
    beyond = len(folder) + 1
    loose = [LooseFile(file.path[beyond:], file.segment, file.modified) for file in files if file.segment is not None]
    return Folder(loose, _place(files[0], folder))


def _open_given(given: Path, split: Split, role: Role) -> Members:
    """Open what the user named as this role; it need not have the role's stem."""
    part = _PART.fullmatch(given.name)
    if part and given.is_file():
        beside = [path for path in given.parent.iterdir() if path.name.startswith(f"{part[1]}.part") and path.is_file()]
        numbered = [(_PART.fullmatch(path.name), path) for path in beside]
        return _open_parts([(int(m[2]), next(_listed(path, path.name, path.stat()))) for m, path in numbered if m])
    listing, stem = _Listing(given), STEMS[split, role]
    if any(_candidates(listing.files, split, role)):
        return _open_one(listing, split, role)
    if given.is_dir():
        loose = [file for file in listing.files if file.path.lower().endswith(SUFFIXES[role])]
        if loose:
            return _open_loose([file._replace(path=f"{stem}/{file.path}") for file in loose], stem)
    if given.suffix.lower() == ".zip":
        return Archive(given)
    return _open_one(listing, split, role)  # for its sentence
