"""Copy a release to a local disk before it is read, for --stage FOLDER.

    local = staged(paths, console)      # ReleasePaths in, ReleasePaths out

Tiles are read in small pieces, which is slow on Google Drive and on network mounts. Copying in large pieces is fast.
Each file that holds images or labels is copied to FOLDER/NAME-HASH, to its place below the release. The hash is that of
the release's path and the names of its files, so no folder has files of two releases.

A file whose copy is current is not read again; see file_copy.py. Processes that start together wait for the first one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..capacity import free_disk
from ..console import activity, say
from ..errors import InputError
from ..files import alone
from ..units import byte_size
from .file_copy import FileCopy
from .find import open_split
from .mounts import slow_mount
from .paths import ROLES, SPLITS, ReleasePaths

if TYPE_CHECKING:
    from rich.console import Console


def staged(paths: ReleasePaths, console: Console) -> ReleasePaths:
    """Return the paths of the copy in `paths.stage`, which is completed first. Without --stage, `paths` and advice.

    A release that lacks a split is not copied; the sentence of whoever opens it says what is missing. Raises InputError
    if the disk is too small, before anything is copied, and if a file cannot be copied.
    """
    if paths.stage is None:
        _advise(paths, console)
        return paths
    try:
        files = _files_in_use(paths)
    except InputError:
        return paths
    folders = {root: paths.stage / f"{root.name}-{_digest(root, *below)}" for root, below in files.items()}
    try:
        _refuse_within(paths.stage, paths)
        paths.stage.mkdir(parents=True, exist_ok=True)
        with alone(paths.stage / ".lock"):
            copies = [FileCopy.of(root / file, folders[root] / file) for root, below in files.items() for file in below]
            _copy_missing([copy for copy in copies if not copy.is_current()], paths.stage, console)
    except OSError as error:
        raise InputError(
            f"the release cannot be copied to --stage {paths.stage}: {error.strerror or error}; correct this and start"
            " again, and the copy continues"
        ) from None
    roots = {given: _root(given) for given in paths.sources() if _root(given) in folders}
    return paths.moved({given: folders[root] / given.relative_to(root) for given, root in roots.items()})


def _advise(paths: ReleasePaths, console: Console) -> None:
    for given in paths.sources():
        if kind := slow_mount(given):
            say(
                console,
                f"{given} is on a {kind} mount, which reads small pieces slowly: --stage FOLDER copies it first",
            )
            return


def _files_in_use(paths: ReleasePaths) -> dict[Path, list[Path]]:
    """Return folder → files below it that hold images and labels. Raises InputError."""
    files: dict[Path, set[Path]] = {}
    for split in SPLITS:
        for role, members in zip(ROLES, open_split(paths, split), strict=True):
            root = _root(paths.override(split, role) or paths.release)
            files.setdefault(root, set()).update(file.relative_to(root) for file in members.disk_files())
    return {root: sorted(below) for root, below in files.items()}


def _root(given: Path) -> Path:
    return given if given.is_dir() else given.parent


def _digest(root: Path, *files: Path) -> str:
    names = "\0".join(map(str, (root.absolute(), *files)))
    return hashlib.blake2b(os.fsencode(names), digest_size=6).hexdigest()


def _refuse_within(stage: Path, paths: ReleasePaths) -> None:
    for given in paths.sources():
        if given.is_dir() and stage.resolve().is_relative_to(given.resolve()):
            raise InputError(f"--stage {stage} is inside {given}, which it should copy; choose a folder elsewhere")


def _copy_missing(copies: list[FileCopy], stage: Path, console: Console) -> None:
    """Copy the files one after the other. Raises InputError, and OSError if a file cannot be read or written."""
    for copy in copies:
        copy.remove_outdated()
    good = [copy.good_bytes() for copy in copies]
    total = sum(copy.size for copy in copies)
    needed, free = total - sum(good), free_disk(stage)
    if needed > free:
        raise InputError(
            f"--stage {stage} needs {byte_size(needed)} for the copy of the release, found {byte_size(free)} free;"
            " choose a folder on a larger disk, or leave out --stage"
        )
    done = 0
    with activity(console, "copying the release (MiB)", total >> 20) as shown:
        for copy, start in zip(copies, good, strict=True):
            for position in copy.pieces(start):
                shown.done = (done + position) >> 20
            copy.complete()
            done += copy.size
