"""Whatever a path, a tile or a label holds, a terminal shows it as text."""

from __future__ import annotations

import ast
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

import dali_pipes.__main__
import train.compare
import train.evaluate
import train.predict
from dali_pipes.console import cell, printable, say
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import write_whole
from tests.conftest import jpeg, via_label
from tests.test_compare import a_run
from train.run.console import RunConsole

HOSTILE = "[x] [/x] [/bold] :skull: \x1b[31m\x9b2J\r\x07\u202e"
SHOWN = r"[x] [/x] [/bold] :skull: \x1b[31m\x9b2J\r\x07\u202e"
ROOT = Path(__file__).parent.parent


def assert_shown(printed: str, times: int = 1) -> None:
    flat = " ".join(printed.split())
    assert flat.count(SHOWN) == times, printed
    assert not [c for c in printed if c not in "\n\xa0" and not c.isprintable()]


def recorded() -> Console:
    return Console(record=True, width=300, color_system="truecolor", force_terminal=True)


def test_a_line_and_a_cell_show_text_as_it_is() -> None:
    console = recorded()
    say(console, f"report: {HOSTILE}")
    RunConsole(console).note(f"note: {HOSTILE}")
    table = Table("")
    table.add_row(cell(HOSTILE))
    console.print(table)
    assert_shown(console.export_text(styles=True).replace("\x1b[1m", "").replace("\x1b[0m", ""), times=3)
    assert printable("12.3\xa0m") == "12.3\xa0m"
    assert printable("abcdef", 4) == "ab…ef"


def test_inspection_shows_hostile_paths(
    write_split: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split({"K3_A_1.jpg": (jpeg(64, 64), via_label("K3_A_1.jpg", [[(10, 20), (40, 60)]]))})
    folder = tmp_path / HOSTILE
    folder.mkdir(parents=True)
    for path in list(tmp_path.glob("*.zip")):
        path.rename(folder / path.name)
    dali_pipes.__main__.main([str(folder), "--html", str(folder / "page.html")])
    printed = capsys.readouterr()
    assert_shown(printed.out, times=3)  # the release, validation that is missing below it, and the page


def test_comparison_shows_hostile_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    run = tmp_path / HOSTILE
    run.parent.mkdir(parents=True)
    a_run(run, [3.0, -4.0])
    train.compare.main([str(run), "--out", str(run / "figure.svg")])
    printed = capsys.readouterr().out
    assert_shown(printed)  # the figure
    assert printed.count(SHOWN.rpartition("/")[2]) == 2, "the run has the last part of its path as its name"


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (dali_pipes.__main__.main, ["{}"]),
        (train.compare.main, ["{}"]),
        (train.evaluate.main, ["--checkpoint", "{}", "--release", "r", "--out", "o", "--device", "cpu"]),
        (train.predict.main, ["--checkpoint", "c", "--images", "i", "--polylines", "p", "--out", "{}/a.csv"]),
    ],
)
def test_an_error_shows_hostile_paths_on_one_line(
    main: Callable[[list[str]], Any], flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([flag.format(tmp_path / HOSTILE) for flag in flags])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert SHOWN in error
    assert not [c for c in error if c != "\n" and not c.isprintable()]


def test_an_error_of_reading_or_writing_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fill(file: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write() raises it, without a name

    (tmp_path / HOSTILE).parent.mkdir(parents=True)
    with pytest.raises(SystemExit), exits_with_one_sentence():
        write_whole(tmp_path / HOSTILE, fill)
    assert capsys.readouterr().err == f"error: cannot read or write {tmp_path}/{SHOWN}: {os.strerror(errno.ENOSPC)}\n"
    with pytest.raises(SystemExit), exits_with_one_sentence():
        raise InputError(f"expected {HOSTILE}")
    assert capsys.readouterr().err == f"error: expected {SHOWN}\n"


def test_commands_print_text_only_in_ways_that_show_it_as_it_is() -> None:
    """rich's print gets tables, and titles of our own; Python's print gets texts that were made printable."""
    wrong = []
    for path in [*(ROOT / "dali_pipes").rglob("*.py"), *(ROOT / "train").rglob("*.py")]:
        if path == ROOT / "dali_pipes/console.py":
            continue
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and call.args:
                function, text = ast.unparse(call.func), ast.unparse(call.args[0])
                is_composed = isinstance(call.args[0], (ast.JoinedStr, ast.BinOp))
                if is_composed and (
                    function.endswith("onsole.print") or (function == "print" and "printable" not in text)
                ):
                    wrong.append(f"{path.relative_to(ROOT)}:{call.lineno}: {function}({text})")
    assert not wrong, "use say or printable of dali_pipes/console.py in\n" + "\n".join(wrong)
