"""What a machine offers for training, and what to change on it.

`look` reads the machine. `facts` is a pure function of what it read: one row for each fact, with its advice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dali_pipes.batches.wheel import how_to_install
from dali_pipes.capacity import free_memory

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless")
DALI = "nvidia-dali-cuda"  # its wheels: nvidia-dali-cuda120, nvidia-dali-cuda130
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """The result of `look`; None is absent or unknown."""

    gpus: tuple[str, ...]  # the CUDA devices that torch sees, by name
    gpu_memory: int | None  # bytes of the first GPU
    driver: str | None  # version of NVIDIA's driver, which may be installed although torch sees no GPU
    torch_cuda: str | None  # the CUDA that torch was built for, such as 13.0; None for a CPU build
    dali_wheels: tuple[str, ...]  # installed wheels of DALI; with several it is undefined which one is imported
    bf16: bool  # whether the device that trains multiplies bf16 natively
    tf32: bool  # whether that device has TF32
    compiler: str | None  # the C++ compiler that torch.compile would use
    cores: int  # that this process may use
    threads: int  # of torch, within one operator
    memory: int | None  # bytes of host memory available without swapping
    disk: int | None  # free bytes on the disk of the working folder


class Fact(NamedTuple):
    """One fact as text. `advice` says what to change, and is empty if nothing is wrong."""

    name: str
    value: str
    advice: str = ""


def look() -> Machine:
    """Read this machine."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Machine(
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(gpus)),
        gpu_memory=torch.cuda.get_device_properties(0).total_memory if gpus else None,
        driver=_driver(),
        torch_cuda=torch.version.cuda,
        dali_wheels=tuple(name for name in versions() if name.startswith(DALI)),
        bf16=multiplies_bf16(torch.device("cuda" if gpus else "cpu")),
        tf32=gpus > 0 and torch.cuda.get_device_capability(0) >= (8, 0),
        compiler=_cpp_compiler(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        memory=free_memory(),
        disk=shutil.disk_usage(Path.cwd()).free,
    )


def facts(machine: Machine) -> list[Fact]:
    """All facts about `machine`, in the order in which they are shown."""
    gpu = bool(machine.gpus)
    wheels = [f"{wheel} (CUDA {dali_cuda(wheel)})" for wheel in machine.dali_wheels]
    bf16 = "fp16 with a loss scaler is used" if gpu else "fp32 is used, at half the speed or less"
    compiler = "torch.compile needs one, on a GPU as well: install g++"
    return [
        Fact("GPU", ", ".join(machine.gpus) or "none", _gpu_advice(machine)),
        Fact("GPU memory", _gib(machine.gpu_memory) if gpu else "–"),
        Fact("driver", machine.driver or "none"),
        Fact("CUDA of torch", machine.torch_cuda or "none"),
        Fact("DALI", ", ".join(wheels) or "not installed", _dali_advice(machine)),
        Fact("bf16", "native" if machine.bf16 else "emulated", "" if machine.bf16 else bf16),
        Fact("TF32", "yes" if machine.tf32 else "no"),
        Fact("C++ compiler", machine.compiler or "none", "" if machine.compiler else compiler),
        Fact("cores", str(machine.cores)),
        Fact("threads", str(machine.threads), _threads_advice(machine)),
        _free("memory", machine.memory, 4, "a full cache takes 2 GiB besides the training: free some, or --cache none"),
        _free("disk", machine.disk, 5, "a checkpoint takes up to 1 GiB, and its predecessor goes last: free 5 GiB"),
    ]


def ready(machine: Machine) -> bool:
    """Whether training can start: torch sees the GPU, if there is one, and exactly one wheel of DALI is installed."""
    return not _gpu_advice(machine) and len(machine.dali_wheels) == 1


def as_json(machine: Machine) -> dict[str, Any]:
    """The machine, the versions, and the advice by the name of its fact, as plain values."""
    advice = {fact.name: fact.advice for fact in facts(machine) if fact.advice}
    return {**asdict(machine), "versions": versions(), "advice": advice}


def multiplies_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 natively: GPUs from sm_80 on, CPUs with AVX512-BF16 or AMX."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def dali_cuda(wheel: str) -> str:
    """The major version of CUDA in a wheel's name: nvidia-dali-cuda120 → 12."""
    return wheel.removeprefix(DALI)[:-1]


def versions() -> dict[str, str]:
    """The versions of the packages that affect results and speed; DALI is listed by the wheels that are installed."""
    installed: dict[str, metadata.Distribution] = {}
    for package in metadata.distributions():
        installed.setdefault((package.metadata["Name"] or "").lower(), package)
    wheels = sorted(name for name in installed if name.startswith(DALI))
    return {name: installed[name].version if name in installed else "not installed" for name in (*PACKAGES, *wheels)}


def _gpu_advice(machine: Machine) -> str:
    if machine.gpus or not machine.driver:
        return ""
    fault = "sees no GPU" if machine.torch_cuda else "was built without CUDA"
    return (
        f"the driver {machine.driver} is installed, but torch {fault}: install a torch for a CUDA that the driver"
        " supports (nvidia-smi shows it), and check CUDA_VISIBLE_DEVICES"
    )


def _dali_advice(machine: Machine) -> str:
    wheels, of_torch = machine.dali_wheels, (machine.torch_cuda or "").partition(".")[0]
    if len(wheels) > 1:
        return f"only one wheel of DALI may be installed: pip uninstall {' '.join(wheels)}, then install one"
    if not wheels:
        return f"no wheel of DALI is installed: {how_to_install(machine.torch_cuda)}"
    [wheel], of_wheel = wheels, dali_cuda(wheels[0])
    if of_torch in ("", of_wheel):
        return ""
    return (
        f"{wheel} is for CUDA {of_wheel}, torch for CUDA {of_torch}: on a CPU this is fine; if decoding fails on a GPU,"
        f" pip uninstall {wheel} and install {DALI}{of_torch}0, or a torch for CUDA {of_wheel}"
    )


def _threads_advice(machine: Machine) -> str:
    threads, cores = machine.threads, machine.cores
    if threads > cores:
        return f"more than the {cores} cores: set OMP_NUM_THREADS={cores}"
    if threads < cores and not machine.gpus:
        return f"fewer than the {cores} cores: unset OMP_NUM_THREADS, or set it to {cores}"
    return ""


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return output[0] if output else None


def _cpp_compiler() -> str | None:
    from torch._inductor import cpp_builder, exc

    try:
        return cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return None


def _free(name: str, amount: int | None, least: int, advice: str) -> Fact:
    """`amount` bytes; the advice is given below `least` GiB."""
    return Fact(name, f"{_gib(amount)} free", advice if amount is not None and amount < least * GIB else "")


def _gib(amount: int | None) -> str:
    return "unknown" if amount is None else f"{amount / GIB:.0f} GiB"
