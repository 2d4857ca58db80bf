"""Progress on real pseudo-terminals: bars on a terminal, few lines in a notebook, whole figures at 80 columns."""

from __future__ import annotations

import io
import re
import shlex
import time
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

import dali_pipes.console
import train.predict
from dali_pipes.console import Activity, activity, draws_bars, open_console, say
from tests.terminal import on_terminal

TERMINAL = {"TERM": "xterm-256color", "HOME": "/home/user"}
KERNEL = {"TERM": "xterm-color", "CLICOLOR": "1", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "GIT_PAGER": "cat"}
"""What ipykernel sets for itself, and `!command` inherits; from its zmqshell.py."""

RUN = """
import sys, time
import dali_pipes.console
from dali_pipes.console import open_console
from train.run.console import RunConsole, StepStatus

dali_pipes.console.QUIET_FOR = 0.3
console = RunConsole(open_console(sys.argv[1]))
with console:
    console.stage("loading PyTorch and DALI")
    time.sleep(0.4)
    console.header({"run": "runs/" + "one" * 30, "network": "convnext_atto"})
    for epoch in (1, 2):
        console.stage(f"epoch {epoch}/12", 1875)
        console.log_step(StepStatus(epoch, 40, -1234.5678, 12345, 0.999, 4321))
        for step in range(1000, 1876, 5):
            console.advance(step)
            time.sleep(0.004)
        figures = {"rmse": 123.45 - epoch, "mae": 100.0, "nll": -12.345, "learning_rate": 1e-4, "samples_per_s": 12345}
        console.log_epoch({"epoch": epoch, "train_loss": -123.4567, "measured_on": "development", "data_wait": 1.0,
                           "seconds": 36000, **figures})
    console.stage("writing the report")
    time.sleep(0.4)
"""


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_a_bar_with_whole_figures(columns: int) -> None:
    shown = on_terminal(["-c", RUN, "auto"], columns)
    assert shown.status == 0
    assert max(len(line) for screen in shown.screens for line in screen) <= columns
    bars = [line for screen in shown.screens for line in screen if line[2:].startswith("epoch 1/12 ━")]
    assert bars
    assert len({re.findall(r"([\d,]+) of 1,875", line)[0] for line in bars}) > 2, "the bar moves"
    assert all(re.fullmatch(r". epoch 1/12 [━╸╺ ]+ 1,\d\d\d of 1,875  1 h 12 min left", line) for line in bars)
    assert any(
        "loss -1234.5678, 12345 samples/s, 99.9% waiting for data, best RMSE 122.45 m" in line
        for screen in shown.screens
        for line in screen
    )
    rows = [line.split() for line in shown.final[-3:]]
    assert rows[0] == ["epoch", "loss", "RMSE", "MAE", "NLL", "rate", "samples/s", "wait", "time"]
    for row, epoch, rmse in zip(rows[1:], "12", ("122.45", "121.45"), strict=True):
        assert row == f"{epoch} -123.4567 {rmse} m * 100.00 m -12.345 1.0e-04 12345 100.0% 10:00:00".split()
    assert "writing" not in "\n".join(shown.final), "the bar is gone at the end"
    assert "\n".join(shown.final).replace("\n", "").replace(" ", "").count("one" * 30) == 1, "nothing is cut"
    assert not shown.cursor_hidden
    changes = [b - a for a, b in pairwise(shown.seconds[1:])]
    assert changes
    assert sum(changes) / len(changes) < 1


@pytest.mark.parametrize(
    "environment",
    [KERNEL, {"TERM": "dumb"}],
)
def test_a_notebook_a_dumb_terminal_and_ci_show_a_line_for_each_epoch(environment: dict[str, str]) -> None:
    shown = on_terminal(["-c", RUN, "auto"], 200, environment)
    lines = shown.final
    assert shown.status == 0
    assert sum("done in 10:00:00" in line for line in lines) == 2
    assert any(line.startswith("loading PyTorch and DALI: ") for line in lines)
    assert shown.raw.count(b"\n") == len(lines) <= 14
    assert not re.search(rb"\x1b\[\d*[A-HJKlh]|\r[^\r\n]", shown.raw), "no line is drawn again"


