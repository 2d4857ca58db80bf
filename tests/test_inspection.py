"""`python -m dali_pipes` finds the planted faults of a release and no others, and prints hostile names safely."""

from __future__ import annotations

import configparser
import json
import math
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes.__main__ import main
from dali_pipes.inspect.as_json import plain
from dali_pipes.inspect.console import bars
from dali_pipes.inspect.inspection import BINS, histogram, plot_range
from dali_pipes.samples.via import Reason
from dali_pipes.units import number
from tests.conftest import STEMS, jpeg, via_label

PICTURE = jpeg(512, 512)
TILTED = {"img_resolution": "0.5", "img_roll_tilt": "30.0", "img_pitch_tilt": "0.0"}
SCALE = 0.5 / math.tan(math.radians(30))  # metres a pixel, of TILTED


def tile(name: str, *regions: tuple[list[tuple[int, int]], float | str], **file: str) -> tuple[bytes, Any]:
    """A picture and its label with regions of (points, height)."""
    label = via_label(name, [points for points, _ in regions], **file)
    (image,) = label.values()
    for region, (_, height) in zip(image["regions"], regions, strict=True):
        region["region_attributes"]["chi_height_m"] = height if isinstance(height, str) else f"{height:.2f}"
    return PICTURE, label


def line(dx: int, dy: int, at: tuple[int, int] = (200, 200)) -> list[tuple[int, int]]:
    return [at, (at[0] + dx, at[1] + dy)]


def right(dx: int, dy: int) -> tuple[list[tuple[int, int]], float]:
    """A polyline with the height that TILTED gives it."""
    return line(dx, dy), SCALE * math.hypot(dx, dy)


