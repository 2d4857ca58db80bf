"""Find the images and labels of a split in a release of any form, and open them as `Members`.

    images, labels = open_split(ReleasePaths(Path("DIR")), "train")

A release has images and labels of two splits, known by the names in `layouts.py`. Each may be a ZIP, parts of a ZIP
(`TS_KS.zip.part0`, `TS_KS.zip.part1073741824`, …, numbered by the part's first byte, or just counted), or a folder of
loose files, at any depth below the release. The release itself may be a tar or a ZIP, its files may be in tars, and a
ZIP may be stored in another ZIP.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import CutShort, InputError, OtherKind
from . import zip_members
from .archive import LARGEST_MEMBER, LARGEST_PICTURE, Archive, Folder, LooseFile
from .byte_range import ByteRange
from .layouts import STEMS, Match, is_role, match
from .listing import ListedFile, Listing, list_file, stored_span
from .members import Members, Merged
from .names import SUFFIXES, Kind, is_foreign
from .parts import PART, join_parts
from .paths import ROLES, ReleasePaths, Role, Split

_IN_WORDS: dict[Kind, str] = {"images": ".jpg", "labels": ".json", "pictures": ".jpg, .png or .tif"}
_LARGEST: dict[Kind, int] = {"images": LARGEST_MEMBER, "labels": LARGEST_MEMBER, "pictures": LARGEST_PICTURE}

_UNREAD = (  # endings of files that are named after a role and cannot be read, what they are, and what helps
    (r"(\.tar)?\.(gz|bz2|xz|zst|z)|\.t(gz|bz2?|xz)", "a compressed tar", "decompress it to a .tar"),
    (r"\.zip\.[0-9]{1,3}|\.z[0-9]{2}", "a copy or one volume of a ZIP", "give the whole ZIP a name in .zip"),
    (r"\.(7z|rar|alz|egg)", "an archive of another kind", "unpack it into a folder of that name"),
    (
        r"\.\w+\.(crdownload|part|partial|download|opdownload|tmp|aria2)",
        "an unfinished download",
        "finish the download",
    ),
)


def open_split(paths: ReleasePaths, split: Split) -> tuple[Members, Members]:
    """Find and open the (images, labels) of `split`.

    Raises InputError if one of them is missing, exists twice, is of another kind, or cannot be read.
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
    """Open pictures that are not part of a release, as `open_files` does."""
    return open_files(given, "pictures", "--images")


def open_files(given: Sequence[Path], kind: Kind, flag: str) -> Members:
    """Open files of a kind outside a release: single files, and folders, tars, ZIPs and parts that contain them.

    ZIPs within a folder or a tar are opened if it has no loose files. Raises InputError, which names `flag`, if there
    are no files, or if two different ones in two places have the same name.
    """
    loose: list[ListedFile] = []
    archives: list[Members] = []
    for path in given:
        if path.is_file() and path.suffix.lower() in SUFFIXES[kind]:
            loose += list_file(path, path.name)
        elif not path.exists():
            raise InputError(
                f"expected {kind} at {path}, found nothing there; give {flag} a folder, an archive or files"
            )
        else:
            candidates = _loose_candidates(path, kind)
            loose += candidates[0].loose
            archives += [candidate.open() for candidate in candidates if not candidate.loose]
    if loose or not archives:
        where = ", ".join(str(path) for path in given[:3]) + (", …" if len(given) > 3 else "")
        archives.insert(0, _open_folder(loose, where, kind))
    return archives[0] if len(archives) == 1 else _merged(archives, kind, flag)


def _loose_candidates(path: Path, kind: Kind) -> list[_Candidate]:
    """Return a kind's candidates in a folder or archive: all loose files, or its ZIPs. Raises InputError if none."""
    if path.is_file() and path.suffix.lower() == ".zip":
        with suppress(OtherKind):
            archive = _open_zip(ByteRange.of_file(path), kind)
            return [_Candidate(archive.where, lambda: archive)]
        candidates = _any_candidates(Listing(path), kind)  # it may contain several ZIPs
        if candidates:
            return candidates
    _, unread, advice = _unread(path.name)
    is_read = path.is_dir() or path.suffix.lower() == ".tar" or PART.fullmatch(path.name)
    listing = _list_given(path) if is_read else None
    candidates = _any_candidates(listing, kind) if listing else []
    if listing and listing.files and not candidates:
        raise _other_kind([file.path for file in listing.files], str(path), kind)
    if not candidates:
        raise InputError(f"expected {_IN_WORDS[kind]} files in {path}, found {unread or 'none'}; {advice}")
    return candidates


