"""Two ranks equal one process with the whole batch: in losses, gradients, parameters, metrics and sample order.

In fp32 only the order of summation differs.  `STEP` is the tolerance for losses, gradients and parameters after an
epoch of SGD.  `RUN` is the tolerance after two epochs of AdamW, which divides by the root of second moments and so
amplifies rounding; it also applies to the RMSE in metres.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from dali_pipes import Batch
from dali_pipes.errors import InputError
from model import HeightRegressor
from tests.test_training import Quiet, learnt
from train.__main__ import parse
from train.engine.run import train
from train.engine.step import Forward, Step
from train.run import ranks
from train.run.ranks import (
    LostRank,
    Place,
    data_parallel,
    mean_over_ranks,
    one_error_per_node,
    process_group,
    shorten_timeout,
)

ROOT = Path(__file__).parent.parent
SMALL = ["--preset", "demo", "--data.size", "32", "--batch-size", "16", "--epochs", "2", "--model.drop-path", "0"]
SMALL += [
    "--runtime.precision",
    "fp32",
    "--device",
    "cpu",
    "--cache",
    "none",
    "--runtime.log-every",
    "1",
    "--keep",
    "2",
]
STEP, RUN = 2e-6, 1e-3


def torchrun(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run a command on two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, arguments)]
    known = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, timeout=280)


def errors_in(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def close(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], tolerance: float) -> None:
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=0, atol=tolerance, msg=f"{name}: {{}}".format)


# --- Whole runs.


def alone(release: Path, folder: Path, *, resume: bool = False) -> None:
    """The run of the flags `SMALL`, in this process."""
    config = parse(["--release", str(release), "--out", str(folder), *SMALL]).config
    train(config, release, folder, resume=resume, console=Quiet())


@pytest.fixture(scope="module")
def one(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("ranks") / "one"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.run.folder.EPOCH_SAVE_S", 0.0)  # so that the first epoch is kept
        alone(release, folder)
    return folder


@pytest.fixture(scope="module")
def two(release: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run of two ranks with --accumulate 2, disturbed twice: rank 1 is killed in the second epoch and torchrun
    restarts both; then rank 1 alone gets a SIGTERM, while the disk of rank 0 is slow."""
    folder = tmp_path_factory.mktemp("ranks") / "two"
    script = folder.with_suffix(".py")
    script.write_text(DISTURBED)
    options = ["--accumulate", "2", "--checkpoint-every", "1"]
    result = torchrun("--max-restarts", 1, script, "--release", release, "--out", folder, *SMALL, *options)
    return folder, result


DISTURBED = """
import os, signal, sys, time
import train.__main__
import train.engine.loop
import train.engine.state
import train.run.folder
from dali_pipes.choice import Choice
from train.run.folder import RunFolder
from train.run.console import RunConsole

rank, start = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
at = {"0": ((2, 3), signal.SIGKILL), "1": ((2, 4), signal.SIGTERM)}[start]
def disturbed(self, now):
    if (now.epoch, now.step) == at[0] and rank == "1":
        os.kill(os.getpid(), at[1])
RunConsole.log_step = disturbed

train.run.folder.EPOCH_SAVE_S = 0.0  # so that the first epoch is kept

save = RunFolder.save
def slowly(self, state, **options):
    stopped = (start, state["step"]) == ("1", 5)
    time.sleep(stopped)
    save(self, state, **options)
    if stopped:
        print("rank 0 has written", flush=True)
RunFolder.save = slowly

leave = train.engine.loop.leave_group
def leaving():
    print(f"rank {rank} leaves\\n", end="", flush=True)
    leave()
train.engine.loop.leave_group = leaving

Loader = train.engine.state.Loader
def reporting(*arguments, cache, **options):
    print(f"rank {rank} caches: {cache.place}\\n", end="", flush=True)
    return Loader(*arguments, cache=cache, **options)
train.engine.state.Loader = reporting
chosen = {"0": "host", "1": "none"}[rank]
train.engine.state.choose_cache = lambda *arguments, **options: Choice(chosen, "free memory")

train.__main__.main(sys.argv[1:])
"""


