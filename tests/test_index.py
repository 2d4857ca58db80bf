"""The index passes only what DALI decodes, is built once, and checks everything that it reads from its cache."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nvidia.dali import fn, pipeline_def, types
from rich.console import Console

import dali_pipes.samples.index
import train.__main__
from dali_pipes import SampleTable
from dali_pipes.errors import InputError
from dali_pipes.release.members import Members
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.index import check_by_decoding, open_index, refuse_above
from dali_pipes.samples.jpeg import JpegHeader, pixels_only
from dali_pipes.samples.labels import LeftOut
from dali_pipes.samples.via import Reason
from tests.conftest import jpeg, via_label

LINE = [(10, 20), (30, 40)]
QUIET = Console(quiet=True)
GOOD = jpeg(64, 96)
HALF = GOOD[: len(GOOD) // 2] + GOOD[-2:]


class InMemory(Members):
    def __init__(self, *images: bytes) -> None:
        self.names = [f"{i}.jpg" for i in range(len(images))]
        self._images = images

    def read(self, index: int) -> np.ndarray:
        return np.frombuffer(self._images[index], np.uint8)


def checked(*images: bytes) -> list[JpegHeader | Reason]:
    wanted = range(len(images))
    return list(check_by_decoding(InMemory(*images), wanted, title="", console=QUIET, threads=2))


def equal(a: SampleTable, b: SampleTable) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(a) if field.name != "images"]
    return all(np.array_equal(x, y, equal_nan=isinstance(x, np.ndarray) and x.dtype.kind == "f") for x, y in pairs)


# --- The check.


@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def _dali(data: np.ndarray) -> Any:
    encoded = fn.external_source(lambda _: [data], batch=True, dtype=types.UINT8, ndim=1)
    return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)


def dali_decoded(data: np.ndarray) -> np.ndarray:
    return np.array(_dali(data).run()[0].at(0))


def dali_decodes(data: bytes) -> tuple[int, ...] | None:
    """The shape of what DALI decodes when it gets what the loader passes on."""
    try:
        return dali_decoded(pixels_only(np.frombuffer(data, np.uint8))).shape
    except RuntimeError:
        return None


def test_other_decoders_accept_data_that_end_halfway_and_the_index_does_not() -> None:
    assert dali_decodes(HALF) == (64, 96, 3)
    assert cv2.imdecode(np.frombuffer(HALF, np.uint8), cv2.IMREAD_COLOR) is not None
    assert checked(GOOD, HALF, GOOD)[1] is Reason.UNDECODABLE


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A JPEG that was cut or overwritten, or lost or gained some bytes; most keep their end marker."""
    data = bytearray(jpeg(48, 40, seed=draw(st.integers(0, 3))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(2, len(data) - 3))
        junk = draw(st.sampled_from([b"", b"\xff", b"\xff\xd9", b"\xff\xc0", b"\0" * 9]) | st.binary(max_size=9))
        data[at : at + draw(st.integers(0, 40))] = junk
    return bytes(data) + draw(st.sampled_from([b"\xff\xd9", b"\xff\xd9", b""]))


@settings(max_examples=150, deadline=None)
@given(damaged())
def test_what_dali_refuses_the_index_refuses(data: bytes) -> None:
    (found,) = checked(data)
    if isinstance(found, JpegHeader):
        assert dali_decodes(data) == (found.height, found.width, 3)


def test_grey_and_progressive_images_and_odd_sizes_pass() -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 101, 3), np.uint8)
    grey = cv2.imencode(".jpg", image[..., 0])[1].tobytes()
    progressive = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    found = checked(grey, progressive, jpeg(1, 1), jpeg(2, 3000), GOOD)
    assert [header[:3] for header in found if isinstance(header, JpegHeader)] == [
        *((37, 101, 1), (37, 101, 3), (1, 1, 3), (2, 3000, 3), (64, 96, 3))
    ]


