"""Folds share no scene, cover all samples, have similar sizes, and are the same on every machine."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import train.__main__
import train.evaluate
from bench.render.release import render_release
from dali_pipes import Loader, SampleTable
from dali_pipes.errors import InputError
from dali_pipes.inspect.inspection import inspect
from dali_pipes.release.members import Members
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.labels import LeftOut
from dali_pipes.samples.splits import (
    Division,
    assign_folds,
    merge,
    shared_tiles,
    without_repeated_pictures,
    without_shared_tiles,
)
from dali_pipes.samples.via import Reason
from train.recipe.config import Config, differences
from train.recipe.data import load_datasets, refuse_few_held_out_scenes
from train.scores.calibrate import MIN_SCENES_TO_CALIBRATE

SIZES = st.lists(st.integers(1, 500), min_size=2, max_size=60).map(np.array)


def table_of(scenes: list[str], points: int = 2) -> SampleTable:
    """A table with one sample for each of `scenes`, heights 1, 2, …, and no real images."""
    n = len(scenes)
    numbers = np.arange(1.0, n + 1)

    class NoImages(Members):
        def __init__(self) -> None:
            self.names = [f"{scene}_{i}.jpg" for i, scene in enumerate(scenes)]

        def read(self, index: int) -> np.ndarray:
            return np.frombuffer(self.names[index].encode(), np.uint8)

    return SampleTable(
        tile=np.array(NoImages().names),
        scene=np.array(scenes),
        polyline=np.ones((n, points, 2)) * np.arange(points)[:, None],
        length=numbers,
        height=numbers,
        width=np.full(n, 512),
        height_px=np.full(n, 512),
        gsd=numbers,
        roll=numbers,
        pitch=numbers,
        image=np.arange(n),
        images=NoImages(),
    )


SCENES = st.lists(st.sampled_from([f"K3_CHN_{i}" for i in range(12)]), min_size=1, max_size=60)


@given(SCENES, SCENES, st.integers(2, 5), st.integers(0, 2**63))
def test_folds_share_no_scene_and_cover_each_sample_once(a: list[str], b: list[str], folds: int, seed: int) -> None:
    train, validation = table_of(a), table_of(b, points=4)
    if len({*a, *b}) < folds:
        with pytest.raises(InputError, match="at least as many scenes as folds"):
            Division("scene", folds, 0, seed).divide(train, validation)
        return
    validated = []
    for fold in range(folds):
        inside, outside = Division("scene", folds, fold, seed).divide(train, validation)[::-1]
        assert not set(inside.scene) & set(outside.scene)
        assert len(inside) + len(outside) == len(a) + len(b)
        assert len(inside), "a fold without samples validates nothing"
        for side in (inside, outside):
            names = [bytes(side.images.read(image)).decode() for image in side.image.tolist()]
            assert names == side.tile.tolist(), "a merged table reads the images of both archives"
        validated += list(zip(inside.tile.tolist(), inside.height.tolist(), strict=True))
    expected = [*zip(train.tile.tolist(), train.height.tolist(), strict=True)]
    expected += zip(validation.tile.tolist(), validation.height.tolist(), strict=True)
    assert sorted(validated) == sorted(expected)


@given(SIZES, st.integers(2, 9), st.integers(0, 2**63))
def test_folds_differ_by_no_more_than_the_largest_scene(sizes: np.ndarray, folds: int, seed: int) -> None:
    load = np.bincount(assign_folds(sizes, folds, seed), sizes, minlength=folds)
    assert load.sum() == sizes.sum()
    assert load.max() - load.min() <= sizes.max()


@given(SCENES, SCENES, st.integers(0, 9), st.randoms())
def test_a_scenes_fold_does_not_depend_on_the_order_of_rows(a: list[str], b: list[str], seed: int, rng: object) -> None:
    if len({*a, *b}) < 3:
        return
    shuffled = sorted(a, key=lambda _: rng.random())  # type: ignore[attr-defined]
    folds = [Division("scene", 3, 1, seed).divide(table_of(rows), table_of(b))[1] for rows in (a, shuffled)]
    assert set(folds[0].scene) == set(folds[1].scene)


def test_the_assignment_depends_only_on_the_seed() -> None:
    sizes = np.arange(1, 41)
    assert len({tuple(assign_folds(sizes, 5, seed).tolist()) for seed in range(20)}) == 20
    assert assign_folds(np.array([9, 8, 7, 3, 3, 2, 1, 1]), 3, 0).tolist() == [
        2,
        0,
        1,
        0,
        2,
        1,
        1,
        1,
    ]  # numpy guarantees the output of PCG64


def test_the_official_split_is_left_as_it_is() -> None:
    train, validation = table_of(["a"]), table_of(["b"])
    assert Division().divide(train, validation) == (train, validation)


def test_skipped_samples_stay_with_their_scene() -> None:
    lost = tuple(LeftOut(f"K3_CHN_{i}_7.jpg", -1, Reason.NO_IMAGE) for i in range(4))
    table = replace(table_of([f"K3_CHN_{i}" for i in range(4)]), left_out=lost)
    outside, inside = Division("scene", 2, 0).divide(table, table)
    for side in (outside, inside):
        assert {item.file.rpartition("_")[0] for item in side.left_out} == set(side.scene)


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (5, 5), (5, -1)])
def test_a_fold_that_does_not_exist_is_refused(folds: int, fold: int) -> None:
    with pytest.raises(InputError, match="numbered from 0"):
        Division("scene", folds, fold)


# --- On a release.


def test_a_merged_table_loads_the_tiles_of_both_archives(release: Path) -> None:
    train, validation = (SampleTable.from_release(release, split) for split in ("train", "validation"))
    both = merge(train, validation)
    for row in (0, len(train) - 1, len(train), len(both) - 1):
        stem = "TS_KS" if row < len(train) else "VS_KS"
        with zipfile.ZipFile(release / f"{stem}.zip") as images:
            expected = images.getinfo(str(both.tile[row]))
            image = int(both.image[row])
            assert both.images.read(image).tobytes() == images.read(expected)
            assert (both.images.crc(image), both.images.size(image)) == (expected.CRC, expected.file_size)
    rows = np.array([len(train) - 1, len(train)])
    (batch,) = Loader(both.select(rows), 2, size=32, threads=1)
    (first,), (second,) = (
        Loader(table.select(np.array([row])), 1, size=32, threads=1) for table, row in ((train, -1), (validation, 0))
    )
    assert batch.rgb[0].equal(first.rgb[0])
    assert batch.rgb[1].equal(second.rgb[0])


def test_splits_that_are_read_from_the_same_files_are_refused(release: Path, tmp_path: Path) -> None:
    training = {"train_images": release / "TS_KS.zip", "train_labels": release / "TL_KS_LINE.zip"}
    same = {name.replace("train_", ""): path for name, path in training.items()}
    quiet = Console(quiet=True)
    with pytest.raises(InputError, match=r"share no tile, .* found \d+ of .*TS_KS\.zip also in .*--train-images"):
        load_datasets(ReleasePaths(release, **same), Division(), console=quiet)
    with pytest.raises(InputError, match="share no tile, or at most 20%"):
        inspect(ReleasePaths(release, **same))
    swapped = {
        **{name.replace("train", "validation"): path for name, path in training.items()},
        "train_images": release / "VS_KS.zip",
        "train_labels": release / "VL_KS_LINE.zip",
    }
    expected = load_datasets(ReleasePaths(release), Division(), console=quiet)
    found = load_datasets(ReleasePaths(tmp_path, **swapped), Division(), console=quiet)
    assert found.training.tile.tolist() == expected.evaluated["validation"].tile.tolist()
    assert found.evaluated["validation"].tile.tolist() == expected.training.tile.tolist()


def with_images(table: SampleTable, pictures: dict[str, str]) -> SampleTable:
    """The table with other bytes for some images, by name."""
    images = table.images
    images.read = lambda index: np.frombuffer(pictures.get(images.names[index], images.names[index]).encode(), np.uint8)  # type: ignore[method-assign]
    return table


def test_a_few_tiles_of_both_splits_are_dropped_from_training_and_named() -> None:
    train = table_of(["K3_A"] * 10)  # K3_A_0.jpg to K3_A_9.jpg
    validation = table_of(["K3_B"] * 9 + ["k3_a"])  # k3_a_9.jpg is K3_A_9.jpg
    with_images(validation, {"K3_B_3.jpg": "K3_A_5.jpg"})  # the picture of another name
    kept, sentence = without_shared_tiles(train, validation)
    assert kept.tile.tolist() == [f"K3_A_{i}.jpg" for i in (0, 1, 2, 3, 4, 6, 7, 8)]
    assert [(item.file, item.reason) for item in kept.left_out] == [
        ("K3_A_5.jpg", Reason.SHARED),
        ("K3_A_9.jpg", Reason.SHARED),
    ]
    assert sentence == (
        "dropped 2 training tiles also in validation: K3_A_5.jpg (K3_B_3.jpg there), K3_A_9.jpg (k3_a_9.jpg there)"
    )
    assert without_shared_tiles(kept, validation) == (kept, "")
    with_images(validation, {"K3_B_3.jpg": "K3_A_5.jpg", "K3_B_4.jpg": "K3_A_6.jpg"})
    with pytest.raises(
        InputError, match=r"at most 20%, found 3 of memory also in memory, such as K3_A_5\.jpg and K3_B"
    ):
        without_shared_tiles(train, validation)


def test_a_picture_that_training_has_twice_is_dropped_once_and_named() -> None:
    train = table_of(["K3_A"] * 3 + ["K3_B"] * 3)  # K3_A_0.jpg … K3_A_2.jpg, K3_B_3.jpg …
    assert without_repeated_pictures(train) == (train, "")
    with_images(train, {"K3_B_4.jpg": "K3_A_1.jpg"})
    kept, sentence = without_repeated_pictures(train)
    assert kept.tile.tolist() == ["K3_A_0.jpg", "K3_A_1.jpg", "K3_A_2.jpg", "K3_B_3.jpg", "K3_B_5.jpg"]
    assert [(item.file, item.reason) for item in kept.left_out] == [("K3_B_4.jpg", Reason.REPEATED)]
    assert sentence == (
        "dropped 1 training tile whose picture is also there under another name: K3_B_4.jpg (also K3_A_1.jpg)"
    )


def test_a_recorded_checksum_is_enough_to_find_the_same_picture() -> None:
    train, validation = table_of(["K3_A"] * 5), table_of(["K3_B"] * 5)
    for table, number in ((train, 2), (validation, 4)):
        table.images.read = lambda index: pytest.fail("no picture needs to be read")  # type: ignore[method-assign]
        table.images.size = lambda index: 70  # type: ignore[method-assign]
        table.images.crc = lambda i, table=table, number=number: 7 if i == number else i + 100 * id(table)  # type: ignore[method-assign, misc]
    assert shared_tiles(train, validation) == {2: 4}


def test_the_settings_of_a_run_that_still_name_paths_are_read() -> None:
    before = asdict(Config())
    before["data"] |= {"images": "a.zip", "labels": None, "index_cache": "kept"}
    assert differences(Config(), before) == []


def test_one_folder_of_images_may_serve_both_splits(release: Path, tmp_path: Path) -> None:
    for stem in ("TS_KS", "VS_KS"):
        with zipfile.ZipFile(release / f"{stem}.zip") as archive:
            archive.extractall(tmp_path)
    tables = load_datasets(ReleasePaths(release, images=tmp_path), Division(), console=Console(quiet=True))
    assert not set(tables.training.tile) & set(tables.evaluated["validation"].tile)


def test_scenes_are_held_out_of_the_training_side_of_a_fold(release: Path, tmp_path: Path) -> None:
    division = Division("scene", 4, 1, seed=3)
    quiet, paths = Console(quiet=True), ReleasePaths(release, index_cache=tmp_path)
    tables = load_datasets(paths, division, 0.3, console=quiet)
    scenes = [set(table.scene) for table in (tables.training, *tables.evaluated.values())]
    assert list(tables.evaluated) == ["validation", "development"]
    assert sum(map(len, scenes)) == len(set.union(*scenes)) == 8
    assert "Fold 1 of 4" in tables.descriptions["validation"]
    again = load_datasets(paths, division, scenes[2], console=quiet)
    assert again.evaluated["development"].tile.tolist() == tables.evaluated["development"].tile.tolist()


def test_too_few_held_out_scenes_are_refused_before_any_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shares that the sentences advise hold out enough scenes, and leave a release of few scenes alone."""
    release = tmp_path / "release"
    render_release(release, train=24, val=6, scenes=24, seed=1, progress="plain", workers=1)
    for images in ("TS_KS.zip", "VS_KS.zip"):  # nothing but the names can be read
        with zipfile.ZipFile(release / images) as archive:
            names = archive.namelist()
        with zipfile.ZipFile(release / images, "w") as archive:
            for name in names:
                archive.writestr(name, b"")
    start = ["--preset", "demo", "--release", str(release), "--out", str(tmp_path / "run")]
    capsys.readouterr()
    for split, advised in (("official", "0.21"), ("scene", "0.27")):
        with pytest.raises(SystemExit, match="2"):
            train.__main__.main([*start, "--split", split, "--data.holdout", "0.1"])
        error = capsys.readouterr().err
        assert error.startswith("error: --data.holdout 0.1 of ")
        assert error.count("\n") == 1
        assert f"use --data.holdout {advised} or more" in error
        assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]
    paths = ReleasePaths(release)
    for division, share in ((Division("scene"), 0.27), (Division(), 0.21), (Division(), 0.0)):
        refuse_few_held_out_scenes(paths, division, share, MIN_SCENES_TO_CALIBRATE)
    table = table_of([f"scene{i}" for i in range(24)])
    assert len(np.unique(table.hold_out_scenes(0.21, 0)[1].scene)) >= MIN_SCENES_TO_CALIBRATE


