"""What is written can be opened without harm: CSV files in a spreadsheet, pages in a browser, figures of any name."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dali_pipes import SampleTable
from dali_pipes.errors import InputError
from dali_pipes.inspect.inspection import inspect
from dali_pipes.inspect.page import write_page
from dali_pipes.inspect.verdict import SAME_PICTURE, Verdict, judge
from dali_pipes.pages.template import template
from dali_pipes.release.members import Members
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.csv_text import escaped, unescaped
from dali_pipes.samples.index import _write_listing
from dali_pipes.samples.labels import LeftOut
from dali_pipes.samples.polylines import read_polylines
from dali_pipes.samples.via import Reason
from train.engine import trained
from train.report.figures import rmse_by_epoch

FORMULAS = ("=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "'=1", "''@a")


@given(st.text() | st.text("'=+-@\t\ra"))
def test_every_name_comes_back_and_none_is_a_formula(name: str) -> None:
    assert unescaped(escaped(name)) == name
    assert escaped(name)[:1] not in set("=+-@\t\r")


@pytest.mark.parametrize("name", FORMULAS)
def test_csv_files_hold_no_formula(name: str, tmp_path: Path) -> None:
    _write_listing(tmp_path / "left_out.csv", [LeftOut(f"{name}.jpg", -1, Reason.NO_LABEL)])
    with (tmp_path / "left_out.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["file"] == f"'{name}.jpg"
    (tmp_path / "heights.csv").write_text(f'tile,polyline\n"{escaped(f"{name.strip()}.jpg")}",1 2;3 4\n')
    assert read_polylines(tmp_path / "heights.csv").images[0]["filename"] == f"{name.strip()}.jpg"


class Inline(HTMLParser):
    """The policy of a page, its inline elements, and the attributes that the policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.texts, self.forbidden = "", {"style": [], "script": []}, []  # type: ignore[var-annotated]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        if tag in self.texts:
            self.texts[tag].append("")
        for name, value in attrs:
            outside = name in ("src", "href", "xlink:href") and not (value or "").startswith(("data:image/", "#"))
            if name.startswith("on") or outside:
                self.forbidden.append((tag, name, value))

    def handle_data(self, data: str) -> None:
        if self.lasttag in self.texts and self.cdata_elem:
            self.texts[self.lasttag][-1] += data


def test_a_page_permits_its_own_styles_and_scripts_and_nothing_else(release: Path, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", inspect(ReleasePaths(release)))
    page = Inline()
    page.feed((tmp_path / "page.html").read_text("utf-8"))
    assert page.policy.startswith("default-src 'none'; img-src data:; script-src 'sha256-")
    assert not page.forbidden
    assert page.texts["style"]
    for text in page.texts["style"] + page.texts["script"]:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in page.policy


def test_only_scripts_of_the_templates_are_permitted(tmp_path: Path) -> None:
    (tmp_path / "a.html.j2").write_text('<meta content="{{ POLICY }}"><script>ours()</script>{{ name }}')
    page = template(tmp_path / "a.html.j2", {}).render(name="<script>theirs()</script>")
    ours = base64.b64encode(hashlib.sha256(b"ours()").digest()).decode()
    assert re.findall(r"script-src ('[^;]*')", page) == [f"'sha256-{ours}'"]


def test_a_name_in_a_figure_is_no_formula() -> None:
    names = ("a $x^2$ b", r"$\frac{", "_hidden", "plain")
    figure = rmse_by_epoch({name: [{"epoch": 1, "rmse": 3.0}] for name in names})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(names)
    figure.savefig(BytesIO(), format="svg")  # a broken formula would raise here


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_outputs_that_overflow_are_an_error(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = SimpleNamespace(table=SimpleNamespace(tile=np.array(["a.jpg", "b.jpg"])))
    for outputs in ([[1.0, value], [1.0, 1.0]], [[1.0, 1.0], [1.0, value]]):
        monkeypatch.setattr(trained, "predict", lambda *_, given=outputs: map(np.array, given))
        with pytest.raises(InputError, match=r"no finite height for 1 of 2 polylines, such as on b\.jpg"):
            trained.finite(SimpleNamespace(precision="fp32"), loader, None)  # type: ignore[arg-type]


# --- The verdict about the labels.


@pytest.fixture(scope="module")
def table(release: Path) -> SampleTable:
    return SampleTable.from_release(release)


def test_rendered_labels_have_no_fault(table: SampleTable) -> None:
    assert judge({"train": table}) == Verdict(0, len(table), {})


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("fault", ["hundredfold", "constant", "tiny", "exchanged", "short", "case", "some"])
def test_faults_of_many_labels_are_beyond_chance(table: SampleTable, fault: str, metadata: bool) -> None:
    height, n = table.height, len(table)
    if not metadata:
        unknown = np.full(n, np.nan)
        table = replace(table, gsd=unknown, roll=unknown, pitch=unknown)
    faulty = {
        "hundredfold": lambda: replace(table, height=height * 100),
        "constant": lambda: replace(table, height=np.full(n, 100.0)),
        "tiny": lambda: replace(table, height=height / 1000),
        "exchanged": lambda: replace(table, height=np.roll(height, 1)),
        "short": lambda: replace(table, polyline=table.polyline[:, :1] + np.array([[[0.0, 0.0], [1.0, 1.0]]])),
        "case": lambda: _with_names(
            table, [f"K_{'ab'[i % 2] if i % 4 > 1 else 'AB'[i % 2]}{i // 4}.jpg" for i in range(999)]
        ),
        "some": lambda: replace(table, height=np.where(np.arange(n) % 8 == 0, height * 100, height)),
    }[fault]()
    verdict = judge({"train": faulty})
    assert verdict.beyond_chance, verdict.sentence
    assert f"of {n} labels suspicious: " in verdict.sentence


def _with_names(table: SampleTable, names: list[str]) -> SampleTable:
    return replace(table, images=LooseTiles(names[: len(table.images.names)]))


class LooseTiles(Members):
    """Files of a folder, without checksums; the second half shows the pictures of the first if `again`."""

    def __init__(self, names: list[str], *, again: bool = False) -> None:
        self.names = names
        self.pictures = len(names) // 2 if again else len(names)

    def size(self, index: int) -> int:
        return 1

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.frombuffer(b"%d" % (index % self.pictures), np.uint8)


def test_pictures_under_two_names_count_whether_found_in_a_folder_or_dropped_before(table: SampleTable) -> None:
    names = table.images.names
    again = np.isin(table.image, np.arange(len(names) // 2, 2 * (len(names) // 2))).sum()
    verdict = judge({"validation": replace(table, images=LooseTiles(names, again=True))})
    assert verdict == Verdict(again, len(table), {SAME_PICTURE: again})
    dropped = tuple(LeftOut(f"{i}.jpg", -1, Reason.REPEATED) for i in range(30))
    verdict = judge({"training": replace(table, left_out=dropped), "validation": table})
    assert verdict == Verdict(30, 2 * len(table) + 30, {SAME_PICTURE: 30})
    assert verdict.beyond_chance


def test_one_wrong_label_is_within_chance(table: SampleTable) -> None:
    height = table.height.copy()
    height[3] *= 100
    verdict = judge({"train": replace(table, height=height)})
    assert verdict.suspicious >= 1
    assert not verdict.beyond_chance


def test_the_tail_is_that_of_the_binomial_distribution() -> None:
    # The exact tail, summed with math.comb: P(at least k of 136 at 1 %) is 0.0026 for k = 6, and 0.0005 for k = 7.
    assert [Verdict(k, 136, {}).beyond_chance for k in (0, 6, 7, 136)] == [False, False, True, True]