def shown(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    main([str(argument) for argument in argv])
    return capsys.readouterr().out


def inspected(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    report: dict[str, Any] = json.loads(shown(capsys, *argv, "--json"), parse_constant=refuse)
    return report


def labels_of(release: Path, split: str) -> dict[str, Any]:
    with zipfile.ZipFile(release / f"{STEMS[split][1]}.zip") as archive:
        return {name: json.loads(archive.read(name)) for name in archive.namelist()}


def rewrite_labels(release: Path, split: str, labels: dict[str, Any]) -> None:
    with zipfile.ZipFile(release / f"{STEMS[split][1]}.zip", "w") as archive:
        for name, label in labels.items():
            archive.writestr(name, json.dumps(label, ensure_ascii=False))


# --- Counts and distributions.


def test_counts_by_split_sensor_and_scene_match_the_file_names(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = inspected(capsys, release)
    for split in STEMS:
        images = [image for label in labels_of(release, split).values() for image in label.values()]
        for of, key in (
            ("sensors", lambda name: name.split("_")[0]),
            ("scenes", lambda name: name.rpartition("_")[0]),
        ):
            tiles = Counter(key(image["filename"]) for image in images)
            polylines = Counter(key(image["filename"]) for image in images for _ in image["regions"])
            assert {name: splits[split]["tiles"] for name, splits in report[of].items()} == {
                name: tiles[name] for name in report[of]
            }
            assert {name: splits[split]["polylines"] for name, splits in report[of].items()} == {
                name: polylines[name] for name in report[of]
            }
        heights = [float(r["region_attributes"]["chi_height_m"]) for image in images for r in image["regions"]]
        spread = report["distributions"]["height"][split]
        assert (spread["least"], spread["greatest"]) == (min(heights), max(heights))
        assert spread["median"] == pytest.approx(np.median(heights))
        assert sum(spread["counts"]) == len(heights) == report["splits"][split]["polylines"]
    printed = shown(capsys, release)
    for name, splits in report["sensors"].items():
        row = next(line for line in printed.splitlines() if line.startswith(f"{name} ")).split()
        assert [int(cell) for cell in row[1:]] == [n for split in splits.values() for n in split.values()]


def test_a_histogram_counts_every_value_once_and_one_absurd_value_does_not_flatten_it() -> None:
    values = np.append(np.linspace(40, 300, 999), 1e300)
    low, high = plot_range(values)
    spread = histogram(values, low, high)
    assert (low, sum(spread.counts), spread.beyond) == (40, 1000, 1)
    assert high < 1e4
    assert np.count_nonzero(spread.counts) > BINS / 3
    inside, _ = np.histogram(values[:-1], BINS, (low, high))
    assert spread.counts[:-1] == inside[:-1].tolist()
    assert spread.counts[-1] == inside[-1] + 1
    for same in (np.array([5.0]), np.full(9, 1.5), np.array([1.0, 1.0 + 2e-16])):
        assert sum(histogram(same, *plot_range(same)).counts) == len(same)


def test_bars_are_as_high_as_their_counts_and_a_filled_bin_is_never_blank() -> None:
    assert bars([0, 1, 50, 100, 1000]) == " ▁▁▁█"
    assert bars([0, 0]) == "  "
    assert bars([1, 2, 4, 8], " .:-=") == "..:="


# --- Leakage.


def test_near_duplicates_are_found_by_scene_height_and_vector_and_near_misses_are_not(
    write_split: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    height = 100.0
    write_split(
        {
            "K3_A_1_1.jpg": tile("K3_A_1_1.jpg", (line(60, 20), height)),
            "K3_A_1_2.jpg": tile("K3_A_1_2.jpg", (line(9, 90), 140.0), (line(30, 30), 70.0)),
        },
    )
    folder = write_split(
        {
            "K3_A_1_3.jpg": tile(
                "K3_A_1_3.jpg",
                (line(60, 20, (17, 300)), height),  # elsewhere in its tile, and the same
                (line(61, 19, (17, 300)), height + 0.01),  # all that the criterion allows
                (line(62, 20), height),  # two pixels
                (line(60, 20), height + 0.02),  # two hundredths of a metre
                (line(-60, -20), height),  # top and base exchanged
            ),
            "K3_B_1_1.jpg": tile("K3_B_1_1.jpg", (line(60, 20), height)),  # another scene
            "K3_A_1_2.jpg": tile("K3_A_1_2.jpg", (line(30, 30), 70.0)),  # the same tile
        },
        "validation",
    )
    leak = inspected(capsys, folder)["leakage"]
    pairs = [
        tuple((pair[side]["tile"], pair[side]["region"]) for side in ("validation", "train"))
        for pair in leak["near_duplicates"]["pairs"]
    ]
    assert pairs == [
        (("K3_A_1_2.jpg", 0), ("K3_A_1_2.jpg", 1)),
        (("K3_A_1_3.jpg", 0), ("K3_A_1_1.jpg", 0)),
        (("K3_A_1_3.jpg", 1), ("K3_A_1_1.jpg", 0)),
    ]
    assert (leak["samples"], leak["samples_in_shared_scenes"], leak["shared_scenes"]) == (7, 6, ["K3_A_1"])
    assert leak["shared_tiles"] == ["K3_A_1_2.jpg"]
    printed = shown(capsys, folder)
    assert "86% of the validation samples lie in scenes that are also in training (1 of 2 scenes)" in printed
    assert "3 of 7 validation samples have a near-duplicate in training" in printed
    assert "heights at most 0.01 m apart, vectors from base to top at most 1 px apart in x and in y" in printed


# --- The label audit.


def test_wrong_heights_are_flagged_by_tile_and_region_the_worst_first(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = shutil.copytree(release, tmp_path / "spoiled")
    labels = labels_of(release, "train")
    planted = []
    for name, off in zip(list(labels)[5:50:9], (0.02, -5.0, 0.3, 77.0, -0.02), strict=True):
        (image,) = labels[name].values()
        region = len(image["regions"]) - 1
        attributes = image["regions"][region]["region_attributes"]
        attributes["chi_height_m"] = f"{float(attributes['chi_height_m']) + off:.2f}"
        planted.append((image["filename"], region, off))
    rewrite_labels(spoiled, "train", labels)
    report = inspected(capsys, spoiled)
    flagged = report["closed_form"]["flagged"]
    assert {(item["tile"], item["region"]) for item in flagged} == {(name, region) for name, region, _ in planted}
    assert [round(item["height_m"] - item["formula_m"], 1) for item in flagged[:3]] == [77.0, -5.0, 0.3]
    by_scene: dict[str, list[Any]] = {}
    for name, region, _ in sorted(planted, key=lambda item: -abs(item[2])):
        by_scene.setdefault(name.rpartition("_")[0], []).append((name, region))
    assert {
        item["scene"]: [(label["tile"], label["region"]) for label in item["flagged"]]
        for item in report["scales"]["not_constant"]
    } == by_scene
    printed = shown(capsys, spoiled)
    assert "train: 5 of " in printed
    assert "validation: 0 of " in printed
    assert "the largest difference is 77." in printed


def test_a_scene_without_metadata_is_audited_by_its_own_scale(
    write_split: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    good = [right(60, 20), right(31, 8), right(5, 90)]
    write_split({"K3_A_1_1.jpg": tile("K3_A_1_1.jpg", *good, (line(40, 30), SCALE * 50 + 0.02))})
    folder = write_split({"K3_B_1_1.jpg": tile("K3_B_1_1.jpg", *good)}, "validation")
    report = inspected(capsys, folder)
    assert report["closed_form"]["with_metadata"] == 0
    (scene,) = report["scales"]["not_constant"]
    assert (scene["scene"], scene["labels"]) == ("K3_A_1", 4)
    assert scene["scale_m_per_px"] == pytest.approx(SCALE, rel=1e-3)
    assert [item["region"] for item in scene["flagged"]] == [3]
    assert scene["explained_by_vertex_rounding"]
    assert "train: 0 of 0 heights deviate" in shown(capsys, folder)


def test_regions_keep_their_index_where_others_are_skipped(
    write_split: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = line(30, 40), SCALE * 50 + 9
    tiles = {"K3_A_1_1.jpg": tile("K3_A_1_1.jpg", (line(3, 4), "tall"), right(60, 0), (line(0, 0), 5), wrong, **TILTED)}
    report = inspected(capsys, write_split(tiles))
    assert [item["region"] for item in report["closed_form"]["flagged"]] == [3]
    assert report["splits"]["train"]["left_out"] == {
        Reason.BAD_HEIGHT.value: [{"file": "K3_A_1_1.jpg", "region": 0}],
        "the polyline has no length": [{"file": "K3_A_1_1.jpg", "region": 2}],
    }


def test_a_polyline_that_appears_twice_in_its_tile_is_reported(
    write_split: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    twice = {"K3_A_1_1.jpg": tile("K3_A_1_1.jpg", right(3, 40), right(60, 0), right(3, 40), **TILTED)}
    twice["K3_A_1_2.jpg"] = tile("K3_A_1_2.jpg", right(3, 40), **TILTED)
    report = inspected(capsys, write_split(twice))
    assert [(item["tile"], item["region"]) for item in report["repeated_polylines"]] == [("K3_A_1_1.jpg", 2)]


# --- Missing, skipped and hostile input.


def test_skipped_labels_are_counted_by_reason_with_examples(
    write_split: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"K3_A_1_{i}.jpg" for i in range(9)]
    tiles = {name: tile(name, (line(3, 4), "tall"), right(30, 40), **TILTED) for name in names[:5]}
    tiles |= {name: (b"", via_label(name, [line(30, 40)])) for name in names[5:]}
    printed = shown(capsys, write_split(tiles))
    assert f"train: skipped 5 because {Reason.BAD_HEIGHT.value}, such as K3_A_1_0.jpg, " in printed
    assert "train: skipped 4 because the image file is empty, such as K3_A_1_5.jpg, K3_A_1_6.jpg, K3_A" in printed


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_release_with_one_split_is_inspected_and_the_other_is_reported_as_missing(
    split: str, write_split: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"train": "validation", "validation": "train"}[split]
    folder = write_split({"K3_A_1_1.jpg": tile("K3_A_1_1.jpg", right(3, 40), **TILTED)}, split)
    printed = shown(capsys, folder)
    assert f"{other} is missing: no {STEMS[other][0]}.zip below" in printed
    assert "leakage cannot be measured without both splits" in printed
    report = inspected(capsys, folder, "--against", folder)
    assert list(report["splits"]) == [split]
    assert list(report["missing"]) == [other]
    assert report["leakage"] is None


@pytest.mark.parametrize("argv", [["nowhere"], [".", "--json"], ["nowhere", "--html", "page.html"]])
def test_bad_input_is_one_sentence_and_status_2(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("error: ")
    assert streams.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


HOSTILE = [
    "[red]K3_[link=file:x]_:skull:_1.jpg",
    "3[bold]_\x1b[31m\x9b2J_\r\n\x07_1.jpg",
    "K3_\u202egpj.exe_1.jpg",
    "한국_<script>alert(1)<b>_{{ 7 * 7 }}.jpg",
    "K3_\ud800_1.jpg",  # these two cannot be a ZIP's names: their pictures are missing
    "K3_" + "A" * 1_000_000 + "_1.jpg",
]


def hostile_release(write_split: Callable[..., Path]) -> Path:
    """Each hostile name is a tile with a wrong label, a label that is skipped, and a polyline that appears twice.

    Names that cannot be printed are broken labels, some of them in files of that name.
    """
    regions = (line(30, 40), 777.0), (line(3, 4), "x"), right(0, 50), right(0, 50)
    labels = {
        (name if i in (1, 2) else f"{i}.jpg"): (None, json.dumps(tile(name, *regions, **TILTED)[1]).encode())
        for i, name in enumerate(HOSTILE)
    }
    write_split(labels)
    folder = write_split(labels, "validation")
    for stem in ("TS_KS", "VS_KS"):
        with zipfile.ZipFile(folder / f"{stem}.zip", "w") as images:
            for name in HOSTILE[:4]:
                images.writestr(name, PICTURE)
    return folder


def test_hostile_names_are_printed_as_text_and_move_no_cursor(
    write_split: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hostile_release(write_split)
    printed = shown(capsys, folder)
    assert not [c for c in printed if c != "\n" and not c.isprintable()]
    flat = "".join(printed.split())
    for name in HOSTILE[0], r"3[bold]_\x1b[31m\x9b2J_\r\n\x07_1.json", "5.json":
        assert name in flat
    assert len(printed) < 20_000
    monkeypatch.setenv("COLUMNS", "500")  # wide enough for a name on one line
    rows = shown(capsys, folder).splitlines()
    assert len([row for row in rows if f"such as {HOSTILE[0]}, 한국" in row]) == 4, "both splits, twice"
    assert len([row for row in rows if row.startswith(HOSTILE[0])]) == 3 + 2 + 1, "pairs, formula, scale"
    assert {item["tile"] for item in inspected(capsys, folder)["closed_form"]["flagged"]} == {
        HOSTILE[0],
        HOSTILE[3],
    }


def test_absurd_numbers_neither_crash_nor_become_nan(
    write_split: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    heights = ["1e308", "1e-300", "40.00", "1e15"]
    metadata = [("1e308", "1e308", "89.99"), ("0", "0", "0"), ("-1", "1e-300", "0"), ("inf", "nan", "1e999")]
    tiles = {
        f"K3_A_1_{i}.jpg": tile(
            f"K3_A_1_{i}.jpg",
            *((line(dx, 0), height) for dx in (1, 300)),
            **dict(zip(("img_resolution", "img_roll_tilt", "img_pitch_tilt"), metadata[i % 4], strict=True)),
        )
        for i, height in enumerate(heights * 4)
    }
    write_split(tiles)
    folder = write_split(tiles, "validation")
    assert inspected(capsys, folder, "--against", folder)["scales"]["not_constant"]
    assert "nan" not in shown(capsys, folder, "--against", folder, "--html", folder / "page.html")
    assert [number(x) for x in (-1.5, 999_999.0, 1e300, math.nan)] == ["−1.50", "999999.00", "1e+300", "–"]
    assert plain({"a": [np.float64("nan"), np.int64(3), (math.inf, "x")]}) == {"a": [None, 3, [None, "x"]]}


def test_an_inspection_imports_neither_torch_nor_dali(release: Path, tmp_path: Path) -> None:
    command = (
        "import sys; from dali_pipes.__main__ import main; main(sys.argv[1:]);"
        " sys.exit(bool({'torch', 'nvidia'} & {name.split('.')[0] for name in sys.modules}))"
    )
    arguments = [str(release), "--against", str(release), "--html", str(tmp_path / "page.html")]
    subprocess.run([sys.executable, "-c", command, *arguments], check=True, capture_output=True)
    subprocess.run([sys.executable, "-c", command, *arguments, "--json"], check=True, capture_output=True)


def test_the_template_is_packaged() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parent.parent / "setup.cfg")
    assert "*.j2" in setup["options.package_data"]["*"]
