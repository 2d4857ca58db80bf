"""An interrupted run ends as one that was not; what cannot be continued is refused in a sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from bench.render.release import render_release
from dali_pipes.errors import InputError
from dali_pipes.release.paths import ReleasePaths
from model import CheckpointError
from tests.test_training import SMALL, Quiet, learnt
from train.engine.run import run
from train.engine.step import Forward
from train.recipe.config import Config
from train.recipe.data import load_tables
from train.recipe.fingerprint import Fingerprint, changes, fingerprint
from train.run.folder import Due, RunFolder
from train.run.signals import SAME, Signals, Stopped
from train.run.writer import Snapshot, Writer

STEPPED = replace(
    SMALL,
    epochs=2,
    optimizer=replace(SMALL.optimizer, ema=0.9),
    runtime=replace(SMALL.runtime, log_every=1, checkpoint_every="0"),
)


class Signalling(Quiet):
    """Sends this process a signal at a step."""

    def __init__(self, epoch: int, step: int, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.at, self.number = (epoch, step), number

    def moment(self, now: Any) -> None:
        super().moment(now)
        if (now.epoch, now.step) == self.at:
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written after the last epoch is another test's."""
    monkeypatch.setattr("train.engine.run._report", lambda *arguments: None)


@pytest.fixture(scope="module")
def whole(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "whole"
    run(STEPPED, release, folder, resume=False, console=Quiet())
    return folder


def ends_as(whole: Path, folder: Path) -> None:
    """Bit-identical in parameters, their average and all metrics."""
    (state, lines), (expected_state, expected_lines) = learnt(folder), learnt(whole)
    assert lines == expected_lines
    for name, value in expected_state.items():
        assert torch.equal(state[name], value), name
    averages = [torch.load(path / "last.pt", weights_only=True)["average"] for path in (folder, whole)]
    assert all(torch.equal(averages[0][name], value) for name, value in averages[1].items())
    found, best = (torch.load(path / "best.pt", weights_only=True) for path in (folder, whole))
    assert found["rmse"] == best["rmse"] == min(line["rmse"] for line in lines)
    assert all(torch.equal(found["model"][name], value) for name, value in best["model"].items())


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (1, 4), (2, 2)])
def test_a_run_that_is_signalled_between_steps_ends_bit_identical(
    epoch: int, step: int, whole: Path, release: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Stopped, match=r"stopped by SIGTERM; all is saved in .*last\.pt: add --resume"):
        run(STEPPED, release, folder, resume=False, console=Signalling(epoch, step))
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert (saved["epoch"], saved["step"]) == (epoch - 1, step + 1), "it stops at the end of the next step"
    torch.manual_seed(99)
    console = Quiet()
    run(STEPPED, release, folder, resume=True, console=console)
    assert f"resuming {folder} after epoch {epoch - 1} of 2, step {step + 1}" in console.text.getvalue()
    ends_as(whole, folder)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_run_that_is_signalled_while_it_selects_ends_bit_identical(
    batch: int, whole: Path, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, called = Forward.predict, iter(range(1, 100))

    def signalling(self: Forward, *arguments: Any) -> Any:
        if next(called) == batch:
            os.kill(os.getpid(), signal.SIGUSR1)
        return predict(self, *arguments)

    monkeypatch.setattr(Forward, "predict", signalling)
    with pytest.raises(Stopped) as stopped:
        run(STEPPED, release, tmp_path / "run", resume=False, console=Quiet())
    assert stopped.value.status == 75
    saved = torch.load(tmp_path / "run/last.pt", weights_only=True)
    steps = (
        int(next(iter(torch.load(whole / "last.pt", weights_only=True)["optimizer"]["state"].values()))["step"]) // 2
    )
    assert (saved["epoch"], saved["step"]) == ((0, steps) if batch == 1 else (1, 1))
    run(STEPPED, release, tmp_path / "run", resume=True, console=Quiet())
    ends_as(whole, tmp_path / "run")


def test_torchruns_next_start_goes_on_in_the_folder_of_its_job_and_in_no_other(
    whole: Path, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "foreign")
    for attempt in range(2):
        errors = tmp_path / f"torchrun/attempt_{attempt}/0/error.json"
        errors.parent.mkdir(parents=True)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(errors))
        with pytest.raises(InputError, match="foreign already holds a run"):
            run(STEPPED, release, tmp_path / "foreign", resume=False, console=Quiet())
    with pytest.raises(Stopped):
        run(STEPPED, release, tmp_path / "run", resume=False, console=Signalling(2, 4))
    run(STEPPED, release, tmp_path / "run", resume=False, console=Quiet())
    ends_as(whole, tmp_path / "run")


