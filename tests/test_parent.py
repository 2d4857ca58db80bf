"""A rank never outlives torchrun, a closed terminal saves, and a closed output ends no training."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dali_pipes.errors import exits_with_one_sentence
from train.run.output import output_may_close
from train.run.signals import Signals, Stopped

ROOT = Path(__file__).parent.parent

TORCHRUN = """
import subprocess, sys, time
rank = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, start_new_session=True)
print(rank.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""
"""A parent that starts a rank and ends, as a killed torchrun does."""


def orphan(seconds: float, *command: str) -> int:
    """A rank whose parent ends after some `seconds`."""
    rank = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9", "TORCHELASTIC_RUN_ID": "a"}
    parent = [sys.executable, "-c", TORCHRUN, str(seconds), sys.executable, *command]
    known = {**os.environ, **rank, "PYTHONPATH": str(ROOT)}
    return int(subprocess.run(parent, env=known, stdout=subprocess.PIPE, text=True, check=True).stdout)


def ends(process: int, seconds: float = 60) -> bool:
    """Whether a process ends within some `seconds`; otherwise it is killed."""
    for _ in range(int(100 * seconds)):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_rank_ends_if_torchrun_is_killed_while_it_imports(seconds: float, release: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert ends(orphan(seconds, "-m", "train", "--release", str(release), "--out", str(out), "--preset", "demo"), 20)
    assert not (out / "config.json").exists()


STUCK = """
import signal, sys, time
from train.run import parent
signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # as while the main thread waits in C++
parent.POLL, parent.GRACE = 0.01, 0.1
parent.end_with_torchrun()
time.sleep(60)
"""

WITHOUT_PRCTL = """
import time
from train.run import parent
parent._ask_kernel = lambda: False
parent.POLL = 0.01
parent.end_with_torchrun()
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("script", [STUCK, WITHOUT_PRCTL])
def test_a_rank_ends_that_cannot_handle_the_signal_or_gets_none_from_the_kernel(script: str) -> None:
    assert ends(orphan(1.0, "-c", script), 20)


def test_a_terminal_that_closes_saves_like_sigterm_but_nohup_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    with Signals(), pytest.raises(Stopped, match="stopped by SIGHUP; the last checkpoint is intact") as stopped:
        signal.raise_signal(signal.SIGHUP)
    assert stopped.value.status == 129
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert not signals.received
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def closed_pipe(monkeypatch: pytest.MonkeyPatch) -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    stream = io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_printing_to_a_closed_pipe_is_no_error_in_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    stream = closed_pipe(monkeypatch)
    with output_may_close():
        for _ in range(3):
            print("a line")
            Console().print("another")
    stream.close()


def test_a_process_without_stdout_can_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with output_may_close():
        print("a line", flush=True)


def test_a_command_whose_output_is_closed_ends_quietly_like_a_unix_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = closed_pipe(monkeypatch)
    with pytest.raises(SystemExit) as status, exits_with_one_sentence():
        print("a line")
    stream.close()
    assert status.value.code == 141
    assert capsys.readouterr().err == ""
    unbuffered = [sys.executable, "-m", "train.cli", "--help"]
    with subprocess.Popen(unbuffered, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout
        assert command.stderr
        command.stdout.close()
        assert command.stderr.read() == ""
