"""The measuring page's server: heights as predict's, decisions that survive, files that other commands read."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import train.predict
from dali_pipes.errors import InputError
from dali_pipes.samples.polylines import read_polylines
from dali_pipes.samples.table import SampleTable
from tests.conftest import jpeg, via_label
from tests.test_pictures import NO_RASTERIO, NORTH_UP, RGB, geotiff, saved
from tests.test_predict import CALIB, STATS, random_network
from train.deploy.height_model import HeightModel, load
from train.measure.decisions import Change, Decisions, Line
from train.run.folder import save_checkpoint

pytest.importorskip("fastapi", reason="needs the extra page")
from fastapi.testclient import TestClient

from train.measure.server import application
from train.measure.uploads import OWNER, PREFIX, Uploads, sweep_folders
from train.measure.work import Work, decisions_path

LINE = ((202.0, 384.0), (232.5, 408.0))
OURS = {"origin": "http://127.0.0.1:8710"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "best.pt"
    about = {"backbone": "convnext_atto", "size": 64, "scenes": ["K3_KOR_20200101000000"]}
    save_checkpoint(path, {"model": random_network().state_dict(), "stats": STATS, "about": about, "calib": CALIB})
    return path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> HeightModel:
    return load(checkpoint, device="cpu")


class Page:
    """What a browser's page does: requests of the same origin about one work."""

    def __init__(self, model: HeightModel, work: Work | None, uploads: Uploads | None = None) -> None:
        served = application(model, work, uploads or Uploads(), "127.0.0.1")
        self.client = TestClient(served, base_url="http://127.0.0.1:8710", headers=OURS)
        self.key = work.key if work else ""

    def get(self, path: str) -> Any:
        return self.client.get(f"/api/{self.key}/{path}")

    def post(self, path: str, value: Any) -> Any:
        return self.client.post(f"/api/{self.key}/{path}", json=value)

    def tile(self, name: str) -> dict[str, Any]:
        tiles = self.get("tiles").json()["tiles"]
        found: dict[str, Any] = self.get(f"tiles/{next(tile['i'] for tile in tiles if tile['name'] == name)}").json()
        return found

    def change(self, tile: dict[str, Any], id_: str, since: int = 0, **values: Any) -> Any:
        return self.post(f"tiles/{tile['i']}/lines", {"changes": [{"id": id_, "since": since, **values}]})


@pytest.fixture
def page(model: HeightModel, release: Path, tmp_path: Path) -> Page:
    return Page(model, opened(model, release, tmp_path / "kept.json"))


def opened(model: HeightModel, release: Path, kept: Path | None) -> Work:
    return Work.opened(model, [release / "VS_KS.zip"], [release / "VL_KS_LINE.zip"], kept)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_height_is_that_of_predict_to_the_printed_digit(
    page: Page, checkpoint: Path, release: Path, tmp_path: Path, pooled: bool
) -> None:
    listed = page.get("tiles").json()["tiles"]
    drawn = {tile["name"]: page.get(f"tiles/{tile['i']}").json()["lines"] for tile in listed}
    tile = page.get(f"tiles/{listed[0]['i']}").json()
    lines = {line["id"]: line["points"] for line in tile["lines"]} | {"n-1": LINE}
    answer = page.post(f"tiles/{tile['i']}/heights", {"lines": lines, "pool": pooled}).json()

    rows = [(name, line["points"]) for name, all_of_it in drawn.items() for line in all_of_it]
    rows.append((tile["name"], LINE))
    with (tmp_path / "drawn.csv").open("w", newline="") as file:
        text = [[name, ";".join(f"{x} {y}" for x, y in points)] for name, points in rows]
        csv.writer(file).writerows([["tile", "polyline"], *text])
    pool = ["--pool", "scene"] if pooled else []
    inputs = ["--images", str(release / "VS_KS.zip"), "--polylines", str(tmp_path / "drawn.csv"), "--device", "cpu"]
    train.predict.main(["--checkpoint", str(checkpoint), *inputs, "--out", str(tmp_path / "heights.csv"), *pool])
    with (tmp_path / "heights.csv").open(newline="") as file:
        expected = [row for row in csv.DictReader(file) if row["tile"] == tile["name"]]
    assert len(expected) == len(lines)
    for row, shown in zip(expected, answer["heights"].values(), strict=True):
        for name, column in (("height", "height_m"), ("sigma", "sigma_m"), ("low", "low_m"), ("high", "high_m")):
            assert shown[name] == f"{float(row[column]):.1f}", name
    assert (answer["pooled"] > len(lines)) is pooled, "the scene's other tiles are pooled, too"