def _list_release(path: Path) -> Listing:
    """List a release. A ZIP named after a role, such as TS_KS.zip, is one of its archives and is not opened."""
    return Listing(path, open_zip=not (path.is_file() and path.suffix.lower() == ".zip" and is_role(path.stem)))


def _list_given(path: Path) -> Listing:
    """List the path of a flag; for a part of a ZIP, all parts in its folder."""
    part = PART.fullmatch(path.name)
    if part is None or not path.is_file():
        return _list_release(path)
    siblings = sorted(each for each in path.parent.iterdir() if each.name.startswith(f"{part[1]}.part"))
    return Listing(path, [each for each in siblings if each.is_file()])


# --- Candidates for the images or labels of a split.


class _Candidate(NamedTuple):
    where: str
    open: Callable[[], Members]
    rank: Match = Match(0, False, 0)
    loose: Sequence[ListedFile] = ()


def _open_only(listing: Listing, split: Split, role: Role) -> Members:
    """Open the best candidate for a role. Raises InputError if there is none, or if several differ."""
    candidates = sorted(_candidates(listing.files, split, role), key=lambda candidate: candidate.rank)
    if not candidates:
        raise _missing(listing, split, role)
    best = candidates[0]
    members = _only([each for each in candidates if each.rank == best.rank], listing.release, split, role)
    if best.rank.inexact and not members.note:
        members.note = f"{members.where} is taken for the {split} {role}, because nothing has the name itself"
    return members


def _only(candidates: Sequence[_Candidate], release: Path, split: Split, role: Role) -> Members:
    """Open the only candidate, or the first of several with the same files. Raises InputError if they differ."""
    first, *others = candidates
    if not others:
        return first.open()
    opened: list[Members] = []
    with suppress(InputError):
        opened += [candidate.open() for candidate in candidates]
    if len(opened) < len(candidates) or any(not _same_files(opened[0], other, role) for other in opened[1:]):
        raise InputError(
            f"expected one {STEMS[split, role]} below {release}, found {first.where} and {others[0].where}, which"
            f" differ; name the right one with --{split}-{role}"
        )
    opened[0].note = f"{first.where} and {others[0].where} hold the same files; {first.where} is used"
    return opened[0]


def _same_files(a: Members, b: Members, role: Role) -> bool:
    """Return whether two sources have files of the same names and sizes, and for labels the same bytes."""
    contents = []
    for members in (a, b):
        numbers = [i for i, name in enumerate(members.names) if name.lower().endswith(SUFFIXES[role])]
        contents.append({members.names[i]: (i, members.size(i)) for i in numbers})
    mine, theirs = contents
    if {name: size for name, (_, size) in mine.items()} != {name: size for name, (_, size) in theirs.items()}:
        return False
    return all(_same_bytes((a, mine[name][0]), (b, theirs[name][0]), read=role == "labels") for name in mine)


def _same_bytes(*files: tuple[Members, int], read: bool) -> bool:
    """Compare checksums of two files, if both are recorded, or if they may be computed by reading."""
    try:
        checksums = [members.crc(i) for members, i in files]
        if None in checksums and read:
            checksums = [zlib.crc32(members.read(i).data) for members, i in files]
    except InputError:
        return False
    return None in checksums or checksums[0] == checksums[1]


