"""What is told about machines that are not this one: findings are made up, the advice is computed."""

from __future__ import annotations

import json
from dataclasses import replace

import nvidia.dali
import pytest
import torch

from train import environment
from train.machine.choices import describe
from train.machine.hardware import GIB, Machine, advice, as_rows, blocks, dali_cuda, look

GOOD = Machine(
    gpus=("NVIDIA H100 80GB HBM3",),
    gpu_memory=80 * GIB,
    driver="580.82.07",
    torch_cuda="13.0",
    dali_wheels=("nvidia-dali-cuda130",),
    bf16=True,
    tf32=True,
    compiler="g++",
    cores=16,
    threads=16,
    memory=100 * GIB,
    disk=500 * GIB,
)


def test_a_machine_on_which_all_is_well_gets_no_advice() -> None:
    assert advice(GOOD) == {}
    assert not blocks(GOOD)


@pytest.mark.parametrize(
    ("change", "about", "told", "blocking"),
    [
        (
            {"dali_wheels": ("nvidia-dali-cuda120",)},
            "DALI",
            "install nvidia-dali-cuda130, or a torch for CUDA 12",
            True,
        ),
        ({"torch_cuda": "12.8"}, "DALI", "install nvidia-dali-cuda120, or a torch for CUDA 13", True),
        ({"dali_wheels": ("nvidia-dali-cuda120", "nvidia-dali-cuda130")}, "DALI", "only one of DALI's wheels", True),
        ({"dali_wheels": ()}, "DALI", "pip install nvidia-dali-cuda120", True),
        ({"gpus": ()}, "GPU", "torch sees no GPU", True),
        ({"gpus": (), "torch_cuda": None}, "GPU", "torch was built without CUDA", True),
        ({"bf16": False}, "bf16", "fp16 with a loss scaler", False),
        ({"compiler": None}, "C++ compiler", "install g++", False),
        ({"threads": 32}, "threads", "set OMP_NUM_THREADS=16", False),
        ({"memory": GIB}, "memory", "--cache none", False),
        ({"disk": GIB}, "disk", "free 5 GiB", False),
    ],
)
def test_each_fault_gets_its_sentence(change: dict[str, object], about: str, told: str, blocking: bool) -> None:
    machine = replace(GOOD, **change)  # type: ignore[arg-type]
    assert list(advice(machine)) == [about]
    assert told in advice(machine)[about]
    assert about in as_rows(machine), "advice that no row is about would not be printed"
    assert blocks(machine) == blocking


def test_on_a_cpu_the_wheel_for_another_cuda_is_named_and_blocks_nothing() -> None:
    here = replace(GOOD, gpus=(), driver=None, tf32=False, dali_wheels=("nvidia-dali-cuda120",))
    assert "on a CPU that is fine" in advice(here)["DALI"]
    assert not blocks(here)
    assert "fp32 is used" in advice(replace(here, bf16=False))["bf16"]
    assert "fewer than the 16 cores" in advice(replace(here, threads=1))["threads"]


def test_the_cuda_of_a_wheel_is_in_its_name() -> None:
    assert dali_cuda("nvidia-dali-cuda120") == "12"
    assert dali_cuda("nvidia-dali-cuda130") == "13"


def test_the_command_tells_what_was_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    machine = look()
    assert machine.cores >= 1
    [wheel] = machine.dali_wheels
    assert describe(torch.device("cpu"))[wheel] == nvidia.dali.__version__
    monkeypatch.setattr(environment, "look", lambda: replace(GOOD, compiler=None))
    environment.main(["--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["gpus"] == ["NVIDIA H100 80GB HBM3"]
    assert list(told["advice"]) == ["C++ compiler"]
    environment.main([])
    assert "install g++" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(environment, "look", lambda: replace(GOOD, dali_wheels=()))
    with pytest.raises(SystemExit) as end:
        environment.main([])
    assert end.value.code == 1