def test_a_kept_frame_gives_the_height_of_a_new_one(page: Page, model: HeightModel, release: Path) -> None:
    tile = page.get("tiles/0").json()
    moved = [((202.0, 384.0), (232.0 + step, 408.0)) for step in range(3)]
    asked = [page.post("tiles/0/heights", {"lines": {"n-1": line}, "pool": False}).json() for line in moved]
    fresh = model.predict(release / "VS_KS.zip", {tile["name"]: [np.array(line) for line in moved]})
    assert [each["heights"]["n-1"]["height"] for each in asked] == [f"{mu:.1f}" for mu in fresh.mu.round(4)]


def test_decisions_survive_the_program_and_the_input_is_unchanged(
    page: Page, model: HeightModel, release: Path, tmp_path: Path
) -> None:
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(release.iterdir())}
    tile = page.get("tiles/0").json()
    assert page.change(tile, "0", points=tile["lines"][0]["points"], verdict="drop").status_code == 200
    assert page.change(tile, "n-a", points=LINE).status_code == 200
    again = Page(model, opened(model, release, tmp_path / "kept.json")).get("tiles/0").json()
    assert [(line["id"], line["verdict"]) for line in again["lines"] if line["verdict"]] == [
        ("0", "drop"),
        ("n-a", "drawn"),
    ]
    after = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(release.iterdir())}
    assert before == after


def test_two_pages_on_one_file_keep_both_their_changes_and_the_first_of_a_conflict(
    page: Page, model: HeightModel, release: Path, tmp_path: Path
) -> None:
    other = Page(model, opened(model, release, tmp_path / "kept.json"))
    tile = page.get("tiles/0").json()
    points = tile["lines"][0]["points"]
    assert page.change(tile, "0", points=points, verdict="drop").status_code == 200
    assert other.change(tile, "n-b", points=LINE).status_code == 200
    late = other.change(tile, "0", points=points, verdict="accept")
    assert (late.status_code, late.json()["conflicts"]) == (409, ["0"])
    seen = {line["id"]: line for line in late.json()["tile"]["lines"]}
    assert (seen["0"]["verdict"], seen["n-b"]["verdict"]) == ("drop", "drawn")
    assert other.change(tile, "0", seen["0"]["version"], points=points, verdict="accept").status_code == 200
    assert {line["id"]: line["verdict"] for line in page.get("tiles/0").json()["lines"]}["0"] == "accept"


def test_the_corrected_archive_is_read_as_labels_and_differs_only_where_something_was_decided(
    page: Page, release: Path, tmp_path: Path
) -> None:
    original = SampleTable.from_release(release, "validation")
    crowded = next(name for name in original.tile.tolist() if (original.tile == name).sum() > 1)
    tile = page.tile(crowded)
    page.change(tile, "0", points=tile["lines"][0]["points"], verdict="drop")
    page.change(tile, "1", points=LINE, verdict="correct", height=81.5)
    page.change(tile, "n-1", points=LINE, height=33)
    page.change(tile, "n-2", points=LINE)
    (tmp_path / "corrected.zip").write_bytes(page.get("files/labels.zip").content)

    corrected = SampleTable.from_release(release, "validation", labels=tmp_path / "corrected.zip")
    here, there = corrected.tile == crowded, original.tile == crowded
    assert here.sum() == there.sum()  # one dropped, one drawn with a height; the one without is not a label
    assert corrected.height[here][[0, -1]].tolist() == [81.5, 33.0]
    np.testing.assert_array_equal(corrected.polyline[here][0, :2], LINE)
    np.testing.assert_array_equal(np.sort(corrected.height[~here]), np.sort(original.height[~there]))
    with zipfile.ZipFile(release / "VL_KS_LINE.zip") as old, zipfile.ZipFile(tmp_path / "corrected.zip") as new:
        names = {name.rsplit("/", 1)[-1]: name for name in old.namelist()}
        changed = [name for name in new.namelist() if new.read(name) != old.read(names[name])]
    assert changed == [crowded.replace(".jpg", ".json")]


def test_the_files_of_heights_are_read_again_as_polylines(page: Page, tmp_path: Path) -> None:
    tile = page.get("tiles/0").json()
    page.change(tile, "n-1", points=LINE)
    for name in ("heights.csv", "heights.json"):
        answer = page.get(f"files/{name}?pool=false")
        assert "attachment" in answer.headers["content-disposition"]
        (tmp_path / name).write_bytes(answer.content)
        lines = read_polylines(tmp_path / name)
        assert any(np.array_equal(region.points, LINE) for _, region in lines.drawn)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "heights.csv").read_text("utf-8"))))
    assert all(float(row["height_m"]) for row in rows)