def test_bar_and_plain_overrule_what_was_found() -> None:
    drawn = on_terminal(["-c", RUN, "bar"], 80, {"JPY_PARENT_PID": "7"})
    assert any("━" in line for screen in drawn.screens for line in screen)
    plain = on_terminal(["-c", RUN, "plain"], 80)
    assert not any("━" in line for screen in plain.screens for line in screen)


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        (TERMINAL, True, True),
        (TERMINAL, False, False),
        ({"FORCE_COLOR": "1", **TERMINAL}, False, False),
        ({**TERMINAL, "TERM": "xterm-color"}, True, True),
        ({**TERMINAL, **KERNEL}, True, False),
        ({**TERMINAL, "JPY_PARENT_PID": "812"}, True, False),
        ({**TERMINAL, "COLAB_GPU": ""}, True, False),
        ({**TERMINAL, "KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, True, False),
        ({**TERMINAL, "TERM": "dumb"}, True, False),
        ({"HOME": "/home/user"}, True, False),
        ({**TERMINAL, "CI": "true"}, True, False),
        ({**TERMINAL, "CI": "false"}, True, True),
    ],
)
def test_bars_are_drawn_where_a_line_can_be_drawn_again(
    environment: dict[str, str], is_terminal: bool, expected: bool
) -> None:
    assert draws_bars(environment, is_terminal=is_terminal) == expected


def test_ctrl_c_ends_a_bar_and_leaves_the_cursor() -> None:
    program = """
import time
from dali_pipes.console import activity, open_console
from dali_pipes.errors import exits_with_one_sentence

with exits_with_one_sentence(), activity(open_console(), "waiting", 10) as shown:
    shown.done = 4
    time.sleep(60)
"""
    shown = on_terminal(["-c", program], interrupt_at="4 of 10")
    assert shown.status == 130
    assert not shown.cursor_hidden
    assert [line for line in shown.final if "interrupted" in line]
    assert not any("Traceback" in line or "━" in line for line in shown.final)
    assert b"\x1b[?25l" not in shown.raw or shown.raw.rindex(b"\x1b[?25h") > shown.raw.rindex(b"\x1b[?25l")


def test_a_killed_process_leaves_the_cursor() -> None:
    program = """
import os, signal, time
from dali_pipes.console import activity, open_console

with activity(open_console(), "waiting", 10) as shown:
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    shown = on_terminal(["-c", program])
    assert shown.status == -9
    assert not shown.cursor_hidden


def test_an_inner_activity_hides_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_pipes.console, "QUIET_FOR", 0.05)
    say(Console(file=io.StringIO()), "the last line")
    text = io.StringIO()
    console = Console(file=text)
    with activity(console, "outer"):
        with activity(console, "inner", 4) as shown:
            shown.done = 2
            time.sleep(0.12)
        inner = text.getvalue()
        time.sleep(0.12)
    assert "inner: 2 of 4, " in inner
    assert "outer" not in inner
    assert "outer: " in text.getvalue()
    assert not Activity._open


def test_lines_come_only_after_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_pipes.console, "QUIET_FOR", 0.3)
    text = io.StringIO()
    console = Console(file=text)
    with activity(console, "working", 9):
        for _ in range(6):
            say(console, "news")
            time.sleep(0.1)
    assert "working" not in text.getvalue()


def test_a_quiet_console_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with activity(open_console(quiet=True), "working", 2) as shown:
        assert list(shown.track("ab")) == ["a", "b"]
    assert shown.done == 2
    assert capsys.readouterr() == ("", "")


def test_a_small_training_shows_every_stage_and_its_last_commands_run(release: Path, tmp_path: Path) -> None:
    run = tmp_path / "the run"  # a path that a shell would split
    flags = ["--preset", "demo", "--epochs", "1", "--data.size", "32", "--device", "cpu", "--cache", "none"]
    shown = on_terminal(["-m", "train", "--release", str(release), "--out", str(run), *flags], 120)
    assert shown.status == 0, shown.final
    seen = "\n".join(line for screen in shown.screens for line in screen)
    for stage in (
        "loading PyTorch and DALI",
        "building convnext_atto",
        "epoch 1/1 ━",
        "epoch 1/1, development",
        "evaluating the best epoch",
        "writing the report",
    ):
        assert stage in seen, stage
    text = "\n".join(shown.final)
    for fact in (
        "device       cpu, ",
        "preset       demo, with epochs 1, size 32",
        "steps an epoch, 1 epoch",
        "convnext_atto, 3.5 million parameters, random weights",
        "cache        none: as asked",
    ):
        assert fact in text, fact
    printed = shown.raw.decode().replace("\r", "")  # unlike the screen, it wraps no command
    predict = shlex.split(re.findall(r"\S+ -m train\.predict .*", printed)[0])
    assert Path(predict[predict.index("--checkpoint") + 1]) == run / "best.pt"
    train.predict.main([*predict[3:], "--device", "cpu"])
    assert (run / "heights.csv").exists()


def test_a_short_work_after_a_long_pause_prints_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    console = Console(file=text)
    monkeypatch.setattr(dali_pipes.console._Lines, "last", time.monotonic() - 10 * dali_pipes.console.QUIET_FOR)
    with activity(console, "reading"):
        time.sleep(0.05)
    assert text.getvalue() == ""
