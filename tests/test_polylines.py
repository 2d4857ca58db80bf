"""Polylines to predict are the same in every form; one that cannot be predicted gives one sentence."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.errors import InputError
from dali_pipes.samples.picture import open_pictures
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
    for name in ("via", "plain"):
        (tmp_path / f"{name}-utf16.csv").write_text((tmp_path / f"{name}.csv").read_text("utf-8"), "utf-16")
    for name in ("export.json", "project.json", "via.csv", "plain.csv", "via-utf16.csv", "plain-utf16.csv"):
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
    table = table_of(read_polylines(drawn), open_pictures([release / "VS_KS.zip"]))
    assert table.tile.tolist() == names
    assert np.isnan(table.height).all()
    np.testing.assert_array_equal(table.length, expected.length)
    np.testing.assert_array_equal(table.polyline, expected.polyline)
    assert (table.width == 512).all()


def test_images_may_be_files_a_folder_a_zip_or_a_tar(tmp_path: Path) -> None:
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
        images = open_pictures(given_as)
        assert images.names == list(TILES)
        assert [images.read(i).tobytes() for i in range(2)] == [file.read_bytes() for file in files]


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_korean_name_matches_in_both_forms_of_unicode(listed: Any, stored: Any, tmp_path: Path) -> None:
    listed, stored = (unicodedata.normalize(form, "굴뚝_7.jpg") for form in (listed, stored))
    (tmp_path / stored).write_bytes(jpeg(64, 96))
    (tmp_path / "lines.csv").write_text(f"tile,polyline\n{listed},1 2;3 4\n", "utf-8")
    table = table_of(read_polylines(tmp_path / "lines.csv"), open_pictures([tmp_path]))
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
        ("tile,polyline\n".encode("utf-16-le"), "expected UTF-8 text in .*, found other bytes"),
        (b"PK\3\4\0\0\0\0", r"found a ZIP or a workbook such as \.xlsx; save it as UTF-8"),
        ("tile,polyline,polyline\nb_2.jpg,1 2;3 4,\n", r"expected one column polyline in .*drawn\.csv, found 2"),
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
        table_of(read_polylines(polylines), open_pictures([tmp_path]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", "expected VIA's JSON in .*: expected a JSON object of images"),
        ("tile,polyline", r"or a name in \.csv: Expecting value"),
        ('{"a": {"filename": "a.jpg", "regions": [null]}}', r"expected polylines in .*, found none; draw them"),
        ('{"a": {"filename": "a.jpg", "regions": [7]}}', "expected region 0 of a.jpg as a JSON object, found '7'"),
        ('{"a": {"filename": "a.jpg", "regions": "no"}}', "expected its regions as a list, found 'no'"),
        (
            '{"a": {"filename": "a.jpg", "regions": [{"region_attributes": "x"}]}}',
            "expected region_attributes of region 0 of a.jpg as a JSON object, found 'x'",
        ),
        (
            '{"a": {"filename": "a.jpg", "file_attributes": ["x"]}}',
            "expected file_attributes of a.jpg as",
        ),
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


def one_row(size: str = "7", attributes: str = "{}") -> str:
    """VIA's CSV of one polyline of a_1.jpg, with its columns separated by commas."""
    text = io.StringIO()
    shape = {"name": "polyline", "all_points_x": [3, 30], "all_points_y": [40, 8]}
    csv.writer(text, lineterminator="\n").writerows(
        [VIA_COLUMNS, ["a_1.jpg", size, attributes, 1, 0, json.dumps(shape), attributes]]
    )
    return text.getvalue()


PLAIN = "tile,polyline\na_1.jpg,3 40;30 8\n"
SPREADSHEETS = {
    "an empty file_size": one_row(""),
    "a file_size with a fraction": one_row("65231.0"),
    "a file_size with an exponent": one_row("6.5E+04"),
    "a file_size that is no number": one_row("64 KB"),
    "empty attributes": one_row(attributes=""),
    "rows of commas": one_row() + ",,,,,,\n,,,,,,\n",
    "rows of spaces and empty rows": one_row() + "\n , , ,,,,\n\n",
    "CRLF and a BOM": "\ufeff" + one_row().replace("\n", "\r\n"),
    "CR": one_row().replace("\n", "\r"),
    "empty columns behind": PLAIN.replace("\n", ",,\n"),
    "a row that is longer by empty cells": "tile,polyline\na_1.jpg,3 40;30 8,,\n",
    "semicolons": 'tile;polyline\na_1.jpg;"3 40;30 8"\n',
    "tabs": PLAIN.replace(",", "\t"),
    "Excel's own first line": 'sep=;\r\ntile;polyline\r\na_1.jpg;"3 40;30 8"\r\n',
    "all cells in quotes": '"tile","polyline"\n"a_1.jpg","3 40;30 8"\n',
    "capitals and other columns": "no,tile,polyline,note\n1,a_1.jpg,3 40;30 8,x\n",
    "decimals": "tile,polyline\na_1.jpg,3.0 40.0;30.0 8.0\n",
}


