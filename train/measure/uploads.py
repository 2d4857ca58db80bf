"""Files that were dropped on the page: bounded in bytes, and kept in a temporary folder until the program ends.

A file is stored under a number and a known suffix, never under the name that a browser sends. That name is only shown,
and matched with the names in labels. A program holds a lock in its folder; the next program deletes the folders of
those that were killed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dali_pipes.errors import InputError
from dali_pipes.files import ABANDONED_S, delete_unless_held
from dali_pipes.release.find import open_images
from dali_pipes.release.members import Members, Merged
from dali_pipes.release.names import SUFFIXES, file_name, is_foreign
from dali_pipes.release.parts import PART
from dali_pipes.samples.picture import Pictures
from dali_pipes.samples.via import LONGEST_FILENAME

MOST_BYTES = 4 << 30  # of all dropped files together; a release's validation split has 70 MB
MOST_FILES = 20_000
PREFIX = "chimney-measure-"  # of the temporary folders
OWNER = "owner.lock"
ARCHIVES = (".zip", ".tar")
TABLES = (".csv", ".json")


class Dropped(NamedTuple):
    """A dropped file: the name that the browser sent, and where its bytes are."""

    name: str
    path: Path


class Uploads:
    """The temporary folder of one program; it is deleted when the program ends. Raises OSError if there is no space."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        sweep_folders(Path(tempfile.gettempdir()))
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        self._owner = _own(self.folder)
        self._most_bytes, self._bytes = most_bytes, 0
        self._files: list[Dropped] = []

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return Path(self._folder.name)

    def close(self) -> None:
        """Delete the folder now."""
        self._folder.cleanup()
        self._owner.close()

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Store a file, and return its number. Raises InputError if it is too large or of an unknown kind."""
        name = checked_name(name)
        if len(self._files) >= MOST_FILES:
            raise InputError(f"expected at most {MOST_FILES:,} dropped files, found more; pack them into a ZIP")
        number = len(self._files)
        part = PART.fullmatch(name)
        suffix = f".zip.part{part[2]}" if part else Path(name).suffix.lower()
        # Parts of one ZIP are found by their common name, so they get a common number.
        stem = next((each.path.name.split(".")[0] for each in self._files if part and _is_sibling(each, part[1])), "")
        path = self.folder / f"{stem or number}{suffix}"
        self._files.append(Dropped(name, path))
        received = 0
        try:
            with path.open("xb") as file:
                async for chunk in chunks:
                    received += len(chunk)
                    self._bytes += len(chunk)
                    if self._bytes > self._most_bytes:
                        raise InputError(
                            f"expected at most {self._most_bytes >> 20:,} MiB of dropped files, found more; start the"
                            " program with --images and the path instead"
                        )
                    file.write(chunk)
        except FileExistsError:
            raise InputError(f"{name} was dropped twice; drop each file once") from None
        except BaseException:
            self._bytes -= received
            path.unlink(missing_ok=True)
            raise
        return number

    def open(self, numbers: Sequence[int]) -> tuple[Pictures, list[Path]]:
        """The pictures among some files, and the paths of the others, which may have polylines. Raises InputError."""
        files = [self._files[number] for number in numbers if 0 <= number < len(self._files)]
        pictures = [file for file in files if file.name.lower().endswith(SUFFIXES["pictures"])]
        members: list[Members] = [DroppedPictures(pictures)] if pictures else []
        others = [file.path for file in files if file.name.lower().endswith(TABLES)]
        seen = set()
        refusal: InputError | None = None
        for file in files:
            stem = file.path.name.split(".")[0]
            if file in pictures or file.path in others or stem in seen:
                continue
            seen.add(stem)
            try:
                members.append(open_images([file.path]))
            except InputError as error:  # an archive of labels
                refusal = InputError(str(error).replace(str(file.path), file.name))
                others.append(file.path)
        if not members:
            raise refusal or InputError(
                "expected pictures among the dropped files, found none; drop JPEGs, PNGs, TIFFs or a ZIP"
            )
        return Pictures(members[0] if len(members) == 1 else Merged(*members)), others


def sweep_folders(parent: Path) -> None:
    """Delete the folders in `parent` that killed programs of this user left. Those of live programs stay."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # another program was faster, or the folder belongs to somebody else
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            is_new = time.time() - status.st_mtime < ABANDONED_S  # without an owner it may just be made
            owner = folder / OWNER
            if delete_unless_held(owner) if owner.exists() else not is_new:
                shutil.rmtree(folder)


def _own(folder: Path) -> BinaryIO:
    """A file in `folder`, locked until it is closed or the process ends; it gets its name once it is locked."""
    owner = (folder / "new").open("xb")
    with suppress(OSError):  # a file system without locks
        fcntl.flock(owner, fcntl.LOCK_EX)
    (folder / "new").rename(folder / OWNER)
    return owner


def _is_sibling(file: Dropped, archive: str) -> bool:
    part = PART.fullmatch(file.name)
    return part is not None and part[1] == archive


class DroppedPictures(Members):
    """Dropped JPEGs under the names that they had."""

    where = "the dropped files"

    def __init__(self, files: Sequence[Dropped]) -> None:
        self.names = [file.name for file in files]
        self._paths = [file.path for file in files]
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(f"expected dropped files of different names, found {twice} twice; drop one of them")

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of a file as (n,) uint8."""
        return np.fromfile(self._paths[index], np.uint8)


def checked_name(name: str) -> str:
    """The last part of a name from a browser. Raises InputError if it is no name of a file that can be opened here."""
    name = file_name(name.replace("\\", "/"))
    known = (*SUFFIXES["pictures"], *ARCHIVES, *TABLES)
    is_known = name.lower().endswith(known) or PART.fullmatch(name) is not None
    if not name or len(name) > LONGEST_FILENAME or not name.isprintable() or is_foreign(name) or not is_known:
        shown = re.sub(r"[^\w.\- ]", "?", name[:60])
        raise InputError(f"expected a JPEG, PNG, TIFF, ZIP, tar, VIA JSON or CSV, found {shown!r}; drop one of these")
    return name