def test_a_false_header_does_not_allocate_memory() -> None:
    size = GOOD.index(b"\xff\xc0") + 5
    huge = GOOD[:size] + b"\xff\xff\xff\xff" + GOOD[size + 4 :]
    assert checked(huge) == [Reason.TOO_LARGE]


def test_each_image_gets_its_own_result_in_order() -> None:
    images = [HALF if i % 7 == 3 else jpeg(16 + i, 16) for i in range(100)]
    for i, found in enumerate(checked(*images)):
        assert found is Reason.UNDECODABLE if i % 7 == 3 else found.height == 16 + i  # type: ignore[union-attr]


@pytest.mark.parametrize("archive", ["TS_KS", "TL_KS_LINE"])
def test_a_flipped_bit_is_found_by_the_archives_checksum(archive: str, write_split: Callable[..., Path]) -> None:
    tiles = {f"a_{i}.jpg": (jpeg(64, 96, seed=i), via_label(f"a_{i}.jpg", [LINE], "100.00")) for i in range(3)}
    path = write_split(tiles) / f"{archive}.zip"
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:  # stored: in a deflated member a flipped bit breaks the stream
        for name, data in members.items():
            file.writestr(name, data)
    flipped = bytearray(path.read_bytes())
    second = list(members.values())[1]
    inside = flipped.index(second) + (second.index(b"100.00") if archive == "TL_KS_LINE" else len(second) // 2)
    flipped[inside] ^= 2  # the label and the JPEG stay valid, with another height and another coefficient
    path.write_bytes(flipped)
    table, _ = open_index(ReleasePaths(path.parent), "train", console=QUIET)
    assert table.tile.tolist() == ["a_0.jpg", "a_2.jpg"]
    assert [(item.file.split(".")[0], item.reason) for item in table.left_out] == [("a_1", Reason.DAMAGED)]


def test_progress_is_shown_only_on_a_terminal(release: Path) -> None:
    for terminal in (True, False):
        text = StringIO()
        open_index(ReleasePaths(release), "train", console=Console(file=text, force_terminal=terminal))
        assert ("checking train tiles" in text.getvalue()) == terminal
        assert terminal or text.getvalue() == ""


# --- The cache.


@pytest.fixture
def built_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list with one entry per index that was built."""
    calls: list[int] = []
    build = dali_pipes.samples.index._build
    monkeypatch.setattr(dali_pipes.samples.index, "_build", lambda *given: calls.append(os.getpid()) or build(*given))  # type: ignore[func-returns-value]
    return calls


@pytest.fixture
def small(write_split: Callable[..., Path]) -> Path:
    """A release of four tiles, one of which is corrupt and one of which has a bad region."""
    tiles = {f"a_{i}.jpg": (jpeg(64, 96, seed=i), via_label(f"a_{i}.jpg", [LINE, LINE])) for i in range(2)}
    tiles["a_2.jpg"] = (HALF, via_label("a_2.jpg", [LINE]))
    tiles["한글_3.jpg"] = (GOOD, via_label("한글_3.jpg", [LINE, [(0, 0), (9, 9), (5, 1)], [(5, 5), (99, 5)]]))
    return write_split(tiles)


def test_a_release_is_indexed_once(release: Path, tmp_path: Path, built_once: list[int]) -> None:
    cold = open_index(ReleasePaths(release, index_cache=tmp_path / "a/cache"), "train", console=QUIET)
    warm = open_index(ReleasePaths(release, index_cache=tmp_path / "a/cache"), "train", console=QUIET)
    assert len(built_once) == 1
    assert equal(cold.table, warm.table)
    assert equal(warm.table, SampleTable.from_release(release))
    assert warm.table.images.names == cold.table.images.names
    moved = shutil.copytree(release, tmp_path / "moved")  # a copy may be damaged, even with the same times
    assert equal(
        open_index(ReleasePaths(moved, index_cache=tmp_path / "a/cache"), "train", console=QUIET).table, warm.table
    )
    assert len(built_once) == 2
    assert len(
        open_index(ReleasePaths(release, index_cache=tmp_path / "a/cache"), "validation", console=QUIET).table
    ) != len(warm.table)


def test_skipped_samples_are_cached_and_listed(small: Path, tmp_path: Path) -> None:
    for _ in range(2):
        table, listing = open_index(ReleasePaths(small, index_cache=tmp_path / "cache"), "train", console=QUIET)
        expected = {("a_2.jpg", -1, Reason.UNDECODABLE), ("한글_3.jpg", 2, Reason.OUTSIDE)}
        assert set(table.left_out) == expected
        assert isinstance(table.left_out[0], LeftOut)
        assert listing
        with listing.open(encoding="utf-8", newline="") as file:
            rows = [(row["file"], int(row["region"]), Reason(row["reason"])) for row in csv.DictReader(file)]
        assert set(rows) == expected


@pytest.mark.parametrize("archive", ["TS_KS.zip", "TL_KS_LINE.zip"])
def test_changed_data_are_indexed_again(small: Path, tmp_path: Path, archive: str, built_once: list[int]) -> None:
    open_index(ReleasePaths(small, index_cache=tmp_path / "cache"), "train", console=QUIET)
    state = (small / archive).stat()
    os.utime(small / archive, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    open_index(ReleasePaths(small, index_cache=tmp_path / "cache"), "train", console=QUIET)
    assert len(built_once) == 2


def _cached(small: Path, cache: Path) -> Path:
    open_index(ReleasePaths(small, index_cache=cache), "train", console=QUIET)
    (path,) = cache.glob("*.npz")
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_cache_is_never_trusted(small: Path, tmp_path: Path, data: st.DataObject) -> None:
    path = _cached(small, tmp_path / "cache")
    whole = path.read_bytes()
    bad = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bad[: data.draw(st.integers(0, len(bad)) | st.just(len(bad)))])
    table, _ = open_index(ReleasePaths(small, index_cache=tmp_path / "cache"), "train", console=QUIET)
    assert equal(table, open_index(ReleasePaths(small), "train", console=QUIET).table)


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": 99},
        {"key": "0" * 32},
        {"image": np.array([0, 0, 1, 1, 3, 4])},
        {"image": np.array([0, 0, 1, 1, -1, 3])},
        {"image": np.array([0, 1])},
        {"image": np.zeros(6, np.float64)},
        {"size": np.zeros((6, 2), np.int64)},
        {"polyline": np.full((6, 3, 2), np.nan)},
        {"polyline": np.full((6, 3, 2), 97.0)},
        {"polyline": np.zeros(6)},
        {"numbers": np.full((6, 4), np.inf)},
        {"numbers": np.zeros((6, 4))},
        {"left_out": np.frombuffer(b'[["a", 1, "NO_SUCH_REASON"]]', np.uint8)},
        {"left_out": np.frombuffer(b"[" * 100_000, np.uint8)},
        {"image": np.array([0, 0, 1, 1, 3, 3], object)},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_a_foreign_cache_is_never_trusted(
    small: Path, tmp_path: Path, wrong: dict[str, Any], built_once: list[int]
) -> None:
    path = _cached(small, tmp_path / "cache")
    with np.load(path) as stored:
        columns = dict(stored)
    assert len(columns["image"]) == 6
    np.savez(path, **{**columns, **wrong})
    table, _ = open_index(ReleasePaths(small, index_cache=tmp_path / "cache"), "train", console=QUIET)
    assert len(built_once) == 2
    assert equal(table, open_index(ReleasePaths(small), "train", console=QUIET).table)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_cache_cannot_run_code(small: Path, tmp_path: Path, built_once: list[int]) -> None:
    path = _cached(small, tmp_path / "cache")
    with np.load(path) as stored:
        columns = dict(stored)
    np.savez(path, **{**columns, "image": np.array([Bomb(tmp_path / "gone off")], object)})
    open_index(ReleasePaths(small, index_cache=tmp_path / "cache"), "train", console=QUIET)
    assert len(built_once) == 2
    assert not (tmp_path / "gone off").exists()


def test_only_one_of_several_processes_builds(small: Path, tmp_path: Path, built_once: list[int]) -> None:
    with ThreadPoolExecutor(4) as ranks:  # a lock belongs to an open file, so threads work like processes
        found = list(
            ranks.map(
                lambda _: open_index(ReleasePaths(small, index_cache=tmp_path / "cache"), "train", console=QUIET),
                range(4),
            )
        )
    assert len(built_once) == 1
    assert all(equal(index.table, found[0].table) for index in found)


def _die_building(release: Path, cache: Path) -> None:
    dali_pipes.samples.index._build = lambda *_: os._exit(9)
    open_index(ReleasePaths(release, index_cache=cache), "train", console=QUIET)


def test_a_process_that_dies_while_building_does_not_block_others(small: Path, tmp_path: Path) -> None:
    dying = multiprocessing.get_context("spawn").Process(target=_die_building, args=(small, tmp_path / "cache"))
    dying.start()
    dying.join(60)
    assert dying.exitcode == 9
    assert list((tmp_path / "cache").glob("*.lock"))
    assert len(open_index(ReleasePaths(small, index_cache=tmp_path / "cache"), "train", console=QUIET).table) == 6


def test_a_cache_that_cannot_be_written_is_named(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file cannot be written: .*; choose another --index-cache"):
        open_index(ReleasePaths(small, index_cache=tmp_path / "file"), "train", console=QUIET)


# --- Too many bad tiles.


def test_above_max_bad_training_stops_and_counts_by_reason(
    small: Path, write_split: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, listing = open_index(ReleasePaths(small, index_cache=tmp_path / "index-cache"), "train", console=QUIET)
    refuse_above(0.5, "train", table, listing)
    with pytest.raises(InputError, match=r"2 of the 4 train tiles .* --max-bad 0\.49 allows: 1 because"):
        refuse_above(0.49, "train", table)
    with pytest.raises(SystemExit) as status:
        train.__main__.main(["--release", str(small), "--out", str(tmp_path / "run"), "--preset", "demo"])
    said = capsys.readouterr().err
    assert status.value.code == 2
    assert "1 because the JPEG's data are corrupt" in said
    assert str(listing) in said
    assert not (tmp_path / "run").exists()


def test_a_broken_label_counts_as_one_tile(write_split: Callable[..., Path]) -> None:
    tiles = {f"a_{i}.jpg": (GOOD, via_label(f"a_{i}.jpg", [LINE])) for i in range(3)}
    table = SampleTable.from_release(write_split({**tiles, "a_3.jpg": (GOOD, b"{")}))
    refuse_above(0.25, "train", table)
    with pytest.raises(InputError, match="1 of the 4"):
        refuse_above(0.24, "train", table)


def test_a_row_takes_a_few_words_of_memory() -> None:
    import tracemalloc

    label = json.dumps(via_label("NAME.jpg", [LINE])).encode()

    class Labels(Members):
        def __init__(self) -> None:
            self.names = [f"K3_CHN_{i // 40}_{i % 40}.json" for i in range(4000)]

        def read(self, index: int) -> np.ndarray:
            return np.frombuffer(label.replace(b"NAME", self.names[index][:-5].encode()), np.uint8)

    class Pictures(Members):
        def __init__(self) -> None:
            self.names = [name.replace("json", "jpg") for name in Labels().names]

        def read(self, index: int) -> np.ndarray:
            return np.frombuffer(GOOD, np.uint8)

    tracemalloc.start()
    table = SampleTable.from_labels(Labels(), Pictures())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(table) == 4000
    assert peak / 4000 < 1000, "bytes a row"
