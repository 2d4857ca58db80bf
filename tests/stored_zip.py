"""Where the bytes of each entry of a ZIP are, for tests that damage them."""

from __future__ import annotations

import zipfile
from pathlib import Path


def records(path: Path) -> list[tuple[str, int, int]]:
    """(name, offset of its bytes, length) of each entry of a ZIP with stored entries."""
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, entry.header_offset, entry.file_size) for entry in archive.infolist()]
    lengths = [
        int.from_bytes(data[at + 26 : at + 28], "little") + data[at + 28] + 256 * data[at + 29] for _, at, _ in entries
    ]
    return [(name, at + 30 + skip, size) for (name, at, size), skip in zip(entries, lengths, strict=True)]
