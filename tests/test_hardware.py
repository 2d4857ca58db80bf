"""Advice for machines other than this one: the facts are made up, the advice is computed."""

from __future__ import annotations

import json
from dataclasses import replace

import nvidia.dali
import pytest
import torch

from train import environment
from train.machine.choices import describe
from train.machine.hardware import GIB, Machine, dali_cuda, facts, look, ready

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


def advice(machine: Machine) -> dict[str, str]:
    return {fact.name: fact.advice for fact in facts(machine) if fact.advice}


def test_a_machine_without_faults_gets_no_advice() -> None:
    assert advice(GOOD) == {}
    assert ready(GOOD)


@pytest.mark.parametrize(
    ("change", "fact", "sentence", "can_train"),
    [
        (
            {"dali_wheels": ("nvidia-dali-cuda120",)},
            "DALI",
            "install nvidia-dali-cuda130, or a torch for CUDA 12",
            True,
        ),
        ({"torch_cuda": "12.8"}, "DALI", "install nvidia-dali-cuda120, or a torch for CUDA 13", True),
        ({"dali_wheels": ("nvidia-dali-cuda120", "nvidia-dali-cuda130")}, "DALI", "only one wheel of DALI", False),
        ({"dali_wheels": ()}, "DALI", 'pip install ".[cuda13]"', False),
        ({"dali_wheels": (), "torch_cuda": "12.8"}, "DALI", 'pip install ".[cuda12]"', False),
        (
            {"dali_wheels": (), "torch_cuda": None, "gpus": (), "driver": None, "tf32": False},
            "DALI",
            "was built without CUDA, so install the extra cuda13",
            False,
        ),
        ({"gpus": ()}, "GPU", "torch sees no GPU", False),
        ({"gpus": (), "torch_cuda": None}, "GPU", "torch was built without CUDA", False),
        ({"bf16": False}, "bf16", "fp16 with a loss scaler", True),
        ({"compiler": None}, "C++ compiler", "install g++", True),
        ({"threads": 32}, "threads", "set OMP_NUM_THREADS=16", True),
        ({"memory": GIB}, "memory", "--cache none", True),
        ({"disk": GIB}, "disk", "free 5 GiB", True),
    ],
)
def test_each_fault_gets_its_advice(change: dict[str, object], fact: str, sentence: str, can_train: bool) -> None:
    machine = replace(GOOD, **change)  # type: ignore[arg-type]
    assert list(advice(machine)) == [fact]
    assert sentence in advice(machine)[fact]
    assert ready(machine) == can_train


def test_a_cpu_can_train_with_a_wheel_for_another_cuda() -> None:
    cpu = replace(GOOD, gpus=(), driver=None, tf32=False, dali_wheels=("nvidia-dali-cuda120",))
    assert "on a CPU this is fine" in advice(cpu)["DALI"]
    assert ready(cpu)
    assert "fp32 is used" in advice(replace(cpu, bf16=False))["bf16"]
    assert "fewer than the 16 cores" in advice(replace(cpu, threads=1))["threads"]


def test_the_cuda_of_a_wheel_is_in_its_name() -> None:
    assert dali_cuda("nvidia-dali-cuda120") == "12"
    assert dali_cuda("nvidia-dali-cuda130") == "13"


def test_the_command_shows_the_facts_and_exits_by_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = look()
    assert machine.cores >= 1
    [wheel] = machine.dali_wheels
    assert describe(torch.device("cpu"))[wheel] == nvidia.dali.__version__
    monkeypatch.setattr(environment, "look", lambda: replace(GOOD, compiler=None))
    environment.main(["--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["gpus"] == ["NVIDIA H100 80GB HBM3"]
    assert list(shown["advice"]) == ["C++ compiler"]
    environment.main([])
    assert "install g++" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(environment, "look", lambda: replace(GOOD, dali_wheels=()))
    with pytest.raises(SystemExit) as end:
        environment.main([])
    assert end.value.code == 1
