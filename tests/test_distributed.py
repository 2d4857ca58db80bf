"""Two ranks are one process with the whole batch: in losses, gradients, parameters, metrics and samples' order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from bench.scaling_model import Arguments, scaling
from dali_pipes.errors import InputError
from train.distributed import Place

ROOT = Path(__file__).parent.parent
SMALL = ["--preset", "demo", "--data.size", "32", "--batch-size", "16", "--epochs", "2"]
SMALL += ["--runtime.precision", "fp32", "--device", "cpu", "--cache", "none"]
FP32 = 2e-6  # AdamW divides by small second moments, and so enlarges what another order of summation leaves


def torchrun(ranks: int, *arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", ranks, *arguments]
    known = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=known, capture_output=True, text=True, timeout=280)


def learnt(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    state = torch.load(folder / "last.pt", weights_only=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timings = ("seconds", "samples_per_s", "data_wait")
    return state, [{key: value for key, value in line.items() if key not in timings} for line in lines]


def close(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=0, atol=FP32, msg=name)


@pytest.fixture(scope="module")
def alone(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "alone"
    result = torchrun(1, "-m", "train", "--release", release, "--out", folder, *SMALL)
    assert result.returncode == 0, result.stderr
    return folder


def test_two_ranks_train_as_one_process_and_one_goes_on_where_two_were_stopped(
    alone: Path, release: Path, tmp_path: Path
) -> None:
    """An epoch on two ranks, with each rank's share in two parts; the second epoch on one."""
    first = tmp_path / "run"
    stop = tmp_path / "stop.py"
    stop.write_text(STOPPED_IN_THE_SECOND_EPOCH)
    result = torchrun(2, stop, "--release", release, "--out", first, *SMALL, "--accumulate", "2")
    assert "stopped by SIGTERM" in result.stderr, result.stderr
    assert result.stdout.count("epoch 1 done") == 1, "rank 0 alone speaks"
    two, two_lines = learnt(first)
    assert (two["epoch"], len(two["random"])) == (1, 2)
    expected, expected_lines = learnt(alone)
    assert two_lines[0] == pytest.approx(expected_lines[0], abs=1e-5)

    result = torchrun(1, "-m", "train", "--release", release, "--out", first, *SMALL, "--resume")
    assert result.returncode == 0, result.stderr
    state, lines = learnt(first)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1] == pytest.approx(expected_lines[1], abs=1e-4)
    close(expected["model"], state["model"])


STOPPED_IN_THE_SECOND_EPOCH = """
import os, signal, sys
import train.__main__
from train.console import RunConsole

moment = RunConsole.moment
def signalling(self, now):
    moment(self, now)
    if now.epoch == 2 and int(os.environ["RANK"]) == 1:
        os.kill(os.getpid(), signal.SIGTERM)
RunConsole.moment = signalling
train.__main__.main(sys.argv[1:] + ["--runtime.log-every", "1"])
"""


# --- The step, rank by rank: losses and gradients, eager and compiled.


