"""Polylines to predict are the same in every form; one that cannot be predicted gives one sentence."""

from __future__ import annotations

import csv
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.errors import InputError
from dali_pipes.release.find import open_images
from dali_pipes.samples.polylines import VIA_COLUMNS, Polylines, read_polylines, table_of
from dali_pipes.samples.table import SampleTable
from tests.conftest import jpeg, via_label

TILES = {"a_1.jpg": [[(3, 40), (30, 8)], [(1, 2), (3, 4), (5, 60)]], "b_2.jpg": [[(10, 10), (20, 30)]]}


def points(polylines: Polylines) -> list[tuple[str, list[list[float]]]]:
    return [(polylines.images[i]["filename"], region.points.tolist()) for i, region in polylines.drawn]


EXPECTED = [(tile, [list(map(float, point)) for point in line]) for tile, lines in TILES.items() for line in lines]


def export() -> dict[str, Any]:
    """VIA's annotation export of `TILES`, without heights."""
    return {key: image for tile, lines in TILES.items() for key, image in via_label(tile, lines, height=None).items()}


def via_csv(path: Path) -> None:
    """What VIA's "Export Annotations (as csv)" writes: JSON in quoted cells, and a row for an image without regions."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(VIA_COLUMNS)
        for image in export().values():
            for i, region in enumerate(image["regions"]):
                cells = json.dumps(region["shape_attributes"]), json.dumps(region["region_attributes"])
                rows.writerow((image["filename"], 7, "{}", len(image["regions"]), i, *cells))
        rows.writerow(("empty.jpg", 7, "{}", 0, 0, "{}", "{}"))


def test_every_form_gives_the_same_polylines(tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps(export()), "utf-8-sig")
    (tmp_path / "project.json").write_text(json.dumps({"_via_settings": {}, "_via_img_metadata": export()}))
    via_csv(tmp_path / "via.csv")
    (tmp_path / "plain.csv").write_text("tile,polyline\na_1.jpg,3 40;30 8\na_1.jpg,1 2;3 4;5 60\nb_2.jpg,10 10;20 30\n")
    for name in ("export.json", "project.json", "via.csv", "plain.csv"):
        assert points(read_polylines(tmp_path / name)) == EXPECTED, name
    assert points(read_polylines(TILES)) == EXPECTED


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}_[0-9]\.jpg", fullmatch=True), st.lists(
    st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 9999)), min_size=2, max_size=5, unique=True),
    min_size=1, max_size=3), min_size=1, max_size=4))  # fmt: skip
def test_a_plain_csv_gives_the_same_polylines_as_its_mapping(tiles: dict[str, Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("tile", "polyline"))
            rows.writerows(
                (tile, ";".join(f"{x} {y}" for x, y in line)) for tile, lines in tiles.items() for line in lines
            )
        assert points(read_polylines(path)) == points(read_polylines(tiles))


def test_the_table_is_that_of_the_release_without_heights(release: Path, tmp_path: Path) -> None:
    expected = SampleTable.from_release(release, "validation")
    names = expected.tile.tolist()
    drawn = {tile: expected.polyline[expected.tile == tile] for tile in dict.fromkeys(names)}
    table = table_of(read_polylines(drawn), open_images([release / "VS_KS.zip"]))
    assert table.tile.tolist() == names
    assert np.isnan(table.height).all()
    np.testing.assert_array_equal(table.length, expected.length)
    np.testing.assert_array_equal(table.polyline, expected.polyline)
    assert (table.width == 512).all()


def test_images_may_be_files_a_folder_a_zip_or_a_tar(tmp_path: Path) -> None:
    import tarfile
    import zipfile

    folder = tmp_path / "tiles/deeper"
    folder.mkdir(parents=True)
    for i, tile in enumerate(TILES):
        (folder / tile).write_bytes(jpeg(64, 96, seed=i))
    files = sorted(folder.iterdir())
    with zipfile.ZipFile(tmp_path / "tiles.zip", "w") as archive, tarfile.open(tmp_path / "tiles.tar", "w") as tape:
        for file in files:
            archive.write(file, file.name)
            tape.add(file, file.name)
    for given_as in ([tmp_path / "tiles"], [tmp_path / "tiles.zip"], [tmp_path / "tiles.tar"], files):
        images = open_images(given_as)
        assert images.names == list(TILES)
        assert [images.read(i).tobytes() for i in range(2)] == [file.read_bytes() for file in files]


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_korean_name_matches_in_both_forms_of_unicode(listed: Any, stored: Any, tmp_path: Path) -> None:
    listed, stored = (unicodedata.normalize(form, "굴뚝_7.jpg") for form in (listed, stored))
    (tmp_path / stored).write_bytes(jpeg(64, 96))
    (tmp_path / "lines.csv").write_text(f"tile,polyline\n{listed},1 2;3 4\n", "utf-8")
    table = table_of(read_polylines(tmp_path / "lines.csv"), open_images([tmp_path]))
    assert table.tile.tolist() == ["굴뚝_7.jpg"]


@pytest.mark.parametrize(
    ("polylines", "sentence"),
    [
        ({"none.jpg": TILES["b_2.jpg"]}, r"polylines of none\.jpg, found no such image among 3"),
        ({"broken.jpg": TILES["b_2.jpg"]}, r"broken\.jpg cannot be predicted: the JPEG is cut short; replace the file"),
        ({"b_2.jpg": [[(10, 10), (97, 3)]]}, r"region 0 of b_2\.jpg leaves its image of 96 × 64 px"),
        ({"b_2.jpg": [[(10, 10)]]}, "region 0 of b_2.jpg cannot be predicted, because the polyline has fewer than two"),
        ({"b_2.jpg": [[(1, 1), (1, 1)]]}, "the polyline has no length; correct or remove it"),
        ({"b_2.jpg": [[(1, 1), (math.nan, 2)]]}, r"region 0 of b_2\.jpg .* its points are not pairs of finite"),
        (
            "tile,polyline\nb_2.jpg,1 2;3 4\nb_2.jpg,1 2;inf 4\n",
            r"region 1 of b_2\.jpg cannot be predicted",
        ),
        ("tile,polyline\nb_2.jpg\n", r"drawn\.csv is damaged at line 2: expected 2 fields"),
        ("tile,polyline\nb_2.jpg,1 2;3 4,5\n", r"drawn\.csv is damaged at line 2: expected 2 fields"),
        ("tile,polyline\n,1 2;3 4\n", r"drawn\.csv is damaged at line 2: expected the name of an image, found none"),
        ({"b_2.jpg": [[1, 2, 3]]}, r"expected a polyline of \(x, y\) points for b_2\.jpg, found '\[1, 2, 3\]'"),
        ({"b_2.jpg": []}, "expected polylines in the polylines, found none; draw them"),
        ("tile,polyline\nb_2.jpg,1 2;x y\n", "expected a polyline of"),
        ("tile,line\nb_2.jpg,1 2;3 4\n", "found the columns tile, line"),
        (",".join(VIA_COLUMNS) + '\nb_2.jpg,7,{},1,0,"{broken","{}"\n', r"drawn\.csv is damaged at line 2"),
        (b"tile,polyline\n\xff\xfe,1 2;3 4\n", "expected UTF-8 text in"),
    ],
)
def test_what_cannot_be_predicted_gives_one_sentence(polylines: Any, sentence: str, tmp_path: Path) -> None:
    for i, tile in enumerate(TILES):
        (tmp_path / tile).write_bytes(jpeg(64, 96, seed=i))
    (tmp_path / "broken.jpg").write_bytes(jpeg(64, 96)[:-200])
    if not isinstance(polylines, dict):
        (tmp_path / "drawn.csv").write_bytes(polylines if isinstance(polylines, bytes) else polylines.encode())
        polylines = tmp_path / "drawn.csv"
    with pytest.raises(InputError, match=sentence):
        table_of(read_polylines(polylines), open_images([tmp_path]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "another kind of JSON"),
        ("tile,polyline", r"or a name in \.csv: Expecting value"),
        ('{"a": {"filename": "a.jpg", "regions": [null]}}', "expected a region that is a JSON object, found 'None'"),
        ('{"a": {"filename": "a.jpg", "regions": "no"}}', "expected its regions as a list, found 'no'"),
        (
            '{"a": {"filename": "a.jpg", "regions": [{"region_attributes": "x"}]}}',
            "expected region_attributes that",
        ),
        ('{"a": {"filename": "a.jpg", "file_attributes": ["x"]}}', "expected file_attributes that are a JSON object"),
        ('{"a": {"filename": "a.jpg", "size": NaN}}', "expected finite numbers, found NaN"),
        ('{"a": {"filename": "a.jpg", "size": 1e999}}', "expected finite numbers, found 1e999"),
        ('{"a": {"filename": "a.jpg"}, "a": {"filename": "b.jpg"}}', "expected each key and each image once"),
        ('{"a": {"filename": 3}}', "expected images with a filename; export the annotations from VIA again"),
        (json.dumps({"a": via_label("a.jpg", [])["a.jpg1"], "b": via_label("a.jpg", [])["a.jpg1"]}), "a.jpg twice"),
    ],
)
def test_json_of_another_kind_gives_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "via.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_polylines(tmp_path / "via.json")


def test_no_polyline_is_skipped(tmp_path: Path) -> None:
    for xs, ys in (([1, 2], ["nan", 3]), ([1, 2, 3], [1, 2]), ("12", "34"), ([1, None], [2, 3])):
        image = export()["a_1.jpg1"]
        image["regions"].insert(1, {"shape_attributes": {"name": "polyline", "all_points_x": xs, "all_points_y": ys}})
        with pytest.raises(InputError, match=r"region 1 of a_1\.jpg cannot be predicted, because its points are not"):
            Polylines.of([image], "here")
        image["regions"][1]["shape_attributes"]["name"] = "polygon"
        assert points(Polylines.of([image], "here")) == EXPECTED[:2]


@pytest.mark.parametrize("size", ["1234", 1234, None, "?", [], 0])
def test_a_size_is_an_integer_or_unknown(size: Any) -> None:
    image = {**export()["a_1.jpg1"], "size": size}
    assert Polylines.of([image], "here").images[0]["size"] == (1234 if size in ("1234", 1234) else -1)


def test_two_images_with_the_same_name_are_reported(tmp_path: Path) -> None:
    for i, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a_1.jpg").write_bytes(jpeg(64, 96, seed=i))
    with pytest.raises(InputError, match=r"its name is there twice, as .*one/a_1\.jpg' and .*two/a_1\.jpg'"):
        table_of(read_polylines({"a_1.jpg": TILES["a_1.jpg"]}), open_images([tmp_path]))


def test_missing_files_give_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: No such file or directory; give --polylines"):
        read_polylines(tmp_path / "none.json")
    with pytest.raises(InputError, match="expected images at"):
        open_images([tmp_path / "none"])
    with pytest.raises(InputError, match=r"expected \.jpg files in .*, found none"):
        open_images([tmp_path])
