"""A resumed run ends like an uninterrupted one; a run that cannot be resumed is refused in one sentence."""

from __future__ import annotations

import faulthandler
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
from train.__main__ import run
from train.engine.run import train
from train.engine.step import Forward
from train.recipe.config import Config
from train.recipe.data import load_datasets
from train.recipe.fingerprint import Fingerprint, changes, fingerprint
from train.run.folder import CheckpointTimer, RunFolder, best_of, save_checkpoint
from train.run.signals import ECHO, Signals, Stopped
from train.run.writer import CheckpointWriter, Snapshot

STEPPED = replace(
    SMALL,
    epochs=2,
    optimizer=replace(SMALL.optimizer, ema=0.9),
    runtime=replace(SMALL.runtime, log_every=1, checkpoint_every="0"),
)


class Signalling(Quiet):
    """A console that sends this process a signal at a step."""

    def __init__(self, epoch: int, step: int, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.at, self.number = (epoch, step), number

    def log_step(self, now: Any) -> None:
        super().log_step(now)
        if (now.epoch, now.step) == self.at:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def whole(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "whole"
    train(STEPPED, release, folder, resume=False, console=Quiet())
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


@pytest.mark.parametrize(
    ("epoch", "step", "number"), [(1, 1, signal.SIGTERM), (1, 4, signal.SIGHUP), (2, 2, signal.SIGINT)]
)
def test_a_run_stopped_between_steps_ends_bit_identical(
    epoch: int, step: int, number: signal.Signals, whole: Path, release: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    sentence = rf"stopped by {number.name}; the state is saved in .*last\.pt: --resume .*run continues"
    with pytest.raises(Stopped, match=sentence):
        train(STEPPED, release, folder, resume=False, console=Signalling(epoch, step, number))
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert (saved["epoch"], saved["step"]) == (epoch - 1, step + 1), "it stops at the end of the next step"
    torch.manual_seed(99)
    console = Quiet()
    train(STEPPED, release, folder, resume=True, console=console)
    assert f"resuming {folder} after epoch {epoch - 1} of 2, step {step + 1}" in console.text.getvalue()
    ends_as(whole, folder)


def test_a_run_in_batches_of_scenes_with_their_loss_also_ends_bit_identical(release: Path, tmp_path: Path) -> None:
    grouped = replace(
        STEPPED,
        data=replace(STEPPED.data, view="aligned", crop=90, scene_group=2, vflip=0.0, rot90=0.0),
        optimizer=replace(STEPPED.optimizer, scene_loss=0.5),
    )
    train(grouped, release, tmp_path / "whole", resume=False, console=Quiet())
    with pytest.raises(Stopped):
        train(grouped, release, tmp_path / "run", resume=False, console=Signalling(1, 3))
    torch.manual_seed(99)
    train(grouped, release, tmp_path / "run", resume=True, console=Quiet())
    ends_as(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("batch", [1, 3])
def test_a_run_stopped_while_it_evaluates_an_epoch_ends_bit_identical(
    batch: int, whole: Path, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, called = Forward.predict, iter(range(1, 100))

    def signalling(self: Forward, *arguments: Any) -> Any:
        if next(called) == batch:
            os.kill(os.getpid(), signal.SIGUSR1)
        return predict(self, *arguments)

    monkeypatch.setattr(Forward, "predict", signalling)
    with pytest.raises(Stopped) as stopped:
        train(STEPPED, release, tmp_path / "run", resume=False, console=Quiet())
    assert stopped.value.status == 75
    saved = torch.load(tmp_path / "run/last.pt", weights_only=True)
    steps = (
        int(next(iter(torch.load(whole / "last.pt", weights_only=True)["optimizer"]["state"].values()))["step"]) // 2
    )
    assert (saved["epoch"], saved["step"]) == ((0, steps) if batch == 1 else (1, 1))
    train(STEPPED, release, tmp_path / "run", resume=True, console=Quiet())
    ends_as(whole, tmp_path / "run")


def test_a_restart_by_torchrun_resumes_the_folder_of_its_own_job_only(
    whole: Path, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "foreign")
    for attempt in range(2):
        errors = tmp_path / f"torchrun/attempt_{attempt}/0/error.json"
        errors.parent.mkdir(parents=True)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(errors))
        with pytest.raises(InputError, match="foreign already holds a run"):
            train(STEPPED, release, tmp_path / "foreign", resume=False, console=Quiet())
    with pytest.raises(Stopped):
        train(STEPPED, release, tmp_path / "run", resume=False, console=Signalling(2, 4))
    train(STEPPED, release, tmp_path / "run", resume=False, console=Quiet())
    ends_as(whole, tmp_path / "run")


@pytest.mark.parametrize("where", ["engine.run._load_datasets", "engine.run.Training", "evaluate.report"])
def test_a_signal_ends_a_run_at_once_when_there_is_nothing_to_save(
    where: str, whole: Path, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("the run continued")

    monkeypatch.setattr(f"train.{where}", interrupted)
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(Stopped, match="stopped by SIGUSR1; the last checkpoint is intact: add --resume") as stopped:
        run(STEPPED, release, tmp_path / "run", resume=True, console=Quiet())
    assert stopped.value.status == 75


def test_a_killed_run_resumes_from_its_last_checkpoint(whole: Path, release: Path, tmp_path: Path) -> None:
    class Killed(Quiet):
        def log_step(self, now: Any) -> None:
            if (now.epoch, now.step) == (2, 4):
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    often = replace(STEPPED, runtime=replace(STEPPED.runtime, checkpoint_every="2"))
    with pytest.raises(KeyboardInterrupt):
        train(often, release, folder, resume=False, console=Killed())
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert saved["epoch"] == 1  # the step depends on the disk: a save is skipped during a write
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    train(STEPPED, release, folder, resume=True, console=Quiet())  # --checkpoint-every may change
    ends_as(whole, folder)


@pytest.mark.usefixtures("saves_each_epoch")
def test_a_run_can_go_back_to_a_kept_epoch(whole: Path, release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    three = replace(STEPPED, runtime=replace(STEPPED.runtime, keep=3))
    train(three, release, folder, resume=False, console=Quiet())
    assert sorted(path.name for path in folder.glob("epoch-*.pt")) == ["epoch-0001.pt", "epoch-0002.pt"]
    shutil.copy(folder / "epoch-0001.pt", folder / "last.pt")
    (folder / "best.pt").unlink()  # as if killed between the writes of last.pt and best.pt
    train(three, release, folder, resume=True, console=Quiet())
    ends_as(whole, folder)
    assert not list(whole.glob("epoch-0001.pt")), "one epoch is kept by default"


class Broken(Quiet):
    """A console that raises an exception at a step of the second epoch."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def log_step(self, now: Any) -> None:
        super().log_step(now)
        if (now.epoch, now.step) == (2, 2):
            raise self.error


def test_an_error_loses_only_its_epoch_and_a_kill_what_was_not_yet_saved(
    whole: Path, release: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(STEPPED, release, tmp_path / "killed", resume=False, console=Broken(KeyboardInterrupt()))
    assert not list((tmp_path / "killed").glob("*.pt")), "the first epoch ended within a minute of the start"
    with pytest.raises(ZeroDivisionError):
        train(STEPPED, release, tmp_path / "failed", resume=False, console=Broken(ZeroDivisionError()))
    saved = torch.load(tmp_path / "failed/last.pt", weights_only=True)
    assert (saved["epoch"], saved["step"]) == (1, 0)
    train(STEPPED, release, tmp_path / "failed", resume=True, console=Quiet())
    ends_as(whole, tmp_path / "failed")


def test_last_pt_has_the_best_weights_of_an_epoch_that_was_not_saved(
    whole: Path, release: Path, tmp_path: Path
) -> None:
    folder, console = tmp_path / "run", Signalling(2, 2)
    with pytest.raises(Stopped):
        train(STEPPED, release, folder, resume=False, console=console)
    written, stored = ((folder / name) for name in ("best.pt", "last.pt"))
    best, last = (torch.load(path, weights_only=True) for path in (written, stored))
    assert best["rmse"] == last["history"][0]["rmse"] == learnt(whole)[1][0]["rmse"]
    assert not all(torch.equal(last["average"][name], value) for name, value in best["model"].items())
    written.unlink()  # as if killed between the two writes
    after_epoch = replace(STEPPED, runtime=replace(STEPPED.runtime, time_limit="0.001s"))
    with pytest.raises(Stopped):
        train(after_epoch, release, folder, resume=True, console=Quiet())
    again = torch.load(written, weights_only=True)
    assert all(torch.equal(again["model"][name], value) for name, value in best["model"].items())
    train(STEPPED, release, folder, resume=True, console=Quiet())
    ends_as(whole, folder)


def test_a_damaged_last_pt_is_refused_and_the_kept_epoch_is_named(whole: Path, release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    data = (folder / "last.pt").read_bytes()
    (folder / "last.pt").unlink()  # it is a hard link to the kept one
    (folder / "last.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"copy epoch-0002\.pt to last\.pt to resume from it"):
        train(STEPPED, release, folder, resume=True, console=Quiet())


def after(*errors: float, step: int = 0) -> dict[str, Any]:
    """The state of a network with one weight, the number of completed epochs."""
    history = [{"epoch": epoch, "rmse": rmse} for epoch, rmse in enumerate(errors, 1)]
    own = {"model": {"w": torch.tensor([len(errors)])}, "average": None, "stats": (0.0, 1.0, 0.0, 1.0), "about": {}}
    state = {**own, "epoch": len(errors), "step": step, "best_rmse": min(errors), "history": history}
    return {**state, "best": best_of(state) if step == 0 and errors[-1] == min(errors) else None}


@pytest.fixture
def four(tmp_path: Path) -> RunFolder:
    """A run folder that keeps three epochs, after four epochs with RMSEs of 3, 2, 4 and 1 m."""
    folder = RunFolder(tmp_path, replace(STEPPED, runtime=replace(STEPPED.runtime, keep=3)), resume=True)
    for *before, rmse in ([3.0], [3.0, 2.0], [3.0, 2.0, 4.0], [3.0, 2.0, 4.0, 1.0]):
        folder.save(after(*before, rmse))
    return folder


def test_going_back_also_restores_best_pt_and_removes_later_epochs(four: RunFolder) -> None:
    state = torch.load(four.path / "epoch-0003.pt", weights_only=True)
    assert torch.load(four.best, weights_only=True)["rmse"] == 1.0
    four.repair_best(state)
    best = torch.load(four.best, weights_only=True)
    assert (best["rmse"], best["model"]["w"].item()) == (2.0, 2), "of the second epoch, which was kept"
    four.save(after(3.0, 2.0, 9.0))
    assert sorted(path.name for path in four.path.glob("epoch-*")) == ["epoch-0002.pt", "epoch-0003.pt"]
    (four.path / "epoch-0002.pt").unlink()
    four.repair_best(after(3.0, 2.0, 9.0, step=1))
    four.save(after(0.5))
    with pytest.raises(InputError, match=r"expected .*best\.pt from epoch 2, .* found neither it nor epoch-0002\.pt"):
        four.repair_best(state)


def test_a_kept_epoch_that_is_linked_to_a_damaged_last_pt_is_not_suggested(four: RunFolder) -> None:
    os.truncate(four.last, 100)
    with pytest.raises(CheckpointError, match=r"copy epoch-0003\.pt to last\.pt to resume from it"):
        four.load_last()


def test_the_last_saved_epochs_are_kept_even_if_others_were_not_saved(four: RunFolder) -> None:
    four.save(after(3.0, 2.0, 4.0, 1.0, 8.0, 8.0, 8.0, 8.0, 8.0))
    assert sorted(path.name for path in four.path.glob("epoch-*")) == [f"epoch-000{n}.pt" for n in (3, 4, 9)]
    assert len((four.path / "metrics.jsonl").read_text().splitlines()) == 9


def test_epochs_are_kept_on_a_file_system_without_links(four: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *paths: os.stat("/no links here"))
    four.save(after(3.0, 2.0, 4.0, 1.0, 8.0))
    assert (four.path / "epoch-0005.pt").read_bytes() == four.last.read_bytes()
    assert not (four.path / "epoch-0005.pt").samefile(four.last)


@pytest.mark.parametrize("part", ["optimizer", "schedule", "random", "step", "average"])
def test_a_last_pt_with_a_foreign_part_is_refused_in_one_sentence(
    part: str, whole: Path, release: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    state = torch.load(folder / "last.pt", weights_only=True)
    state[part] = {"param_groups": [], "state": {}} if part == "optimizer" else [torch.zeros(3)]
    (folder / "last.pt").unlink()
    torch.save(state, folder / "last.pt")
    with pytest.raises((InputError, CheckpointError)) as refused:
        train(STEPPED, release, folder, resume=True, console=Quiet())
    assert "last.pt" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_changed_release_is_refused_with_the_difference(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    render_release(tmp_path / "other", train=96, val=40, scenes=8, seed=6)
    with pytest.raises(InputError, match=r"other samples \(training: .*other tiles, pictures.*the release has changed"):
        train(STEPPED, tmp_path / "other", folder, resume=True, console=Quiet())


def test_the_fingerprint_ignores_unpacking_but_not_a_longer_image(release: Path, tmp_path: Path) -> None:
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
    return fingerprint(load_datasets(ReleasePaths(release), STEPPED.division(), console=Console(quiet=True)))


def test_init_from_uses_only_the_weights(whole: Path, release: Path, tmp_path: Path) -> None:
    frozen = replace(
        STEPPED, epochs=1, init_from=str(whole / "best.pt"), optimizer=replace(STEPPED.optimizer, learning_rate=0.0)
    )
    train(frozen, release, tmp_path / "run", resume=False, console=Quiet())
    best, state = torch.load(whole / "best.pt", weights_only=True)["model"], learnt(tmp_path / "run")[0]
    assert all(torch.equal(state[name], value) for name, value in best.items())
    larger = replace(frozen, backbone="convnext_femto")
    with pytest.raises(CheckpointError, match=r"best\.pt: expected .* of shape|best\.pt has no parameter"):
        train(larger, release, tmp_path / "larger", resume=False, console=Quiet())


# --- Signals, the checkpoint writer and its timer.


def test_a_second_signal_ends_the_process_but_an_echo_of_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append(number))
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    before = signal.getsignal(signal.SIGUSR1)
    with Signals() as signals:
        with pytest.raises(Stopped, match="stopped by SIGUSR1; the last checkpoint is intact: add --resume"):
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert (signals.received, ended) == (signal.SIGUSR1, [])
        now += ECHO + 1
        signal.raise_signal(signal.SIGTERM)
        assert ended == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR1) == before


ORPHANED = """
import os, signal, time
from train.run.parent import end_with_parent
from train.run.signals import Signals, Stopped

ready, notify = os.pipe()
if os.fork():
    os.read(ready, 1)
    os.kill(os.getpid(), signal.SIGKILL)
try:
    with Signals():
        end_with_parent()
        os.write(notify, b".")
        time.sleep(20)
        print("no signal came", flush=True)
except Stopped as stopped:
    print(stopped, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a process when its parent ends")
def test_a_process_is_signalled_when_its_parent_is_killed() -> None:
    result = subprocess.run(
        [sys.executable, "-c", ORPHANED], cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "stopped by SIGUSR1; the last checkpoint is intact: add --resume to continue\n", (
        result.stderr
    )


def test_the_writer_runs_one_job_and_queues_another_without_blocking() -> None:
    gate, done = threading.Event(), list[int]()

    def job(number: int) -> None:
        gate.wait(60)
        done.append(number)

    with CheckpointWriter() as writer:
        writer.start(lambda: job(1))
        writer.start(lambda: job(2))
        assert writer.busy
        assert done == [], "neither start blocked"
        threading.Timer(0.05, gate.set).start()
        writer.start(lambda: job(3))
        assert done[0] == 1, "a third start blocks: no job is skipped"
        writer.wait()
        assert (writer.busy, done) == (False, [1, 2, 3])


def test_an_error_in_the_writer_is_raised_and_later_jobs_are_skipped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    later = list[int]()

    def write(then: Callable[[CheckpointWriter], object]) -> None:
        gate = threading.Event()

        def fail() -> None:
            gate.wait(60)
            raise InputError("the disk is full")

        with CheckpointWriter() as writer:
            writer.start(fail)
            writer.start(lambda: later.append(1))
            gate.set()
            then(writer)

    for then in (CheckpointWriter.wait, lambda writer: None):
        with pytest.raises(InputError, match="the disk is full"):
            write(then)
    assert (later, capsys.readouterr().err) == ([], "")
    with pytest.raises(ZeroDivisionError):
        write(lambda writer: 1 / 0)
    assert capsys.readouterr().err == "error: the disk is full\n", "in addition to the other error, which is raised"


def test_a_snapshot_does_not_change_with_its_source() -> None:
    weights, history = torch.ones(3), [{"epoch": 1}]
    snapshot = Snapshot()
    first = snapshot.of({"model": {"w": weights}, "history": history, "pair": (1, weights)})
    weights += 1
    history.append({"epoch": 2})
    assert first["model"]["w"].tolist() == [1, 1, 1]
    assert first["pair"][1].tolist() == [1, 1, 1]
    assert first["history"] == [{"epoch": 1}]
    again = snapshot.of({"model": {"w": weights}})
    assert again["model"]["w"].data_ptr() == first["model"]["w"].data_ptr(), "the memory is reused"


class OnSecondGpu(torch.Tensor):
    """Claims to be on cuda:1."""

    is_cuda = True
    device = torch.device("cuda", 1)


def test_a_snapshot_waits_for_the_gpu_that_its_tensors_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **_: torch.zeros(tensor.shape))
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    copied = Snapshot().of({"model": {"w": torch.ones(3).as_subclass(OnSecondGpu)}})
    assert copied["model"]["w"].tolist() == [1, 1, 1]
    assert waited == [torch.device("cuda", 1)]


@pytest.mark.parametrize(
    ("every", "expected"), [("3", [3, 6, 9]), ("2", [2, 4, 6, 8]), ("1", [2, 3, 4, 5, 6, 7, 8, 9]), ("0", [])]
)
def test_a_checkpoint_is_due_every_n_steps(every: str, expected: list[int]) -> None:
    timer, saved, requested = CheckpointTimer(every), [], False
    for step in range(1, 10):
        timer.count_step()
        if requested:  # a request takes effect one step later
            saved.append(step)
            timer.restart()
        requested = timer.due_after_next_step
    assert saved == expected


@pytest.mark.parametrize(
    ("every", "expected"), [("0", [60, 120]), ("10m", [60, 120]), ("0.5m", [30, 60, 90, 120]), ("2", [20, 40, 60])]
)
def test_an_epoch_is_saved_if_the_last_save_is_a_minute_ago_or_the_interval_has_passed(
    every: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    timer, saved = CheckpointTimer(every), []
    for epoch in range(1, 13):  # each takes ten seconds and one step
        now += 10
        timer.count_step()
        if timer.due_after_epoch:
            saved.append(10 * epoch)
            timer.restart()
    assert saved[: len(expected)] == expected


def test_bytes_are_written_without_the_gil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is a pipe, so that a write waits until this thread reads: with the GIL, both would wait forever."""
    faulthandler.dump_traceback_later(60, exit=True)
    reader, writer = os.pipe()
    open_whole = Path.open

    def piped(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = open_whole(path, mode, *arguments, **options)
        os.dup2(writer, file.fileno())
        os.close(writer)
        return file

    monkeypatch.setattr("dali_pipes.files.Path.open", piped)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    state, received = {"model": {"w": torch.randn(1 << 20)}}, bytearray()
    with CheckpointWriter() as checkpoints:
        checkpoints.start(lambda: save_checkpoint(tmp_path / "last.pt", state))
        while part := os.read(reader, 1 << 16):
            received += part
    faulthandler.cancel_dump_traceback_later()
    os.close(reader)
    assert state["model"]["w"].numpy().tobytes() in bytes(received)


@pytest.mark.parametrize("every", ["", "m", "10s", "-1", "1e3", "nan"])
def test_a_bad_checkpoint_interval_is_refused(every: str) -> None:
    with pytest.raises(InputError, match="--checkpoint-every takes steps like 500 or minutes like 10m"):
        replace(Config(), runtime=replace(Config().runtime, checkpoint_every=every))


@pytest.mark.usefixtures("saves_each_epoch")
def test_a_failed_write_gives_one_sentence_and_keeps_the_last_checkpoint(
    release: Path, tmp_path: Path, full_disk: Callable[[Path], None]
) -> None:
    folder = tmp_path / "run"

    class Filling(Quiet):
        def log_step(self, now: Any) -> None:
            while now.epoch == 2 and not (folder / "metrics.jsonl").exists():
                time.sleep(0.01)
            if now.epoch == 2:
                full_disk(folder)

    with pytest.raises(InputError, match=r"pt cannot be written: No space left on device; the last checkpoint is"):
        train(STEPPED, release, folder, resume=False, console=Filling())
    assert torch.load(folder / "best.pt", weights_only=True)["model"]
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["epoch"] == 1
    assert np.isfinite(torch.load(folder / "last.pt", weights_only=True)["best_rmse"])


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """After a call, new files below the folder are written to /dev/full, which has no space."""
    open_whole = Path.open

    def fill(folder: Path) -> None:
        def limited(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            file = open_whole(path, mode, *arguments, **options)
            if folder in path.parents and mode == "xb":  # as dali_pipes/files.py creates them; the name stays
                full = os.open("/dev/full", os.O_WRONLY)
                os.dup2(full, file.fileno())
                os.close(full)
            return file

        monkeypatch.setattr("dali_pipes.files.Path.open", limited)

    return fill
