"""A run folder has one writer: a second is refused while the first is alive, and goes on at once after it is dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import train.run.lease
from dali_pipes.errors import InputError
from train.recipe.presets import PRESETS
from train.run.folder import RunFolder
from train.run.lease import Owner, check_still_ours, lease

HOLD = """
import sys, time
from pathlib import Path
from train.run.lease import lease
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def another_run(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.run.lease, "BEAT", 0.05)
    monkeypatch.setattr(train.run.lease, "STALE", 0.5)


def elsewhere(folder: Path, beat: str = "000000000001") -> Path:
    """The lease of a process on another node."""
    owner = Owner("gpu07", 4242, "another boot", "1", "2026-11-25 10:00", "token")
    path = folder / ".lease-1"
    path.write_text(f"{json.dumps(owner._asdict())}\n{beat}\n")
    return path


def test_a_second_run_is_refused_by_host_and_process_and_goes_on_at_once_after_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with another_run(folder) as first:
        with pytest.raises(InputError, match=rf"run is in use by process {first.pid} on \S+, since 20.*; wait until"):
            lease(folder).__enter__()
        first.send_signal(signal.SIGSTOP)  # it may go on later, so it is not replaced, however long that takes
        time.sleep(2 * train.run.lease.STALE)
        with pytest.raises(InputError, match=f"process {first.pid}"):
            lease(folder).__enter__()
        first.kill()
        while Path(f"/proc/{first.pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.001)
        (folder / ".last.pt.unfinished-0123456789abcdef.pt").touch()
        before = time.monotonic()
        with lease(folder):  # although its parent has not reaped it
            assert time.monotonic() - before < train.run.lease.STALE
            assert [path.name for path in folder.iterdir()] == [".lease-2"]
    assert not list(folder.iterdir())


def test_the_number_of_an_ended_process_that_another_process_has_now_is_no_owner(tmp_path: Path) -> None:
    gone = Owner.here()._replace(started="1", token="token")
    (tmp_path / ".lease-3").write_text(f"{json.dumps(gone._asdict())}\n0\n")
    with lease(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lease-4"]
    assert not list(tmp_path.iterdir())


def test_an_owner_on_another_node_is_alive_while_its_counter_changes_whatever_the_clocks_say(tmp_path: Path) -> None:
    path = elsewhere(tmp_path)
    os.utime(path, (0, 0))
    beating = threading.Timer(0.1, elsewhere, (tmp_path, "000000000002"))
    beating.start()
    with pytest.raises(InputError, match="is in use by process 4242 on gpu07, since 2026-11-25 10:00"):
        lease(tmp_path).__enter__()
    beating.join()
    assert path.exists()


@pytest.mark.parametrize("clock", [0, 4e9])
def test_a_requeued_job_replaces_a_dead_owner_on_another_node(
    clock: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.utime(elsewhere(tmp_path), (clock, clock))
    with lease(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lease-2"]
    assert "was in use by process 4242 on gpu07; waiting up to 0 s" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [b"", b"{", b"[1]\n", b'{"pid": 1}\n', bytes(range(256))])
def test_a_lease_that_names_nobody_is_replaced_like_that_of_another_node(lines: bytes, tmp_path: Path) -> None:
    (tmp_path / ".lease-1").write_bytes(lines)
    with lease(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lease-2"]


def test_of_several_that_find_a_dead_owner_one_goes_on(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    inside, done = [], threading.Barrier(4)

    def start(_: int) -> str:
        try:
            with lease(tmp_path):
                inside.append(1)
                done.wait(60)
        except InputError as error:
            done.wait(60)
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as processes:
        refused = [sentence for sentence in processes.map(start, range(4)) if sentence]
    assert len(inside) == 1
    assert all(f"process {os.getpid()}" in sentence for sentence in refused)
    assert not list(tmp_path.iterdir())


def test_the_heartbeat_changes_the_file_and_ends_with_the_run(tmp_path: Path) -> None:
    with lease(tmp_path):
        (path,) = tmp_path.iterdir()
        seen = set()
        for _ in range(20):
            seen.add(path.read_bytes())
            time.sleep(0.02)
        assert len(seen) > 3
        assert len({len(lines) for lines in seen}) == 1, "it would need more of a full disk"
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_an_owner_that_was_replaced_while_it_was_suspended_ends_without_writing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, replace(PRESETS["demo"](), epochs=1), resume=False)
    with lease(tmp_path):
        (tmp_path / ".lease-1").unlink()
        other = elsewhere(tmp_path).rename(tmp_path / ".lease-2")
        with pytest.raises(InputError, match="was taken over by process 4242 on gpu07, because"):
            folder.save({"best": None})
        assert not (tmp_path / "last.pt").exists()
    assert other.exists()
    other.unlink()
    check_still_ours(tmp_path)


def test_a_refused_run_leaves_no_folder_and_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="refused"), lease(tmp_path / "runs" / "one"):
        raise InputError("refused")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--out takes a folder, found a file"):
        lease(tmp_path / "file").__enter__()
