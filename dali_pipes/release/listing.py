"""All files of a release, on disk and inside its tars or its ZIP, listed in place: nothing is unpacked.

A link to a folder is followed, unless it leads to a folder that contains it. Links inside a linked folder are not
followed, so no walk is endless.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from . import tar_members, zip_members
from .byte_range import ByteRange, Segment
from .names import is_foreign

MOST_FILES = 1_000_000  # of a release with all its archives; the published one has 18,000


class ListedFile(NamedTuple):
    """A file on disk, or in a tar or ZIP of the release."""

    path: str
    """Path below the release with / between folders; an archive counts as a folder, named without its suffix."""
    where: str
    """Where it is, for error messages."""
    segment: Segment | None
    """Where its bytes are; None if it is deflated or unreadable in a ZIP."""
    modified: int
    """Time of the last change, in nanoseconds."""
    container: ByteRange | None = None
    """The ZIP that contains it, if any."""

    @property
    def length(self) -> int:
        """Its number of bytes; 0 if they cannot be read in place."""
        return self.segment.length if self.segment else 0

    def bytes(self) -> ByteRange:
        """Return its bytes. Raises InputError if they cannot be read in place."""
        if self.segment is None:
            raise InputError(
                f"{self.where} is deflated or damaged in its ZIP and cannot be read in place; unpack that ZIP"
            )
        return ByteRange([self.segment], self.where)


class Listing:
    """The `files` of a release, and the `unvisited` paths in it, with reasons.

    `only`: list these files next to `release` instead. Raises InputError if `release` is not a folder, tar or ZIP, or
    is damaged.
    """

    def __init__(self, release: Path, only: Sequence[Path] = (), *, open_zip: bool = True) -> None:
        self.release = release
        self.unvisited: list[str] = []
        if only:
            listed: Iterator[ListedFile] = (file for path in only for file in list_file(path, path.name))
        elif release.is_dir():
            listed = self._walk(release)
        elif release.is_file() and release.suffix.lower() in (".tar", ".zip"):
            listed = list_file(release, release.name, open_zip=open_zip)
        else:
            raise InputError(
                f"expected a release, which is a folder, a .tar or a .zip, found none of them at {release}"
                + ("; decompress or unpack it first" if release.is_file() else "")
            )
        self.files = list(islice(listed, MOST_FILES + 1))
        if len(self.files) > MOST_FILES:
            raise InputError(
                f"expected at most {MOST_FILES:,} files in {release}, found more; name the folder of the release itself"
            )

    def _walk(self, top: Path) -> Iterator[ListedFile]:
        folders = [(str(top), True)]
        while folders:
            folder, follows_links = folders.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self.unvisited.append(f"{folder} ({error.strerror})")
                continue
            for entry in entries:
                if is_foreign(entry.name):
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((entry.path, follows_links))
                    elif entry.is_dir():
                        if follows_links and not Path(folder).resolve().is_relative_to(Path(entry.path).resolve()):
                            folders.append((entry.path, False))
                        else:
                            self.unvisited.append(f"{entry.path} (a link to a folder)")
                    elif entry.is_file():
                        path = Path(entry.path)
                        yield from list_file(path, path.relative_to(top).as_posix())
                    elif entry.is_symlink():
                        self.unvisited.append(f"{entry.path} (a link to no file)")
                except OSError as error:  # a link to itself, or a file that was deleted meanwhile
                    self.unvisited.append(f"{entry.path} ({error.strerror})")


def list_file(path: Path, below: str, *, open_zip: bool = False) -> Iterator[ListedFile]:
    """Yield the file `path` as `below`, then the files inside it if it is a tar, or a ZIP and `open_zip`."""
    status = path.stat()
    modified = max(status.st_mtime_ns, status.st_ctime_ns)  # cp -p and rsync -t restore only the mtime
    yield ListedFile(below, str(path), Segment(path, 0, status.st_size), modified)
    stem, suffix = os.path.splitext(below)
    if suffix.lower() == ".tar" and status.st_size:
        for member in tar_members.plain_files(ByteRange.of_file(path)):
            if is_foreign(member.path):
                continue
            segment = Segment(path, member.offset, member.length)
            yield ListedFile(f"{stem}/{member.path}", f"{path}: {member.path}", segment, modified)
    elif open_zip and suffix.lower() == ".zip":
        container = ByteRange.of_file(path)
        for inner in zip_members.directory(container).members:
            if is_foreign(inner.path):
                continue
            span = stored_span(container, inner)
            stored = Segment(path, span[0], span[1] - span[0]) if span else None
            yield ListedFile(f"{stem}/{inner.path}", f"{path}: {inner.path}", stored, modified, container)


def stored_span(container: ByteRange, member: zip_members.ZipMember) -> tuple[int, int] | None:
    """Return where the bytes of a ZIP's member start and stop in it; None if it is compressed or damaged."""
    if member.fault or member.method != zip_members.STORED:
        return None
    try:
        return zip_members.locate(container, member)
    except ValueError:
        return None