def _candidates(files: Iterable[ListedFile], split: Split, role: Role) -> Iterator[_Candidate]:
    """Yield every ZIP, set of parts and folder of loose files that matches a name of the role."""
    parts: dict[Match, list[tuple[int, ListedFile]]] = {}
    folders: dict[tuple[str, Match], list[ListedFile]] = {}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        part = PART.fullmatch(name)
        if part or name.lower().endswith(".zip"):
            place = f"{folder}/{part[1] if part else name}"[:-4].lstrip("/")
            rank = match(place, split, role)
            if rank is None or (rank.depth and is_role(place.rpartition("/")[2])):
                continue
            if part:
                parts.setdefault(rank, []).append((int(part[2]), file))
            else:
                yield _Candidate(file.where, partial(_open_listed_zip, file, role), rank)
        elif name.lower().endswith(SUFFIXES[role]) and (rank := match(folder, split, role, outermost=True)):
            above = folder.split("/")
            key = "/".join(above[: len(above) - rank.depth]), rank._replace(depth=0)
            folders.setdefault(key, []).append(file)
    for rank, numbered in parts.items():
        yield _Candidate(numbered[0][1].where, partial(_open_parts, numbered, role), rank)
    for (folder, rank), inside in folders.items():
        yield _Candidate(_place_of(folder, inside[0]), partial(_open_role_folder, folder, inside, role), rank, inside)


def _any_candidates(listing: Listing, kind: Kind) -> list[_Candidate]:
    """Return all candidates, whatever their names: all loose files as one, otherwise each ZIP and set of parts."""
    loose = [file for file in listing.files if file.path.lower().endswith(SUFFIXES[kind])]
    if loose:
        where = str(listing.release)
        return [_Candidate(where, partial(_open_folder, loose, where, kind), loose=loose)]
    parts: dict[str, list[tuple[int, ListedFile]]] = {}
    candidates = []
    for file in listing.files:
        part = PART.fullmatch(file.path)
        if part:
            parts.setdefault(part[1], []).append((int(part[2]), file))
        elif file.path.lower().endswith(".zip") and file.path != listing.release.name:
            candidates.append(_Candidate(file.where, partial(_open_listed_zip, file, kind)))
    candidates += [_Candidate(files[0][1].where, partial(_open_parts, files, kind)) for files in parts.values()]
    return [candidate for candidate in candidates if not _is_other_kind(candidate)] or candidates


def _is_other_kind(candidate: _Candidate) -> bool:
    try:
        candidate.open()
    except InputError as error:  # others are reported when it is opened for use
        return isinstance(error, OtherKind)
    return False


def _place_of(folder: str, file: ListedFile) -> str:
    """Return the place of a folder, given a file in it."""
    return file.where[: len(file.where) - len(file.path) + len(folder)].rstrip(": ")


def _missing(listing: Listing, split: Split, role: Role) -> InputError:
    """Return the error of a role that is not in a listing; it names a file of that name that cannot be read."""
    stem, flag, suffix = STEMS[split, role], f"--{split}-{role}", SUFFIXES[role][0]
    for file in listing.files:
        place, kind, advice = _unread(file.path)
        if kind and match(place, split, role):
            return InputError(
                f"expected {stem}.zip, its parts, a .tar or a folder below {listing.release}, found {file.where},"
                f" which is {kind}; {advice}, or name the {role} with {flag}"
            )
    others = [file for file in listing.files if match(os.path.dirname(file.path), split, role)]
    if others:
        return _other_kind([file.path for file in others], _place_of(os.path.dirname(others[0].path), others[0]), role)
    names = {file.where: os.path.splitext(os.path.basename(file.path)) for file in listing.files}
    zips = [place for place, (name, end) in names.items() if end.lower() == ".zip" and not is_role(name)]
    unread = (listing.unvisited + [place for place in zips if place != str(listing.release)])[:3]
    unvisited = f" ({', '.join(unread)} not looked into)" if unread else ""
    return InputError(
        f"no {stem}.zip below {listing.release}, nor its parts or a folder {stem} of {suffix} files, among"
        f" {len(listing.files)} files{unvisited}; download it from AI Hub 71805, or name it with {flag}"
    )


def _unread(path: str) -> tuple[str, str, str]:
    """Return the place of an archive that cannot be read here, its kind, and what helps; the kind is "" if it can."""
    for endings, kind, advice in _UNREAD:
        ending = re.search(f"({endings})$", path, re.IGNORECASE)
        if ending:
            return path[: ending.start()], kind, advice
    return path, "", "name the folder or archive that has them"


