"""`Members`: the files of one role, read by number, wherever their bytes lie.

`archive.Archive` (a ZIP) and `archive.Folder` (loose files) are the two that read a release. A source in memory may
subclass `Members`, and then has to define only `names` and `read`.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Members(Protocol):
    """Random access to files that are numbered in the order of `names`."""

    names: list[str]
    """File names without folders, each once."""

    where: str = "memory"
    """The place of the files, as error sentences name it."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of file `index` as (n,) uint8. Raises InputError if it cannot be read."""

    def fault(self, index: int) -> str:
        """Return why file `index` cannot be read, as far as that is known without reading it, or ""."""
        return ""

    def crc(self, index: int) -> int | None:
        """Return the CRC-32 that was recorded for file `index`, or None if none was."""
        return None

    def size(self, index: int) -> int:
        """Return the recorded number of bytes of file `index`."""
        return len(self.read(index))

    def fingerprint(self) -> str:
        """Return a hexadecimal digest that changes when the files do."""
        digest = hashlib.blake2b(digest_size=16)
        for index, name in enumerate(self.names):
            data = self.read(index)
            digest.update(f"{name}\0{len(data)}\0".encode("utf-8", "backslashreplace"))
            digest.update(data.data)
        return digest.hexdigest()
