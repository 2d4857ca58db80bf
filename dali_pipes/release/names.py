"""File names: which files do not belong to a release, and which two names are the same.

Every form of a release uses these rules, so that a folder, a ZIP and a tar of the same files give the same names.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Literal

Kind = Literal["images", "labels", "pictures"]
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "images": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "labels": (".json",),
    "pictures": (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff"),
}
"""Suffixes of loose files by kind: the two roles of a release, and the pictures that predictions are made for."""

_LEFT_BY_SYSTEMS = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"})


def is_foreign(path: str) -> bool:
    """Return whether a path is hidden, such as ._a.jpg and .DS_Store, or was left by macOS or Windows."""
    return any(
        (part[:1] == "." and part.strip(".") != "") or part.lower() in _LEFT_BY_SYSTEMS for part in path.split("/")
    )


def file_name(path: str) -> str:
    """Return the last part of a path in Unicode's form NFC: macOS stores Korean names in NFD, others in NFC."""
    name = path.rsplit("/", 1)[-1]
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def stem_of(file: str) -> str:
    """Return the name of a tile, from its image file or its label file."""
    return file.rpartition(".")[0] or file


class NumberOf:
    """The number of each file name, also for a name that differs in Unicode form, case, or .jpg against .jpeg.

    An exact name always wins. A name that several files match in this looser way has no number.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._exact: dict[str, int] = {}
        self._alike: dict[str, int] = {}
        self._stem: dict[str, int] = {}
        for number, name in enumerate(names):
            self._exact[name] = number
            for alike, key in ((self._alike, name_key(name)), (self._stem, stem_of(name).casefold())):
                alike[key] = -1 if key in alike else number  # -1: ambiguous

    def __call__(self, name: str) -> int | None:
        """Return the number of the file `name`, or None."""
        name = file_name(name)
        number = self._exact.get(name, self._alike.get(name_key(name), -1))
        return None if number < 0 else number

    def of_tile(self, file: str) -> int | None:
        """Return the number of the file with the same name as `file` up to its suffix, or None."""
        stem = stem_of(file_name(file))
        exact = [self._exact[stem + suffix] for suffix in SUFFIXES["images"] if stem + suffix in self._exact]
        number = exact[0] if exact else self._stem.get(stem.casefold(), -1)
        return None if number < 0 else number


def name_key(name: str) -> str:
    """Return a key that is the same for names that differ only in case, or in .jpg against .jpeg."""
    folded = name.casefold()
    suffixes = SUFFIXES["images"]
    return stem_of(folded) + suffixes[0] if folded.endswith(suffixes) else folded
