"""The measuring page in a real browser: Playwright's core drives the installed Chromium, which downloads nothing.

`make test-page` installs Chromium on Debian if it is missing. Without it the test is skipped.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import train.predict
from dali_pipes.inspect.inspection import inspect
from dali_pipes.release.paths import ReleasePaths
from tests.conftest import jpeg
from tests.test_measure import checkpoint as checkpoint

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: make test-page")
playwright_api = pytest.importorskip("playwright.sync_api", reason="needs the extra dev")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra dev")

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
expect = playwright_api.expect
expect.set_options(timeout=30_000)  # milliseconds: the machine may be busy
HEIGHT = ".card.chosen .height"


class Server:
    """`chimney measure` in its own process, which can be killed and started again."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self._command = [sys.executable, "-m", "train.measure", "--checkpoint", str(checkpoint), "--device", "cpu"]
        self._command += ["--images", str(folder / "VS_KS.zip"), "--polylines", str(folder / "VL_KS_LINE.zip")]
        self._port = "0"
        self.start()

    def start(self) -> None:
        root = Path(__file__).parent.parent
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        command = [*self._command, "--port", self._port]
        self.process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"open (http://127\.0\.0\.1:(\d+)/)", line):
                self.address, self._port = found[1], found[2]
                return
        raise AssertionError(f"the server ended with {self.process.wait()}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def folder(release: Path, tmp_path: Path) -> Path:
    """The validation split in a folder of its own, where decisions are kept next to it."""
    for name in ("VS_KS.zip", "VL_KS_LINE.zip"):
        shutil.copy(release / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def server(checkpoint: Path, folder: Path) -> Iterator[Server]:
    running = Server(checkpoint, folder)
    yield running
    running.kill()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with playwright_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


def opened(browser: Any, address: str, width: int, height: int, scheme: str) -> tuple[Any, list[str]]:
    """A page that is ready to draw on, and the list of what goes wrong in it."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-US", has_touch=width < 600
    )
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    page.on(
        "request",
        lambda asked: faults.append(asked.url) if not asked.url.startswith((address, "data:", "blob:")) else None,
    )
    page.goto(address)
    page.wait_for_selector(".card", state="attached")
    page.click("#tab-chimneys")
    expect(page.locator(".card .height").first).to_contain_text(" m")
    return page, faults


def free_places(page: Any) -> list[tuple[float, float]]:
    """Three places of the stage, in shares of its size, that are far from all ends of lines."""
    box = page.locator("#stage").bounding_box()
    ends = [end.bounding_box() for end in page.locator("#stage .end").all()]
    middles = [((end["x"] + end["width"] / 2 - box["x"]), (end["y"] + end["height"] / 2 - box["y"])) for end in ends]
    for x, y in [(x / 20, y / 20) for x in range(4, 14) for y in range(10, 18)]:
        places = [(x, y), (x + 0.1, y - 0.3), (x + 0.15, y - 0.4)]
        pixels = [(px * box["width"], py * box["height"]) for px, py in places]
        if all(abs(px - ex) + abs(py - ey) > 70 for px, py in pixels for ex, ey in middles):
            return places
    raise AssertionError("the picture is full of lines")


def draw(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw with the mouse from one place of the stage to another, in shares of its size."""
    box = page.locator("#stage").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()


class Fingers:
    """Touches, a pen and dropped files, sent to the browser as the operating system sends them."""

    def __init__(self, page: Any) -> None:
        self._protocol = page.context.new_cdp_session(page)
        self._box = page.locator("#stage").bounding_box()

    def _at(self, place: tuple[float, float]) -> dict[str, float]:
        x, y = place
        return {"x": self._box["x"] + x * self._box["width"], "y": self._box["y"] + y * self._box["height"]}

    def move(self, *paths: tuple[tuple[float, float], tuple[float, float]]) -> None:
        """Move one finger for each path from its start to its end, in shares of the stage."""
        for kind, share in (("touchStart", 0.0), ("touchMove", 0.5), ("touchMove", 1.0), ("touchEnd", None)):
            points = []
            for i, ((x, y), (to_x, to_y)) in enumerate(paths if share is not None else ()):
                assert share is not None
                points.append({"id": i, **self._at((x + share * (to_x - x), y + share * (to_y - y)))})
            self._protocol.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def draw_with_pen(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        for kind, place in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            pen = {"type": kind, "pointerType": "pen", "button": "left", "buttons": 1, "clickCount": 1}
            self._protocol.send("Input.dispatchMouseEvent", {**pen, **self._at(place)})

    def drop(self, *files: Path) -> None:
        for kind in ("dragEnter", "dragOver", "drop"):
            data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
            self._protocol.send("Input.dispatchDragEvent", {"type": kind, "data": data, **self._at((0.5, 0.5))})


def settle(page: Any) -> None:
    """Wait until everything is saved, and the shown height is that of the line as it is."""
    expect(page.locator("#state")).to_have_text(re.compile("saved$"))
    page.wait_for_load_state("networkidle")


def take(page: Any, link: str, path: Path) -> Path:
    page.click("#take")
    with page.expect_download() as download:
        page.click(link)
    download.value.save_as(path)
    return path


def violations(page: Any) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {node['html'][:120]}" for each in serious for node in each["nodes"]]


def test_a_person_draws_reviews_and_takes_away(
    server: Server, browser: Any, checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    page, faults = opened(browser, server.address, 1280, 800, "dark")
    assert violations(page) == []
    page.emulate_media(color_scheme="light")
    assert violations(page) == []
    page.uncheck("#pool")

    # Draw, drag an end, nudge it by a key, undo that.
    labels = page.locator(".card").count()
    base, top, higher = free_places(page)
    draw(page, base, top)
    settle(page)
    first = page.inner_text(HEIGHT)
    draw(page, top, higher)
    settle(page)
    dragged = page.inner_text(HEIGHT)
    assert page.locator(".card").count() == labels + 1
    assert dragged != first
    label = page.locator(".chosen .end").last.get_attribute("aria-label")
    page.locator(".chosen .end").last.press("ArrowRight")
    assert page.locator(".chosen .end").last.get_attribute("aria-label") != label
    page.keyboard.press("Control+z")
    settle(page)
    assert page.locator(".chosen .end").last.get_attribute("aria-label") == label
    name = page.inner_text("#state").split(" · ")[0]

    # The height is that of predict, to the printed digit, from the file that the page wrote.
    taken = take(page, "#take-csv", tmp_path / "taken.csv")
    arguments = ["--checkpoint", str(checkpoint), "--images", str(folder / "VS_KS.zip"), "--device", "cpu"]
    train.predict.main([*arguments, "--polylines", str(taken), "--out", str(tmp_path / "again.csv")])
    with (tmp_path / "again.csv").open(newline="") as file:
        drawn = [row for row in csv.DictReader(file) if row["tile"] == name][-1]
    height, sigma = float(drawn["height_m"]), float(drawn["sigma_m"])
    assert page.inner_text(HEIGHT) == f"{height:.1f} m ± {sigma:.1f} m" == dragged

    # Decide, kill the server, reload: everything is as it was.
    page.locator(".card").first.locator("[data-verdict=drop]").click()
    settle(page)
    assert faults == []
    server.kill()
    server.start()
    page.reload()
    faults.clear()  # a request may have met the end of the server
    page.wait_for_selector(".card.dropped", state="attached")
    page.click("#tab-chimneys")
    assert page.locator(".card").count() == labels + 1
    page.locator(".card").last.click()
    page.uncheck("#pool")
    expect(page.locator(HEIGHT)).to_have_text(dragged)

    # Keyboard alone: a chimney in the middle, with a height for the labels.
    page.click("#add")
    assert page.evaluate("document.activeElement.classList.contains('end')")
    page.keyboard.press("Shift+ArrowUp")
    page.locator(".card.chosen input").fill("77.5")
    page.keyboard.press("Tab")
    settle(page)
    corrected = take(page, "#take-labels", tmp_path / "corrected.zip")
    audit = inspect(ReleasePaths(folder, validation_labels=corrected))
    original = inspect(ReleasePaths(folder))
    assert len(audit.labels) == len(original.labels), "one is dropped, one is drawn with a height"
    assert audit.labels.height[audit.labels.tile == name][-1] == 77.5
    with zipfile.ZipFile(corrected) as archive:
        assert archive.testzip() is None

    # Step through the largest disagreements by keys; what is accepted leads to the next label.
    page.click("#tab-review")
    page.click("#predict-all")
    expect(page.locator("#audit")).to_contain_text(f"{len(original.labels)} are predicted")
    queue = page.locator("#queue b").all_inner_texts()
    for key, row in (("j", 0), ("j", 1), ("k", 0), ("a", 1)):
        page.keyboard.press(key)
        expect(page.locator("#queue li").nth(row).locator("button")).to_have_attribute("aria-current", "true")
        expect(page.locator("#state")).to_contain_text(queue[row])
        settle(page)
    expect(page.locator("#queue li").first).to_contain_text("accepted")
    assert violations(page) == []
    assert faults == []


def test_the_page_fits_a_phone_and_speaks_korean(server: Server, browser: Any) -> None:
    page, faults = opened(browser, server.address, 390, 844, "light")
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    for tab in ("tiles", "review", "decisions", "chimneys"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
        assert violations(page) == [], tab
    page.click("#language")
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    expect(page.locator("#tab-chimneys")).to_have_text("굴뚝")
    left = page.evaluate(
        "[...document.querySelectorAll('[data-word], [data-label]')].filter((e) =>"
        " !(e.dataset.word ? e.textContent : e.ariaLabel)).map((e) => e.outerHTML)"
    )
    assert left == []
    page.click("#open")
    assert violations(page) == []
    assert faults == []


def test_fingers_and_a_pen_draw_two_fingers_zoom_and_files_are_dropped(
    server: Server, browser: Any, tmp_path: Path
) -> None:
    page, faults = opened(browser, server.address, 390, 844, "light")
    labels, fingers = page.locator(".card").count(), Fingers(page)
    base, top, higher = free_places(page)
    fingers.move((base, top))
    expect(page.locator(".card")).to_have_count(labels + 1)
    settle(page)
    drawn = page.inner_text(HEIGHT)
    fingers.move((top, higher))
    settle(page)
    assert page.inner_text(HEIGHT) != drawn, "the end follows the finger"
    assert page.locator(".card").count() == labels + 1
    fingers.draw_with_pen((higher[0] - 0.2, higher[1]), (base[0] - 0.1, base[1]))
    expect(page.locator(".card")).to_have_count(labels + 2)
    settle(page)

    zoom = percent(page)
    fingers.move(((0.45, 0.5), (0.25, 0.5)), ((0.55, 0.5), (0.75, 0.5)))
    assert percent(page) == pytest.approx(5 * zoom, abs=2), "the fingers are five times as far apart"
    assert page.locator(".card").count() == labels + 2, "a pinch draws nothing"

    (tmp_path / "site_1.jpg").write_bytes(jpeg(120, 160))
    fingers.drop(tmp_path / "site_1.jpg")
    expect(page.locator("#state")).to_contain_text("site_1.jpg · 160 × 120 px")
    expect(page.locator(".card")).to_have_count(0)
    fingers.move(((0.3, 0.6), (0.5, 0.4)))
    expect(page.locator(".card .warnings").first).to_contain_text("160 × 120 px")
    settle(page)
    assert faults == []


def percent(page: Any) -> float:
    return float(page.inner_text("#state").split(" %")[0].split(" · ")[-1])