@NO_RASTERIO
def test_a_map_has_the_lines_of_all_pictures_with_a_place_and_counts_the_others(
    model: HeightModel, tmp_path: Path
) -> None:
    geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed: pip install -e .[dev]")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    saved(pictures / "site_1.png", RGB)
    geotiff(pictures / "site_2.tif", RGB)
    page = Page(model, Work.opened(model, [pictures], [], tmp_path / "kept.json"))
    listed = page.get("tiles").json()
    assert listed["located"], "the first has no place, the second has one"
    shown = page.get(f"tiles/{page.tile('site_2.tif')['i']}/picture").content
    bgr = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    np.testing.assert_array_equal(bgr[..., ::-1], RGB)
    page.change(page.tile("site_1.png"), "n-1", points=[[5, 5], [40, 40]])
    alone = page.get("files/heights.gpkg")
    assert (alone.status_code, "georeference" in alone.json()["error"]) == (400, True)

    page.change(page.tile("site_2.tif"), "n-2", points=[[10, 50], [40.5, 12.2]])
    heights = list(csv.DictReader(io.StringIO(page.get("files/heights.csv").text)))
    a, b, c, d, e, f = NORTH_UP
    ends = [(a * x + b * y + c, d * x + e * y + f) for x, y in ((10, 50), (40.5, 12.2))]
    for name, layer in (("heights.geojson", None), ("heights.gpkg", "chimneys")):
        answer = page.get(f"files/{name}")
        assert answer.headers["x-left-out"] == "1"
        (tmp_path / name).write_bytes(answer.content)
        frame = geopandas.read_file(tmp_path / name, **({"layer": layer} if layer else {})).to_crs("EPSG:32652")
        np.testing.assert_allclose(list(frame.geometry[0].coords), ends, atol=1e-3)
        assert frame.tile.tolist() == ["site_2.tif"]
        assert f"{frame.height_m[0]:.4f}" == f"{float(heights[1]['height_m']):.4f}", "pooled with the other picture"