def _other_kind(names: Sequence[str], where: str, kind: Kind) -> OtherKind:
    """Return the error of a source that has no file of this kind."""
    example = os.path.basename(next(iter(names), ""))
    endings = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names).most_common(2)
    counts = " and ".join(f"{count} of {ending}" for ending, count in endings)
    held = f"files of other kinds ({counts}), such as {example}" if names else "no files"
    return OtherKind(
        f"expected {kind} in {where}, which are {_IN_WORDS[kind]} files, found {held}; name the {kind} themselves"
    )


# --- How each form is opened.


def _open_override(given: Path, split: Split, role: Role) -> Members:
    """Open the path of a flag as this role, whatever its name."""
    listing = _list_given(given)
    if any(_candidates(listing.files, split, role)):
        return _open_only(listing, split, role)
    if given.is_file() and given.suffix.lower() == ".zip":
        return _open_zip(ByteRange.of_file(given), role)
    candidates = _any_candidates(listing, role)
    if not candidates:
        raise _missing(listing, split, role)
    return _only(candidates, given, split, role)


def _open_zip(source: ByteRange, kind: Kind) -> Members:
    """Open a ZIP that has files of the kind, or that stores one ZIP that does. Raises InputError if it is neither."""
    try:
        archive = Archive(source, largest=_LARGEST[kind])
        if _fits(archive.names, kind):
            return archive
    except CutShort:
        raise
    except InputError:  # its members may all be too large, because they are ZIPs
        archive = None
    members = [member for member in zip_members.directory(source).members if not is_foreign(member.path)]
    zips = [member for member in members if member.path.lower().endswith(".zip")]
    if len(zips) == 1:
        return _open_zip(_stored(source, zips[0], f"{source.where}: {zips[0].path}"), kind)
    if archive is None:
        Archive(source)  # raises again
    raise _other_kind([member.path for member in members], source.where, kind)


def _stored(source: ByteRange, member: zip_members.ZipMember, where: str) -> ByteRange:
    span = stored_span(source, member)
    if span is None:
        raise InputError(f"{where} is deflated or damaged in its ZIP and cannot be read in place; unpack that ZIP")
    return source.slice(*span, where)


def _open_listed_zip(file: ListedFile, kind: Kind) -> Members:
    return _open_zip(file.bytes(), kind)


def _open_parts(numbered: Sequence[tuple[int, ListedFile]], kind: Kind) -> Members:
    return _open_zip(join_parts(numbered), kind)


def _fits(names: Iterable[str], kind: Kind) -> bool:
    return any(name.lower().endswith(SUFFIXES[kind]) for name in names)


def _open_role_folder(folder: str, files: Sequence[ListedFile], role: Role) -> Members:
    """Open the loose files below a folder of a listing."""
    return _open_folder(files, _place_of(folder, files[0]), role, folder)


def _open_folder(files: Sequence[ListedFile], where: str, kind: Kind, folder: str = "") -> Members:
    """Open loose files, on disk or in a tar, with their paths below `folder`.

    Files in a ZIP may be compressed, so they are read through their ZIP; it is the first part of `folder`.
    """
    below = len(folder) + 1 if folder else 0
    if files and files[0].container is not None:
        return Archive(files[0].container, folder.partition("/")[2] + "/" if folder else "", _LARGEST[kind])
    loose = [LooseFile(file.path[below:], file.segment, file.modified) for file in files if file.segment]
    return Folder(loose, where, _LARGEST[kind])


def _merged(sources: Sequence[Members], kind: Kind, flag: str) -> Members:
    """Return all files of several sources. Raises InputError if two different ones have the same name."""
    first: dict[str, tuple[Members, int]] = {}
    for source in sources:
        for i, name in enumerate(source.names):
            other, j = first.setdefault(name, (source, i))
            if other is source:
                continue
            if other.size(j) != source.size(i) or not _same_bytes((other, j), (source, i), read=True):
                raise InputError(
                    f"expected {kind} of different names, found two different ones named {name}, in {other.where} and"
                    f" {source.where}; give {flag} only one of these places"
                )
    return Merged(*sources)
