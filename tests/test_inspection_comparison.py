"""`--against`: what was planted between two releases is shown, and nothing else."""

from __future__ import annotations

import json
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dali_pipes.errors import InputError
from dali_pipes.inspect.comparison import checksum, compare
from dali_pipes.release.members import Members
from dali_pipes.samples.table import SampleTable
from tests.conftest import jpeg
from tests.test_inspection import inspected, line, shown
from tests.test_inspection import tile as tile_of
from tests.test_inspection_audit import table

BEFORE: dict[str, Any] = {
    "K3_A_1_1.jpg": tile_of("K3_A_1_1.jpg", (line(30, 40), 50), (line(60, 0), 60), (line(0, 70), 70)),
    "K3_A_1_2.jpg": tile_of("K3_A_1_2.jpg", (line(30, 40), 50)),
    "K3_A_1_3.jpg": tile_of("K3_A_1_3.jpg", (line(30, 40), 50), (line(30, 40), 50)),
    "K3_A_1_4.jpg": tile_of("K3_A_1_4.jpg", (line(30, 40), 50)),
}
AFTER: dict[str, Any] = {
    "K3_A_1_1.jpg": tile_of(
        "K3_A_1_1.jpg", (line(9, 40), 41), (line(30, 40), 50.5), (line(61, 0), 60), (line(0, 70), 70)
    ),
    "K3_A_1_2.jpg": (jpeg(512, 512, seed=9), tile_of("K3_A_1_2.jpg", (line(30, 40), 50), img_resolution="0.7")[1]),
    "K3_A_1_3.jpg": tile_of("K3_A_1_3.jpg", (line(30, 40), 50)),
    "K3_A_1_5.jpg": tile_of("K3_A_1_5.jpg", (line(30, 40), 50)),
}


@pytest.fixture
def two_releases(write_split: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(before, after): the training split changed, validation only in the archive's order and compression."""
    write_split(BEFORE)
    before = shutil.copytree(write_split(BEFORE, "validation"), tmp_path_factory.mktemp("earlier") / "release")
    write_split(AFTER)
    return before, write_split(dict(reversed(BEFORE.items())), "validation", deflate=True)


def test_planted_changes_are_reported_by_split(
    two_releases: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = two_releases
    splits = inspected(capsys, after, "--against", before)["against"]["splits"]
    train = splits["train"]
    assert train["pictures_added"] == ["K3_A_1_5.jpg"]
    assert train["pictures_removed"] == ["K3_A_1_4.jpg"]
    assert train["pictures_changed"] == ["K3_A_1_2.jpg"]
    assert train["pictures_same"] == 2
    assert [(label["tile"], label["height"]) for label in train["labels_added"]] == [
        ("K3_A_1_1.jpg", 41),
        ("K3_A_1_5.jpg", 50),
    ]
    assert [label["tile"] for label in train["labels_removed"]] == ["K3_A_1_3.jpg", "K3_A_1_4.jpg"]
    assert train["labels_same"] == 2
    changed = {(change["after"]["tile"], *change["what"]): change for change in train["labels_changed"]}
    assert set(changed) == {
        ("K3_A_1_1.jpg", "height"),
        ("K3_A_1_2.jpg", "metadata"),
        ("K3_A_1_1.jpg", "polyline"),
    }
    height = changed["K3_A_1_1.jpg", "height"]
    assert (height["before"]["height"], height["after"]["height"]) == (50, 50.5)
    assert changed["K3_A_1_2.jpg", "metadata"]["after"]["metadata"] == [0.7, None, None]
    assert splits["validation"]["labels_same"] == 7
    assert not any(value for key, value in splits["validation"].items() if not key.endswith("_same"))

    printed = shown(capsys, after, "--against", before)
    assert "train: pictures 1 added, 1 removed, 1 changed, 2 the same; labels 2 added, 2 removed, 3 changed" in printed
    assert "validation: no change in 4 pictures and 7 labels" in printed
    assert "height 50.00 m → 50.50 m" in " ".join(printed.split())


def test_a_split_that_one_release_lacks_is_named_as_not_compared(
    two_releases: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = two_releases
    (before / "VS_KS.zip").unlink()
    assert "validation: not compared, because the other release lacks it: no VS_KS.zip" in shown(
        capsys, after, "--against", before
    )
    assert "validation: not compared, because this release lacks it" in shown(capsys, before, "--against", after)


labels = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(1, 2), st.sampled_from(["50", "60"]), st.booleans()),
    min_size=1,
    max_size=12,
)


def made(rows: list[tuple[str, int, str, bool]]) -> SampleTable:
    tiles: dict[str, tuple[list[Any], list[str]]] = {}
    for name, dx, height, bent in rows:
        polylines, heights = tiles.setdefault(f"K3_A_1_{name}.jpg", ([], []))
        polylines.append([*line(dx, 40), (230, 260)] if bent else line(dx, 40))
        heights.append(height)
    return table([(name, *columns) for name, columns in tiles.items()])


@settings(max_examples=80, deadline=None)
@given(labels, labels)
def test_every_label_is_accounted_for_once(before: Any, after: Any) -> None:
    changes = compare(made(before), made(after))
    changed = len(changes.labels_changed)
    assert changes.labels_same + changed + len(changes.labels_removed) == len(before)
    assert changes.labels_same + changed + len(changes.labels_added) == len(after)
    assert changes.labels_same == (Counter(before) & Counter(after)).total()
    assert all(change.what for change in changes.labels_changed)
    back = compare(made(after), made(before))
    assert len(back.labels_added) == len(changes.labels_removed)
    assert compare(made(before), made(before)).nothing


def test_a_picture_is_identified_by_the_crc_of_its_archive_or_else_by_its_bytes() -> None:
    class Plain(Members):
        def __init__(self) -> None:
            self.names = ["a"]

        def read(self, index: int) -> NDArray[np.uint8]:
            return np.frombuffer(b"abc", np.uint8)

    class WithCrc(Plain):
        def read(self, index: int) -> NDArray[np.uint8]:
            raise AssertionError("its CRC is known")

        def crc(self, index: int) -> int:
            return zlib.crc32(b"abc")

    class Damaged(Plain):
        def read(self, index: int) -> NDArray[np.uint8]:
            raise InputError("damaged")

    assert checksum(Plain(), 0) == checksum(WithCrc(), 0) == 0x352441C2
    assert checksum(Damaged(), 0) is None


def test_json_is_one_line_and_nothing_else(two_releases: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before, after = two_releases
    printed = shown(capsys, after, "--json", "--against", before)
    assert printed.count("\n") == 1
    json.loads(printed)