def test_torchruns_restart_resumes_after_a_crash_and_a_signal_to_one_rank_stops_all(
    two: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, result = two
    assert result.stdout.count(f"resuming {folder} after epoch 1 of 2, step ") == 1, result.stderr
    assert result.stderr.count("stopped by SIGTERM; the state is saved") == 1
    assert all("rank 0 lost another rank" in sentence for sentence in errors_in(result)), "or none: torchrun may end it"
    state = torch.load(folder / "last.pt", weights_only=True)
    assert (state["epoch"], state["step"], len(state["random"])) == (1, 5, 2), "it stops at the end of the next step"
    order = re.findall(r"rank \d (?:has written|leaves)", result.stdout)
    assert order[0] == "rank 0 has written", "otherwise torchrun would end rank 0 during a write"
    assert sorted(order[1:]) == ["rank 0 leaves", "rank 1 leaves"]


def test_the_ranks_of_a_node_use_one_kind_of_cache_even_if_their_free_memory_differs(
    two: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    caches = sorted(set(re.findall(r"rank \d caches: (?:host|none)", two[1].stdout)))
    assert caches == ["rank 0 caches: host", "rank 1 caches: host"]


def test_an_epoch_of_two_ranks_has_the_metrics_and_parameters_of_one_process(
    one: Path, two: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    (metrics,), expected = learnt(two[0])[1], learnt(one)[1][0]
    assert metrics == pytest.approx(expected, abs=RUN)
    states = [torch.load(folder / "epoch-0001.pt", weights_only=True)["model"] for folder in (one, two[0])]
    close(states[0], states[1], RUN)


def test_one_process_resumes_within_an_epoch_of_two_ranks(
    one: Path, two: tuple[Path, subprocess.CompletedProcess[str]], release: Path, tmp_path: Path
) -> None:
    """Other samples, or another order, would give other results."""
    shutil.copytree(two[0], tmp_path / "run")
    alone(release, tmp_path / "run", resume=True)
    (state, lines), (expected, expected_lines) = learnt(tmp_path / "run"), learnt(one)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1] == pytest.approx(expected_lines[1], abs=RUN)
    close(expected, state, RUN)


# --- The step, rank by rank: losses and gradients, eager and compiled.


def epoch_of_steps(
    rank: int, world_size: int, compilation: str, accumulate: int, resumed_at: int | None = None
) -> dict[str, Any]:
    """Eight steps of SGD on a fixed batch of 8 each → the losses, the last gradients, the parameters.

    `resumed_at`: before this step everything is rebuilt around the same parameters, as in a resumed process.
    """
    size, share = 32, 8 // world_size
    torch.manual_seed(0)
    gradients: dict[str, torch.Tensor] = {}

    def begin(state: dict[str, torch.Tensor] | None = None) -> tuple[HeightRegressor, Step]:
        cpu = torch.device("cpu")
        model = HeightRegressor("convnext_atto", drop_path=0.0, layer_scale=1.0).to(memory_format=torch.channels_last)
        if state:
            model.load_state_dict(state)
        network = data_parallel(model, cpu, compress=False)
        forward = Forward(model, cpu, share // accumulate, "fp32", compilation=compilation, network=network)
        step = Step(forward, torch.optim.SGD(model.parameters(), lr=0.05), 5.0, accumulate=accumulate)

        def remember(*of_the_step: Any) -> None:
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

        step.optimizer.register_step_pre_hook(remember)
        return model, step

    model, step = begin()
    random, losses = torch.Generator().manual_seed(1), []
    for i in range(8):
        if i == resumed_at:
            model, step = begin(model.state_dict())
        pixels = [torch.randint(0, 256, (8, size, size, c), generator=random).byte() for c in (3, 1, 1)]
        length, height = torch.randn(8, 1, generator=random), torch.randn(8, generator=random)
        columns = [*pixels, length, height, torch.arange(8)]
        mine = Batch(*(column[rank * share : (rank + 1) * share] for column in columns))
        losses.append(mean_over_ranks(step(mine, torch.ones(()))))
    return {"losses": losses, "gradients": gradients, "parameters": model.state_dict()}


WAYS = [("off", 1), ("off", 2), ("regional", 1)]


def one_of(rank: int, world_size: int, port: int) -> AbstractContextManager[None]:
    """Join as one of `world_size` ranks, as under torchrun."""
    ranks = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
    os.environ |= {
        name: str(value) for name, value in {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items()
    }
    return process_group(Place.from_environment(), torch.device("cpu"))


def on_each_way(rank: int, folder: Path, ports: tuple[int, int]) -> None:
    """Run two ranks in each way, then three ranks that resume, and at last lose one."""
    torch.set_num_threads(1)
    compile_module = torch.nn.Module.compile

    def fast(self: torch.nn.Module, *arguments: Any, **options: Any) -> None:
        """Dynamo and AOT autograd without inductor, which would take a minute."""
        compile_module(self, *arguments, **{**options, "backend": "aot_eager"})

    torch.nn.Module.compile = fast  # type: ignore[method-assign]
    if rank < 2:
        with one_of(rank, 2, ports[0]):
            for compilation, accumulate in WAYS:
                results = epoch_of_steps(rank, 2, compilation, accumulate)
                torch.save(results, folder / f"{compilation} {accumulate} {rank}.pt")
    with one_of(rank, 3, ports[1]):
        for resumed_at in (None, 4):
            results = epoch_of_steps(rank, 3, "off", 1, resumed_at)
            torch.save(results, folder / f"three {resumed_at} {rank}.pt")
        lose_ranks(rank, folder / "lost")


def lose_ranks(rank: int, message: Path) -> None:
    """Ranks 1 and 2 keep their connections open but send nothing, until rank 0 has written its error."""
    ranks.EPOCH_TIMEOUT = timedelta(seconds=1)
    shorten_timeout()
    if rank:
        deadline = time.monotonic() + 30
        while not message.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os._exit(not message.exists())
    try:
        with one_error_per_node(Place.from_environment()):
            mean_over_ranks(torch.ones(()))
    except LostRank as lost:
        message.write_text(str(lost))
    os._exit(0)  # after an error the group is left as it is


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of the ranks."""
    folder = tmp_path_factory.mktemp("ways")
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = free.getsockname()[1], other.getsockname()[1]
    spawn(on_each_way, (folder, ports), nprocs=3)
    return folder


@pytest.mark.parametrize(("compilation", "accumulate"), WAYS)
def test_two_ranks_have_the_losses_gradients_and_parameters_of_one_process(
    compilation: str, accumulate: int, ways: Path
) -> None:
    expected = epoch_of_steps(0, 1, "off", 1)
    for rank in range(2):
        results = torch.load(ways / f"{compilation} {accumulate} {rank}.pt", weights_only=True)
        assert results["losses"] == pytest.approx(expected["losses"], abs=STEP)
        close(expected["gradients"], results["gradients"], STEP)
        close(expected["parameters"], results["parameters"], STEP)


def test_three_ranks_that_resume_are_bit_identical_to_uninterrupted_ones(ways: Path) -> None:
    """The sum of three floats depends on their order; that of two does not."""
    for rank in range(3):
        whole, resumed = (torch.load(ways / f"three {at} {rank}.pt", weights_only=True) for at in (None, 4))
        assert resumed["losses"] == whole["losses"]
        close(whole["parameters"], resumed["parameters"], 0)


# --- Failures.


def test_a_rank_waits_for_a_silent_one_only_until_the_shorter_timeout(ways: Path) -> None:
    assert "rank 0 lost another rank; see the error of that rank (" in (ways / "lost").read_text()
    assert ranks.EPOCH_TIMEOUT < ranks.START_TIMEOUT


def test_a_failing_rank_ends_all_ranks_with_its_own_sentence(release: Path, tmp_path: Path) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text(FAILING)
    result = torchrun(failing, "--release", release, "--out", tmp_path / "run", *SMALL)
    assert result.returncode == 1, "the status of torchrun for any failure"
    assert errors_in(result) == ["error: rank 1 broke in step 2"]


FAILING = """
import os, sys
import train.__main__
import train.engine.step
from dali_pipes.errors import InputError

called, step = 0, train.engine.step.Step.__call__
def breaking(self, *arguments):
    global called
    called += 1
    if called == 2 and os.environ["RANK"] == "1":
        raise InputError("rank 1 broke in step 2")
    return step(self, *arguments)
train.engine.step.Step.__call__ = breaking
train.__main__.main(sys.argv[1:])
"""


def test_an_error_on_all_ranks_is_printed_once(release: Path, tmp_path: Path) -> None:
    result = torchrun("-m", "train", "--release", release, "--out", tmp_path / "run", *SMALL, "--batch-size", 15)
    (sentence,) = errors_in(result)
    assert "expected a multiple of 2 ranks × 1 of --accumulate × 1 of --data.scene-group, found 15" in sentence
    assert not (tmp_path / "run").exists()


def test_ranks_are_read_from_the_environment_and_take_their_own_gpus() -> None:
    assert Place.from_environment({}) == Place()
    torchruns = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    place = Place.from_environment(torchruns)
    assert place == Place(5, 8, 1, 4)
    assert place.device("cuda") == "cuda:1"
    assert place.device("cpu") == "cpu"
    assert Place().device("cuda:3") == "cuda:3"
    with pytest.raises(InputError, match="each rank takes its own GPU"):
        place.device("cuda:3")
    assert place.threads == max(1, len(os.sched_getaffinity(0)) // 4)