def _step_on(rank: int, world_size: int, compilation: str, accumulate: int, folder: Path, port: int) -> None:
    """Five steps of SGD on a fixed batch each; saves losses, gradients and parameters."""
    import torch._dynamo

    from dali_pipes import Batch
    from model import HeightRegressor
    from train.distributed import data_parallel, joined, mean
    from train.step import Forward, Step

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    cpu, size, share = torch.device("cpu"), 32, 8 // world_size
    with joined(Place.from_environment(), cpu):
        torch.manual_seed(0)
        model = HeightRegressor("convnext_atto", drop_path=0.0, layer_scale=1.0).to(memory_format=torch.channels_last)
        network = data_parallel(model, cpu, compress=False)
        if compilation == "regional":
            _fast_backend()
        forward = Forward(model, cpu, share // accumulate, "fp32", compilation=compilation, network=network)
        step = Step(forward, torch.optim.SGD(model.parameters(), lr=0.05), 5.0, accumulate=accumulate)
        random = torch.Generator().manual_seed(1)
        losses: list[float] = []
        gradients: dict[str, torch.Tensor] = {}

        def remember(*of_the_step: Any) -> None:
            gradients.update(
                {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
            )

        step.optimizer.register_step_pre_hook(remember)
        for _ in range(5):
            pixels = [torch.randint(0, 256, (8, size, size, c), generator=random).byte() for c in (3, 1, 1)]
            length, height = torch.randn(8, 1, generator=random), torch.randn(8, generator=random)
            columns = [*pixels, length, height, torch.arange(8)]
            mine = Batch(*(column[rank * share : (rank + 1) * share] for column in columns))
            losses.append(mean(step(mine, torch.ones(()))))
        if rank == 0:
            found = {"losses": losses, "gradients": gradients, "parameters": model.state_dict()}
            torch.save(found, folder / f"{world_size}-{compilation}-{accumulate}.pt")


def _fast_backend() -> None:
    """Dynamo and AOT autograd as in use, without the minute in which inductor writes C++."""
    compile_module = torch.nn.Module.compile

    def fast(self: torch.nn.Module, *arguments: Any, **options: Any) -> None:
        compile_module(self, *arguments, **{**options, "backend": "aot_eager"})

    torch.nn.Module.compile = fast  # type: ignore[method-assign]


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("steps")
    spawn(_step_on, (1, "off", 1, folder, _free_port()), nprocs=1)
    found: dict[str, Any] = torch.load(folder / "1-off-1.pt", weights_only=True)
    return found


@pytest.mark.parametrize(("compilation", "accumulate"), [("off", 1), ("off", 2), ("regional", 1)])
def test_two_ranks_have_the_losses_gradients_and_parameters_of_one_process(
    compilation: str, accumulate: int, one_process: dict[str, Any], tmp_path: Path
) -> None:
    spawn(_step_on, (2, compilation, accumulate, tmp_path, _free_port()), nprocs=2)
    found = torch.load(tmp_path / f"2-{compilation}-{accumulate}.pt", weights_only=True)
    assert found["losses"] == pytest.approx(one_process["losses"], abs=1e-6)
    close(one_process["gradients"], found["gradients"])
    close(one_process["parameters"], found["parameters"])


# --- What goes wrong.


def test_a_failing_rank_ends_all_with_its_own_sentence(release: Path, tmp_path: Path) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text(FAILING)
    began = time.monotonic()
    result = torchrun(2, failing, "--release", release, "--out", tmp_path / "run", *SMALL)
    assert result.returncode == 1, "torchrun's own status for any failure"
    told = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert told == ["error: rank 1 broke in step 2"]
    assert time.monotonic() - began < 200


FAILING = """
import os, sys
import train.__main__, train.step
from bench.scaling_model import Arguments, scaling
from dali_pipes.errors import InputError

called, step = 0, train.step.Step.__call__
def breaking(self, *arguments):
    global called
    called += 1
    if called == 2 and os.environ["RANK"] == "1":
        raise InputError("rank 1 broke in step 2")
    return step(self, *arguments)
train.step.Step.__call__ = breaking
train.__main__.main(sys.argv[1:])
"""


def test_a_mistake_that_all_ranks_make_is_told_once(release: Path, tmp_path: Path) -> None:
    result = torchrun(2, "-m", "train", "--release", release, "--out", tmp_path / "run", *SMALL, "--batch-size", "15")
    told = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert "expected a multiple of 2 ranks × 1 of --accumulate, found 15" in told[0]
    assert not (tmp_path / "run").exists()


def test_a_crash_is_followed_by_a_restart_that_goes_on(alone: Path, release: Path, tmp_path: Path) -> None:
    """`--max-restarts`: the second start resumes without being told to, and ends as an undisturbed run."""
    crashing = tmp_path / "crashing.py"
    crashing.write_text(CRASHING)
    options = ["--checkpoint-every", "2", "--runtime.log-every", "1"]
    result = torchrun(
        2, "--max-restarts", 1, crashing, "--release", release, "--out", tmp_path / "run", *SMALL, *options
    )
    assert result.returncode == 0, result.stderr
    assert "resuming" in result.stdout
    lines, expected = learnt(tmp_path / "run")[1], learnt(alone)[1]
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, abs=1e-4)


CRASHING = """
import os, signal, sys
import train.__main__
from train.console import RunConsole

def dying(self, now):
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and (now.epoch, now.step) == (2, 4) and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
RunConsole.moment = dying
train.__main__.main(sys.argv[1:])
"""


def test_places_and_devices() -> None:
    assert Place.from_environment({}) == Place()
    torchruns = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    place = Place.from_environment({**torchruns, "TORCHELASTIC_RESTART_COUNT": "2"})
    assert place == Place(5, 8, 1, 4, 2)
    assert place.device("cuda") == "cuda:1"
    assert place.device("cpu") == "cpu"
    assert Place().device("cuda:3") == "cuda:3"
    with pytest.raises(InputError, match="each rank takes its own GPU"):
        place.device("cuda:3")
    assert place.threads == max(1, len(os.sched_getaffinity(0)) // 4)


def test_the_scaling_model_hides_what_fits_the_backward_and_no_more() -> None:
    assumed = Arguments(parameters=1e6, bytes_each=4, batch=10, samples_per_s=100, within=1e9, between=1e7, latency=0)
    assert scaling(assumed, 1).step == scaling(assumed, 8).step == pytest.approx(0.1)
    reduce = 2 * 1023 / 1024 * 4e6 / 1e7
    far = scaling(assumed, 1024)
    assert far.reduce == pytest.approx(reduce)
    assert far.step == pytest.approx(0.1 + reduce - 0.1 * 2 / 3)
    assert far.samples_per_s == pytest.approx(10240 / far.step)
