"""The page of an inspection, parsed as HTML, with its pictures decoded."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dali_pipes.inspect.findings import headline, sections
from dali_pipes.inspect.inspection import inspect
from dali_pipes.pages import picture as pictures
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.via import Reason
from tests.reported import Page
from tests.test_inspection import HOSTILE, PICTURE, TILTED, hostile_release, line, right, shown, tile


def page_of(release: Path, capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[str, Page]:
    path = release / "page.html"
    assert shown(capsys, release, "--html", path, *argv).endswith(f"page: {path}\n")
    text = path.read_text("utf-8")
    return text, Page(text)


@pytest.fixture
def flawed(write_split: Callable[..., Path]) -> Path:
    """Twenty tiles, each with a wrong region 1; the picture of tile 3 is only a header."""
    tiles = {}
    for i in range(20):
        name = f"K3_A_{i}_1.jpg"
        tiles[name] = tile(name, right(60, 20), (line(30, 40), 300 + i), right(5, 99), **TILTED)
    tiles["K3_A_3_1.jpg"] = (
        PICTURE[: PICTURE.index(b"\xff\xc0") + 19] + b"\xff\xd9",
        tile("K3_A_3_1.jpg", (line(30, 40), 999), **TILTED)[1],
    )
    write_split(tiles)
    return write_split({name: tiles[name] for name in list(tiles)[5:8]}, "validation")


def test_the_page_is_balanced_and_works_offline(flawed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, page = page_of(flawed, capsys, "--against", flawed)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            if address := attributes.get(name):
                assert address.startswith(("#", "data:image/jpeg;base64,"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {part.split(")")[0] for part in text.split("url(#")[1:]} <= set(ids)
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")
    assert "prefers-color-scheme: dark" in text


def test_pictures_of_flagged_tiles_are_shown_the_worst_first(flawed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, page = page_of(flawed, capsys)
    captions = [caption for caption in page.captions if "by the formula" in caption]
    heights = [float(caption.split(" m")[0]) for caption in captions]
    assert heights == [319, 318, 317, 316, 315, 314, 313, 312, 311, 310, 309, 308], "999 m cannot be decoded"
    formula = 50 * 0.5 / np.tan(np.radians(30))
    assert f"{formula:.2f} m by the formula" in captions[0]
    assert "K3_A_19_1.jpg" in captions[0]
    assert "polyline 1 of" in captions[0]
    pictures = [attributes["href"] or "" for tag, attributes in page.elements if tag == "image"]
    for picture in pictures:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(picture.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (448, 448, 3)
    figures = [attributes for tag, attributes in page.elements if tag == "svg" and attributes["class"] == "tile"]
    assert len(figures) == len(pictures)
    assert Reason.TRUNCATED.value in page.text, "a skipped tile is listed with its reason"
    assert all("polyline" in (figure["aria-label"] or "") for figure in figures)


def test_hostile_names_stay_text(write_split: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    text, page = page_of(hostile_release(write_split), capsys)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert HOSTILE[3] in page.text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text) < 5_000_000


def test_a_page_that_cannot_be_written_is_one_sentence(flawed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        shown(capsys, flawed, "--html", flawed / "nowhere" / "page.html")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: cannot write the page")


def test_the_page_and_the_console_show_the_same_findings(flawed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspection = inspect(ReleasePaths(flawed), flawed)
    _, page = page_of(flawed, capsys, "--against", flawed)
    console = shown(capsys, flawed, "--against", flawed)
    assert headline(inspection) in page.text
    assert headline(inspection) in console
    for section in sections(inspection):
        for text in (section.title, *section.sentences):
            assert text[1:] in page.text
            assert text in console
        for table in section.tables:
            assert [list(row) for row in table.rows] == [row for row in page.rows if tuple(row) in table.rows]
            assert table.title in console
            assert table.total == len(table.rows)


def uri(data: bytes, width: int = 64) -> str:
    return pictures.tile(lambda: np.frombuffer(data, np.uint8), width, 64, np.zeros((2, 2)))["uri"] or ""


def test_a_picture_that_opencv_cannot_decode_or_that_is_too_large_has_no_thumbnail() -> None:
    assert uri(PICTURE).startswith("data:image/jpeg;base64,/9j/")
    for data in (b"", b"no JPEG", PICTURE[:200]):
        assert uri(data) == ""
    assert uri(PICTURE, width=pictures.LARGEST_PIXELS) == ""