def test_a_release_of_few_scenes_is_trained_without_a_calibration(release: Path) -> None:
    refuse_few_held_out_scenes(ReleasePaths(release), Division(), 0.1, MIN_SCENES_TO_CALIBRATE)


def test_a_run_by_scene_reports_its_fold_and_is_evaluated_on_it(release: Path, tmp_path: Path) -> None:
    small = ["--preset", "demo", "--epochs", "1", "--data.size", "32", "--seed", "7", "--data.holdout", "0.2"]
    by_scene = ["--split", "scene", "--data.folds", "4", "--data.fold", "2", "--index-cache", str(tmp_path / "kept")]
    train.__main__.main(["--release", str(release), "--out", str(tmp_path / "run"), *small, *by_scene])
    assert "Fold 2 of 4" in json.loads((tmp_path / "run/samples.json").read_text())["split"]
    assert {path.name.partition("-")[0] for path in (tmp_path / "kept").iterdir()} == {"train", "validation"}
    evaluated = ["--checkpoint", str(tmp_path / "run/best.pt"), "--release", str(release), "--device", "cpu"]
    train.evaluate.main([*evaluated, "--out", str(tmp_path / "again")])
    rows = {}
    for folder in ("run", "again"):
        assert "Fold 2 of 4" in (tmp_path / folder / "report.html").read_text()
        with (tmp_path / folder / "predictions.csv").open() as file:
            rows[folder] = [(row["group"], row["tile"], row["scene_seen"]) for row in csv.DictReader(file)]
    assert rows["run"] == rows["again"]
    assert {seen for _, _, seen in rows["run"]} == {"false"}
    train.evaluate.main([*evaluated, "--out", str(tmp_path / "official"), "--split", "official"])
    with (tmp_path / "official/predictions.csv").open() as file:
        assert {row["scene_seen"] for row in csv.DictReader(file) if row["group"] == "validation"} == {"true", "false"}