def test_the_review_begins_with_what_the_audit_flags(model: HeightModel, write_split: Any, tmp_path: Path) -> None:
    line = [(100, 300), (130, 260)]  # 50 px
    facts = {"img_resolution": "0.5", "img_roll_tilt": "20.1234567", "img_pitch_tilt": "10.7654321"}
    right = f"{50 * 0.5 / np.hypot(np.tan(np.radians(20.1234567)), np.tan(np.radians(10.7654321))):.2f}"
    names = [f"K3_KOR_20200101000000_{i}.jpg" for i in range(4)]
    heights = [right, right, "99.99", right]
    labels = {name: via_label(name, [line], height, **facts) for name, height in zip(names, heights, strict=True)}
    release = write_split({name: (jpeg(512, 512, seed=i), labels[name]) for i, name in enumerate(names)})
    work = Work.opened(model, [release / "TS_KS.zip"], [release / "TL_KS_LINE.zip"], tmp_path / "kept.json")
    page = Page(model, work)
    page.post("review", {})
    deadline = time.monotonic() + 60
    while (state := page.get("review").json())["predicting"] or not state["audited"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert state["queue"][0]["name"] == names[2]
    assert {flag["code"] for flag in state["queue"][0]["flags"]} == {"formula", "scene"}
    assert state["known"] == state["labels"] == 4
    rest = [abs(row["height"] - row["label"]) for row in state["queue"][1:]]
    assert rest == sorted(rest, reverse=True)


def test_what_is_unlike_the_training_samples_is_said(model: HeightModel, tmp_path: Path) -> None:
    for name, side in (("K3_KOR_20200101000000_1.jpg", 512), ("K3_KOR_20210101000000_1.jpg", 512), ("roof.jpg", 200)):
        (tmp_path / name).write_bytes(jpeg(side, side))
    page = Page(model, Work.opened(model, [tmp_path], [], tmp_path / "kept.json"))

    def codes(name: str, line: Any) -> list[str]:
        asked = {"lines": {"n-1": line}, "pool": False}
        answer = page.post(f"tiles/{page.tile(name)['i']}/heights", asked).json()
        return [each["code"] for each in answer["heights"]["n-1"]["unusual"]]

    usual = [[100, 100], [100, 202]]  # the mean of STATS: 0.2 of a side
    assert codes("K3_KOR_20200101000000_1.jpg", usual) == []
    assert codes("K3_KOR_20200101000000_1.jpg", [[0, 0], [0, 500]]) == ["long"]
    assert codes("K3_KOR_20210101000000_1.jpg", usual) == ["unseen"]
    assert codes("roof.jpg", [[100, 100], [100, 140]]) == ["size", "nameless"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8710", "origin": "http://localhost:8710"}, 200),
        ({"host": "attacker.example:8710", "origin": "http://attacker.example:8710"}, 403),
        ({"host": "192.168.0.9:8710", "origin": "http://192.168.0.9:8710"}, 403),
        ({"origin": "http://attacker.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_requests_of_other_sites_are_refused(page: Page, headers: dict[str, str], status: int) -> None:
    assert page.client.get("/api/model", headers=headers).status_code == status
    asked = {"lines": {"n-1": LINE}}
    assert page.client.post(f"/api/{page.key}/tiles/0/heights", json=asked, headers=headers).status_code == status


def test_a_change_without_an_origin_or_as_a_form_is_refused(page: Page) -> None:
    del page.client.headers["origin"]
    assert page.client.get("/").status_code == 200
    assert page.client.post("/api/open", json={"images": ["/"]}).status_code == 403
    form = {**OURS, "content-type": "text/plain"}
    assert page.client.post("/api/open", content='{"images": ["/"]}', headers=form).status_code == 415


def test_every_answer_has_the_headers_that_bind_the_page(page: Page) -> None:
    for path in ("/", "/page/page.js", "/face.css", "/api/model", "/api/none/tiles", "/nothing"):
        answer = page.client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in page.client.get("/api/model").headers


def test_no_script_of_the_page_sets_html_or_asks_another_server() -> None:
    for path in (Path(__file__).parent.parent / "train/measure/page").iterdir():
        text = path.read_text("utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"):
            assert word not in text, f"{path.name}: {word}"
        assert text.replace("http://www.w3.org/2000/svg", "").count("http://") == 0, path.name


def drop(page: Page, files: dict[str, bytes]) -> Any:
    numbers = []
    for name, data in files.items():
        answer = page.client.post("/api/dropped", params={"name": name}, content=data)
        if answer.status_code != 200:
            return answer
        numbers.append(answer.json()["number"])
    return page.client.post("/api/open", json={"dropped": numbers})


def test_dropped_files_stay_in_a_temporary_folder_under_other_names(model: HeightModel) -> None:
    uploads = Uploads()
    page = Page(model, None, uploads)
    name = "<img src=x onerror=alert(1)>_1.jpg"
    label = json.dumps(via_label(name, [[(10, 60), (30, 20)]])).encode()
    opened = drop(page, {f"../../{name}": jpeg(80, 80), "label.json": label})
    page.key = opened.json()["work"]
    tile = page.get("tiles/0").json()
    assert (tile["name"], len(tile["lines"])) == (name, 1)
    assert page.change(tile, "0", points=tile["lines"][0]["points"], verdict="accept").status_code == 200
    assert {path.suffix for path in uploads.folder.iterdir()} <= {".jpg", ".json", ".decisions", ".lock"}
    assert not any("img" in path.name for path in uploads.folder.iterdir())
    folder = uploads.folder
    with page.client:  # the program begins and ends
        assert folder.exists()
    assert not folder.exists()


def test_a_dropped_release_is_opened_from_its_archives(model: HeightModel, release: Path) -> None:
    page = Page(model, None)
    archives = {name: (release / name).read_bytes() for name in ("VL_KS_LINE.zip", "VS_KS.zip")}
    page.key = drop(page, archives).json()["work"]
    listed = page.get("tiles").json()
    assert (len(listed["tiles"]), listed["labels"], listed["temporary"]) == (40, True, True)
    assert page.get("tiles/0/thumbnail").content[:2] == b"\xff\xd8"


def test_the_folders_of_killed_programs_are_deleted_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]; from train.measure.uploads import Uploads;"
        " uploads = Uploads(); print(uploads.folder, flush=True); sys.stdin.read(1); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        folder = Path(program.stdout.readline().strip())
        assert (folder.parent, folder.name[: len(PREFIX)]) == (tmp_path, PREFIX)
        (tmp_path / f"{PREFIX}new").mkdir()
        sweep_folders(tmp_path)
        assert (folder / OWNER).exists(), "its program lives"
        program.communicate("x")
    assert folder.exists(), "killed"
    sweep_folders(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}new"], "one without an owner may just be made"


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.exe", b"MZ", "expected a JPEG, PNG"),
        ("a\0.jpg", b"", "expected a JPEG, PNG"),
        ("a.jpg", b"GIF89a", "GIF"),
        ("a.jpg", b"", "empty"),
        ("a.jpg", jpeg(40, 40)[:300], "cut short"),
        ("a.jpg", b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + b"\1\x11\0" * 3 + jpeg(40, 40)[2:], "pixels"),
        ("a.zip", b"PK\5\6" + b"\xff" * 18, "a.zip"),
        ("a.zip", b"no zip at all", "a.zip"),
        ("a.tar", b"\0" * 1024, "a.tar"),
    ],
)
def test_a_crafted_file_gets_a_sentence(model: HeightModel, name: str, data: bytes, sentence: str) -> None:
    page = Page(model, None)
    answer = drop(page, {name: data})
    if answer.status_code == 200:
        page.key = answer.json()["work"]
        assert page.get("tiles").status_code == 200, "the other pictures can still be seen"
        assert page.get("tiles/0/picture").status_code == 400
        answer = page.get("tiles/0")
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    assert "/tmp" not in answer.json()["error"]


def test_dropped_files_are_bounded(model: HeightModel) -> None:
    page = Page(model, None, Uploads(most_bytes=1 << 16))
    assert drop(page, {"a.jpg": bytes(1 << 17)}).json()["error"].startswith("expected at most 0 MiB")
    assert drop(page, {"b.jpg": bytes(1 << 15)}).status_code == 200, "what was refused takes no space"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ({"points": [[0, 0], [600, 0]]}, 400),
        ({"points": [[5, 5], [5, 5]]}, 400),
        ({"points": [[-1, 5], [5, 5]]}, 400),
        ({"points": [["a", 5], [5, 5]]}, 400),
        ({"points": [[5, 5], [5, 9]], "height": -1}, 400),
        ({"points": [[5, 5], [5, 9]], "id": "../x"}, 400),
        ({"points": [[5, 5], [5, 9]], "id": "77"}, 400),
        ({"points": [[5, 5], [5, 9]], "verdict": "burn"}, 400),
        ({"points": [[5, 5], [5, 9]]}, 200),
    ],
)
def test_a_crafted_line_gets_a_sentence(page: Page, line: dict[str, Any], status: int) -> None:
    answer = page.post("tiles/0/lines", {"changes": [{"id": "n-1", "since": 0, **line}]})
    assert answer.status_code == status
    assert ("error" in answer.json()) is (status != 200)
    assert page.post("tiles/999/lines", {"changes": [{"id": "n-1", "since": 0, "points": LINE}]}).status_code == 400