@pytest.mark.parametrize("kind", SPREADSHEETS)
def test_a_csv_is_read_as_a_spreadsheet_leaves_it(kind: str, tmp_path: Path) -> None:
    (tmp_path / "lines.csv").write_bytes(SPREADSHEETS[kind].encode())
    assert points(read_polylines(tmp_path / "lines.csv")) == EXPECTED[:1]


@pytest.mark.parametrize("line", ["1_0 20;4_0 60", "10 20;40 6_0", "10,5 20;40 60"])
def test_a_number_that_only_python_reads_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "lines.csv").write_text(f'tile,polyline\na_1.jpg,"{line}"\n')
    with pytest.raises(InputError, match=r"lines\.csv is damaged at line 2: expected a polyline of \(x, y\) points"):
        read_polylines(tmp_path / "lines.csv")


SHAPE = {"label": "chimney", "points": [[3, 40], [30, 8]], "shape_type": "linestrip"}
FOREIGN = {
    "a project of VIA 3": {
        "project": {"pid": "x"},
        "config": {},
        "attribute": {},
        "file": {},
        "view": {},
        "metadata": {},
    },
    "in COCO's format": {"images": [{"file_name": "a_1.jpg"}], "annotations": [], "categories": []},
    "in labelme's format": {"version": "5.0", "flags": {}, "shapes": [SHAPE], "imagePath": "a_1.jpg"},
    "GeoJSON": {"type": "FeatureCollection", "features": []},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_labels_of_other_programs_are_named(kind: str, tmp_path: Path, write_split: Callable[..., Path]) -> None:
    (tmp_path / "lines.json").write_text(json.dumps(FOREIGN[kind]))
    with pytest.raises(InputError, match=f"labels of VIA 2 in .*lines.json, but the label is .*{kind}.*; write"):
        read_polylines(tmp_path / "lines.json")
    release = write_split({"a_1.jpg": (jpeg(64, 96), FOREIGN[kind])})
    with pytest.raises(InputError, match=f"none that can be used; most often because the label is .*{kind}"):
        SampleTable.from_release(release)


def test_a_null_region_is_skipped_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    image = export()["a_1.jpg1"]
    image["regions"].insert(0, None)
    (tmp_path / "lines.json").write_text(json.dumps({"a": image}))
    drawn = read_polylines(tmp_path / "lines.json")
    assert points(drawn) == EXPECTED[:2]
    assert [region.index for _, region in drawn.drawn] == [1, 2]


def test_the_labels_of_a_release_are_read_in_every_form(tmp_path: Path) -> None:
    labels = {f"{tile[:-4]}.json": json.dumps(via_label(tile, lines)).encode() for tile, lines in TILES.items()}
    (tmp_path / "folder/deep").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "VL_KS_LINE.zip", "w") as archive:
        for name, data in labels.items():
            (tmp_path / "folder/deep" / name).write_bytes(data)
            archive.writestr(f"/{name}", data)
            archive.writestr(f"__MACOSX/._{name}", b"\0")
    whole = (tmp_path / "VL_KS_LINE.zip").read_bytes()
    for start, stop in ((0, 200), (200, None)):
        (tmp_path / f"VL.zip.part{start}").write_bytes(whole[start:stop])
    with tarfile.open(tmp_path / "loose.tar", "w") as loose, tarfile.open(tmp_path / "VL.tar", "w") as parts:
        loose.add(tmp_path / "folder", "folder")
        for part in ("VL.zip.part0", "VL.zip.part200"):
            parts.add(tmp_path / part, f"download/{part}")
    files = sorted((tmp_path / "folder/deep").iterdir())
    one = tmp_path / "folder"
    for source in (tmp_path / "VL_KS_LINE.zip", one, tmp_path / "loose.tar", tmp_path / "VL.tar", files):
        assert points(read_polylines(source)) == EXPECTED, source
    assert points(read_polylines(tmp_path / "VL.zip.part0")) == EXPECTED
    (tmp_path / "more.csv").write_text("tile,polyline\nc_3.jpg,1 2;3 4\n")
    both = read_polylines([tmp_path / "more.csv", one])
    assert points(both) == [("c_3.jpg", [[1, 2], [3, 4]]), *EXPECTED]
    with pytest.raises(InputError, match=r"more\.csv.* has the image c_3\.jpg twice; merge"):
        read_polylines([tmp_path / "more.csv"] * 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected \.json files in .*empty, found none"):
        read_polylines(tmp_path / "empty")


def test_a_broken_label_of_an_archive_is_named(tmp_path: Path) -> None:
    for name, text in (("a_1.json", json.dumps(export())), ("b_2.json", "{")):
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"expected VIA's JSON in .*: b_2\.json"):
        read_polylines(tmp_path)


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
        table_of(read_polylines({"a_1.jpg": TILES["a_1.jpg"]}), open_pictures([tmp_path]))


def test_missing_files_give_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read: No such file or directory; give --polylines"):
        read_polylines(tmp_path / "none.json")
    with pytest.raises(InputError, match="expected pictures at"):
        open_pictures([tmp_path / "none"])
    with pytest.raises(InputError, match=r"expected \.jpg, \.png or \.tif files in .*, found none"):
        open_pictures([tmp_path])
    (tmp_path / "a_1.webp").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"expected pictures in .*, found files of other kinds \(1 of \.webp\)"):
        open_pictures([tmp_path])