@pytest.mark.parametrize("where", ["_tables", "Training", "_report"])
def test_a_signal_that_comes_where_there_is_nothing_to_save_ends_at_once(
    where: str, whole: Path, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("it went on")

    monkeypatch.setattr(f"train.engine.run.{where}", interrupted)
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(Stopped, match="stopped by SIGUSR1; what was saved is whole: add --resume") as stopped:
        run(STEPPED, release, tmp_path / "run", resume=True, console=Quiet())
    assert stopped.value.status == 75


def test_a_run_killed_after_a_checkpoint_goes_on_from_there(whole: Path, release: Path, tmp_path: Path) -> None:
    class Killed(Quiet):
        def moment(self, now: Any) -> None:
            if (now.epoch, now.step) == (2, 4):
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    often = replace(STEPPED, runtime=replace(STEPPED.runtime, checkpoint_every="2"))
    with pytest.raises(KeyboardInterrupt):
        run(often, release, folder, resume=False, console=Killed())
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert saved["epoch"] == 1  # at which step, the disk decides: nothing is saved while the last is being written
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    run(STEPPED, release, folder, resume=True, console=Quiet())  # how often it saves may change
    ends_as(whole, folder)


def test_an_epochs_end_that_was_kept_can_be_gone_back_to(whole: Path, release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    three = replace(STEPPED, runtime=replace(STEPPED.runtime, keep=3))
    run(three, release, folder, resume=False, console=Quiet())
    assert sorted(path.name for path in folder.glob("epoch-*.pt")) == ["epoch-0001.pt", "epoch-0002.pt"]
    shutil.copy(folder / "epoch-0001.pt", folder / "last.pt")
    (folder / "best.pt").unlink()  # as by a kill after last.pt was written, and before best.pt was
    run(three, release, folder, resume=True, console=Quiet())
    ends_as(whole, folder)
    assert not list(whole.glob("epoch-0001.pt")), "one is kept unless more are asked for"


def test_an_unreadable_last_checkpoint_is_refused_and_the_kept_one_named(
    whole: Path, release: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    data = (folder / "last.pt").read_bytes()
    (folder / "last.pt").unlink()  # a link to the kept one
    (folder / "last.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"copy epoch-0002\.pt to last\.pt to go on from there"):
        run(STEPPED, release, folder, resume=True, console=Quiet())


def after(*errors: float, step: int = 0) -> dict[str, Any]:
    """What a folder asks of a state: of a network of one weight, which is the epochs that are over."""
    history = [{"epoch": epoch, "rmse": rmse} for epoch, rmse in enumerate(errors, 1)]
    own = {"model": {"w": torch.tensor([len(errors)])}, "average": None, "stats": (0.0, 1.0, 0.0, 1.0), "about": {}}
    return {**own, "epoch": len(errors), "step": step, "best_rmse": min(errors), "history": history}


@pytest.fixture
def four(tmp_path: Path) -> RunFolder:
    """A run folder that keeps three epochs' ends, after four with RMSEs of 3, 2, 4 and 1 m."""
    folder = RunFolder(tmp_path, replace(STEPPED, runtime=replace(STEPPED.runtime, keep=3)), resume=True)
    for *before, rmse in ([3.0], [3.0, 2.0], [3.0, 2.0, 4.0], [3.0, 2.0, 4.0, 1.0]):
        folder.save(after(*before, rmse), best=rmse <= min(before, default=rmse))
    return folder


def test_going_back_takes_the_best_epoch_and_the_kept_ones_back_too(four: RunFolder) -> None:
    state = torch.load(four.path / "epoch-0003.pt", weights_only=True)
    assert torch.load(four.best, weights_only=True)["rmse"] == 1.0
    four.mend_best(state)
    best = torch.load(four.best, weights_only=True)
    assert (best["rmse"], best["model"]["w"].item()) == (2.0, 2), "the second epoch's, which was kept"
    four.save(after(3.0, 2.0, 9.0))
    assert sorted(path.name for path in four.path.glob("epoch-*")) == ["epoch-0002.pt", "epoch-0003.pt"]
    (four.path / "epoch-0002.pt").unlink()
    four.mend_best(after(3.0, 2.0, 9.0, step=1))
    four.save(after(0.5), best=True)
    with pytest.raises(InputError, match=r"expected .*best\.pt of epoch 2, .* found none, nor epoch-0002\.pt"):
        four.mend_best(state)


def test_what_is_damaged_with_last_pt_is_not_offered_in_its_place(four: RunFolder) -> None:
    os.truncate(four.last, 100)
    with pytest.raises(CheckpointError, match=r"copy epoch-0003\.pt to last\.pt to go on from there"):
        four.load_last()


def test_epochs_are_kept_where_the_file_system_has_no_links(four: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *paths: os.stat("/no links here"))
    four.save(after(3.0, 2.0, 4.0, 1.0, 8.0))
    assert (four.path / "epoch-0005.pt").read_bytes() == four.last.read_bytes()
    assert not (four.path / "epoch-0005.pt").samefile(four.last)


@pytest.mark.parametrize("part", ["optimizer", "schedule", "random", "step", "average"])
def test_a_foreign_last_checkpoint_is_refused_in_a_sentence(
    part: str, whole: Path, release: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    state = torch.load(folder / "last.pt", weights_only=True)
    state[part] = {"param_groups": [], "state": {}} if part == "optimizer" else [torch.zeros(3)]
    (folder / "last.pt").unlink()
    torch.save(state, folder / "last.pt")
    with pytest.raises((InputError, CheckpointError)) as refused:
        run(STEPPED, release, folder, resume=True, console=Quiet())
    assert "last.pt" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_release_of_other_pictures_heights_or_tiles_is_refused_with_the_difference(
    whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    render_release(tmp_path / "other", train=96, val=40, scenes=8, seed=6)
    with pytest.raises(InputError, match=r"other samples \(training: .*other tiles, pictures.*the release has changed"):
        run(STEPPED, tmp_path / "other", folder, resume=True, console=Quiet())


def test_a_release_that_was_unpacked_is_the_same_and_one_with_a_longer_picture_is_not(
    release: Path, tmp_path: Path
) -> None:
    unpacked = tmp_path / "unpacked"
    for archive in release.glob("*.zip"):
        shutil.unpack_archive(archive, unpacked / archive.stem)
    packed, loose = _fingerprint(release), _fingerprint(unpacked)
    assert changes(packed, loose) == changes(loose, packed) == []
    picture = next((unpacked / "TS_KS").rglob("*.jpg"))
    picture.write_bytes(picture.read_bytes()[:2] + b"\xff\xfe\x00\x03!" + picture.read_bytes()[2:])  # a comment
    (change,) = changes(loose, _fingerprint(unpacked))
    assert change.endswith(": other sizes")


def _fingerprint(release: Path) -> Fingerprint:
    return fingerprint(load_tables(ReleasePaths(release), STEPPED.division(), console=Console(quiet=True)))


def test_init_from_takes_the_weights_alone(whole: Path, release: Path, tmp_path: Path) -> None:
    frozen = replace(
        STEPPED, epochs=1, init_from=str(whole / "best.pt"), optimizer=replace(STEPPED.optimizer, learning_rate=0.0)
    )
    run(frozen, release, tmp_path / "run", resume=False, console=Quiet())
    best, state = torch.load(whole / "best.pt", weights_only=True)["model"], learnt(tmp_path / "run")[0]
    assert all(torch.equal(state[name], value) for name, value in best.items())
    larger = replace(frozen, backbone="convnext_femto")
    with pytest.raises(CheckpointError, match=r"best\.pt: expected .* of shape|best\.pt has no parameter"):
        run(larger, release, tmp_path / "larger", resume=False, console=Quiet())


# --- Signals, the writer, and when it is time.


def test_a_second_signal_ends_at_once_but_an_echo_of_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append(number))
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    before = signal.getsignal(signal.SIGUSR1)
    with Signals() as signals:
        with pytest.raises(Stopped, match="stopped by SIGUSR1; what was saved is whole: add --resume"):
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert (signals.received, ended) == (signal.SIGUSR1, [])
        now += SAME + 1
        signal.raise_signal(signal.SIGTERM)
        assert ended == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR1) == before


ORPHANED = """
import os, signal, time
from train.run.signals import Signals, Stopped, end_with_parent

ready, tell = os.pipe()
if os.fork():
    os.read(ready, 1)
    os.kill(os.getpid(), signal.SIGKILL)
try:
    with Signals():
        end_with_parent()
        os.write(tell, b".")
        time.sleep(20)
        print("nobody told it", flush=True)
except Stopped as stopped:
    print(stopped, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_who_is_left_behind_by_the_process_that_started_it_ends_in_order() -> None:
    result = subprocess.run(
        [sys.executable, "-c", ORPHANED], cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "stopped by SIGUSR1; what was saved is whole: add --resume to go on\n", result.stderr


def test_the_writer_runs_one_job_at_a_time_and_one_more_may_wait_without_a_delay() -> None:
    gate, done = threading.Event(), list[int]()

    def job(number: int) -> None:
        gate.wait(60)
        done.append(number)

    with Writer() as writer:
        writer.start(lambda: job(1))
        writer.start(lambda: job(2))
        assert writer.busy
        assert done == [], "neither start waited"
        threading.Timer(0.05, gate.set).start()
        writer.start(lambda: job(3))
        assert done[0] == 1, "a third one waits: nothing is left out"
        writer.wait()
        assert (writer.busy, done) == (False, [1, 2, 3])


def test_what_goes_wrong_in_the_writer_is_told_and_the_jobs_after_it_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    later = list[int]()

    def write(then: Callable[[Writer], object]) -> None:
        gate = threading.Event()

        def fail() -> None:
            gate.wait(60)
            raise InputError("the disk is full")

        with Writer() as writer:
            writer.start(fail)
            writer.start(lambda: later.append(1))
            gate.set()
            then(writer)

    for then in (Writer.wait, lambda writer: None):
        with pytest.raises(InputError, match="the disk is full"):
            write(then)
    assert (later, capsys.readouterr().err) == ([], "")
    with pytest.raises(ZeroDivisionError):
        write(lambda writer: 1 / 0)
    assert capsys.readouterr().err == "error: the disk is full\n", "beside the other error, which leaves"


def test_a_snapshot_does_not_follow_what_it_was_taken_of() -> None:
    weights, history = torch.ones(3), [{"epoch": 1}]
    snapshot = Snapshot()
    first = snapshot.of({"model": {"w": weights}, "history": history, "pair": (1, weights)})
    weights += 1
    history.append({"epoch": 2})
    assert first["model"]["w"].tolist() == [1, 1, 1]
    assert first["pair"][1].tolist() == [1, 1, 1]
    assert first["history"] == [{"epoch": 1}]
    again = snapshot.of({"model": {"w": weights}})
    assert again["model"]["w"].data_ptr() == first["model"]["w"].data_ptr(), "the memory is used again"


@pytest.mark.parametrize(
    ("every", "expected"), [("3", [3, 6, 9]), ("2", [2, 4, 6, 8]), ("1", [2, 3, 4, 5, 6, 7, 8, 9]), ("0", [])]
)
def test_it_is_time_to_save_every_so_many_steps(every: str, expected: list[int]) -> None:
    due, saved, asked = Due(every), [], False
    for step in range(1, 10):
        due.after_step()
        if asked:  # what was asked at the last step is done at this one
            saved.append(step)
            due.saved()
        asked = due.next
    assert saved == expected


@pytest.mark.parametrize("every", ["", "m", "10s", "-1", "1e3", "nan"])
def test_another_interval_is_refused(every: str) -> None:
    with pytest.raises(InputError, match="--checkpoint-every takes steps like 500 or minutes like 10m"):
        replace(Config(), runtime=replace(Config().runtime, checkpoint_every=every))


def test_a_file_that_cannot_be_written_is_a_sentence_and_leaves_the_last_one_whole(
    release: Path, tmp_path: Path, full_disk: Callable[[Path], None]
) -> None:
    folder = tmp_path / "run"

    class Filling(Quiet):
        def moment(self, now: Any) -> None:
            while now.epoch == 2 and not (folder / "metrics.jsonl").exists():
                time.sleep(0.01)
            if now.epoch == 2:
                full_disk(folder)

    with pytest.raises(InputError, match=r"pt cannot be written: No space left on device; what was saved before is"):
        run(STEPPED, release, folder, resume=False, console=Filling())
    assert torch.load(folder / "best.pt", weights_only=True)["model"]
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["epoch"] == 1
    assert np.isfinite(torch.load(folder / "last.pt", weights_only=True)["best_rmse"])


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """From then on, whole files below a folder are written to /dev/full, which is."""
    open_whole = Path.open

    def fill(folder: Path) -> None:
        def limited(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if folder in path.parents and mode == "wb":
                return open_whole(Path("/dev/full"), mode, *arguments, **options)
            return open_whole(path, mode, *arguments, **options)

        monkeypatch.setattr("dali_pipes.files.Path.open", limited)

    return fill