def test_paths_are_opened_only_from_this_machine(model: HeightModel, release: Path) -> None:
    for host, status in (("127.0.0.1", 200), ("0.0.0.0", 400)):
        client = TestClient(application(model, None, Uploads(), host), base_url="http://127.0.0.1:8710", headers=OURS)
        answer = client.post("/api/open", json={"images": [str(release / "VS_KS.zip")]})
        assert answer.status_code == status
    decisions_path(release / "VS_KS.zip").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2}', '{"format": 1, "version": 1, "tiles": {"a": {"0": {}}}}', "\xff"]
)
def test_another_file_is_not_taken_for_decisions(tmp_path: Path, text: str) -> None:
    (tmp_path / "kept.json").write_text(text, "latin-1")
    with pytest.raises(InputError, match="expected decisions of chimney measure"):
        Decisions(tmp_path / "kept.json")
    assert (tmp_path / "kept.json").read_text("latin-1") == text


def test_decisions_are_beside_the_input_and_stay_whole(tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    assert decisions_path(tmp_path / "TL.zip") == tmp_path / "TL.decisions.json"
    assert decisions_path(tmp_path / "tiles") == tmp_path / "tiles.decisions.json"
    kept = Decisions(tmp_path / "kept.json")
    assert kept.apply("a.jpg", [Change("n-1", 0, Line(LINE))]) == []
    assert kept.apply("a.jpg", [Change("n-1", 0, None)]) == ["n-1"]
    assert kept.apply("a.jpg", [Change("n-1", 1, None)]) == []
    assert json.loads((tmp_path / "kept.json").read_text())["tiles"] == {}


def test_labels_that_cannot_be_read_are_counted(model: HeightModel, release: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(release / "VL_KS_LINE.zip") as old, zipfile.ZipFile(tmp_path / "broken.zip", "w") as new:
        for i, name in enumerate(old.namelist()):
            new.writestr(name, b"{" if i == 0 else old.read(name))
    page = Page(model, Work.opened(model, [release / "VS_KS.zip"], [tmp_path / "broken.zip"], None))
    assert page.get("tiles").json()["unread"] == 1
    assert decisions_path(tmp_path / "broken.zip").name == "broken.decisions.json"
