"""The properties of tests/chaos/fuzz.py, for the same few hundred mutations each time."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable

import pytest

from dali_pipes.release import zip_members
from dali_pipes.release.archive import Archive
from tests.chaos.fuzz import PROPERTIES, ZIP, fuzzed, in_pieces, zip_name


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda each: each.__name__)
def test_mutations_are_refused_or_read_as_an_oracle_reads_them(holds: Callable[[], None]) -> None:
    fuzzed(300, random=False)(holds)()


def test_the_original_zip_is_read_by_both() -> None:
    """The property above would hold trivially if no archive were read by both."""
    with tempfile.TemporaryDirectory() as folder:
        mine = Archive(in_pieces(folder, ZIP, 150))
        oracle = zipfile.ZipFile(io.BytesIO(ZIP))
        assert [mine.read(i).tobytes() for i in range(4)] == [oracle.read(info) for info in oracle.infolist()]
        assert [zip_name(info) for info in oracle.infolist()] == mine.names
        assert len(zip_members.directory(in_pieces(folder, ZIP, 7)).members) == 4
