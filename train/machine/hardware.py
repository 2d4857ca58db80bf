"""What a machine has for training, and what to change on it: facts are looked up, advice is a pure function of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dali_pipes.capacity import free_memory

PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless")
DALI = "nvidia-dali-cuda"  # its wheels: nvidia-dali-cuda120, nvidia-dali-cuda130
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What was found; None is what could not be found out."""

    gpus: tuple[str, ...]
    """The names of the CUDA devices that torch sees."""
    gpu_memory: int | None
    """Bytes of the first of them."""
    driver: str | None
    """Version of NVIDIA's driver: a GPU may be there that torch does not see."""
    torch_cuda: str | None
    """CUDA that torch was built for, such as 13.0; None for a build without."""
    dali_wheels: tuple[str, ...]
    """DALI's wheels that are installed, such as nvidia-dali-cuda120: one, or importing it is a matter of luck."""
    bf16: bool
    """Whether the device that trains multiplies bf16 natively."""
    tf32: bool
    """Whether that device has TF32."""
    compiler: str | None
    """The C++ compiler that torch.compile would use."""
    cores: int
    """Those that this process may use."""
    threads: int
    """torch's, for one operator."""
    memory: int | None
    """Bytes of host memory that can be had without swapping."""
    disk: int | None
    """Free bytes of the disk of the working folder."""


def look() -> Machine:
    """Look at this machine."""
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    newest = torch.cuda.get_device_capability(0) if seen else (0, 0)
    return Machine(
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(seen)),
        gpu_memory=torch.cuda.get_device_properties(0).total_memory if seen else None,
        driver=_driver(),
        torch_cuda=torch.version.cuda,
        dali_wheels=dali_wheels(),
        bf16=multiplies_bf16(torch.device("cuda" if seen else "cpu")),
        tf32=newest >= (8, 0),
        compiler=cpp_compiler(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        memory=free_memory(),
        disk=shutil.disk_usage(Path.cwd()).free,
    )


def advice(machine: Machine) -> dict[str, str]:
    """What to change, in a sentence by the fact that it is about; nothing where all is well."""
    told: dict[str, str] = {}
    wheels = machine.dali_wheels
    if machine.driver and not machine.gpus:
        sees = "sees no GPU" if machine.torch_cuda else "was built without CUDA"
        told["GPU"] = (
            f"the driver {machine.driver} is there, but torch {sees}:"
            " install a torch of a CUDA that the driver knows (nvidia-smi names it), and look at CUDA_VISIBLE_DEVICES"
        )
    if len(wheels) > 1:
        told["DALI"] = f"only one of DALI's wheels may be there: pip uninstall {' '.join(wheels)}, then install one"
    elif not wheels:
        told["DALI"] = "no wheel of DALI is there: pip install nvidia-dali-cuda120"
    elif machine.torch_cuda and dali_cuda(wheels[0]) != machine.torch_cuda.partition(".")[0]:
        ours, theirs = dali_cuda(wheels[0]), machine.torch_cuda.partition(".")[0]
        told["DALI"] = (
            f"{wheels[0]} is for CUDA {ours} and torch for CUDA {theirs}: on a CPU that is fine; before a run on a GPU"
            f" pip uninstall {wheels[0]} and install {DALI}{theirs}0, or a torch for CUDA {ours}"
        )
    if not machine.bf16:
        told["bf16"] = (
            "this GPU only emulates bf16: fp16 with a loss scaler is used"
            if machine.gpus
            else "this CPU only emulates bf16: fp32 is used, at half the speed or less"
        )
    if not machine.compiler:
        told["C++ compiler"] = "torch.compile needs one, on a GPU for its launchers, too: install g++"
    if machine.threads > machine.cores:
        told["threads"] = f"more than the {machine.cores} cores: set OMP_NUM_THREADS={machine.cores}"
    elif machine.threads < machine.cores and not machine.gpus:
        told["threads"] = f"fewer than the {machine.cores} cores: unset OMP_NUM_THREADS, or set it to {machine.cores}"
    if machine.memory is not None and machine.memory < 4 * GIB:
        told["memory"] = "a full cache of the release takes 2 GiB beside the training's own: free some, or --cache none"
    if machine.disk is not None and machine.disk < 5 * GIB:
        told["disk"] = "a run writes checkpoints of up to 1 GiB each, and a new one before the old one goes: free 5 GiB"
    return told


def blocks(machine: Machine) -> bool:
    """Whether the GPU that is there cannot be used as it is, or DALI cannot: all other advice is about speed."""
    found = advice(machine)
    return "GPU" in found or ("DALI" in found and bool(machine.gpus or len(machine.dali_wheels) != 1))


def as_rows(machine: Machine) -> dict[str, str]:
    """Each fact in words, by its name."""
    cuda, wheels = machine.torch_cuda, machine.dali_wheels
    return {
        "GPU": ", ".join(machine.gpus) or "none",
        "GPU memory": _gib(machine.gpu_memory) if machine.gpus else "–",
        "driver": machine.driver or "none",
        "CUDA of torch": cuda or "none",
        "DALI": ", ".join(f"{wheel} {version(wheel)} (CUDA {dali_cuda(wheel)})" for wheel in wheels) or "not installed",
        "bf16": "native" if machine.bf16 else "emulated",
        "TF32": "yes" if machine.tf32 else "no",
        "C++ compiler": machine.compiler or "none",
        "cores": str(machine.cores),
        "threads": str(machine.threads),
        "memory": f"{_gib(machine.memory)} free",
        "disk": f"{_gib(machine.disk)} free",
    }


def as_json(machine: Machine) -> dict[str, Any]:
    """Facts and advice as plain values."""
    return {**asdict(machine), "versions": versions(), "advice": advice(machine)}


def multiplies_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 natively: GPUs from sm_80 on, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def dali_cuda(wheel: str) -> str:
    """The major version of CUDA in a wheel's name: nvidia-dali-cuda120 → 12."""
    return wheel.removeprefix(DALI)[:-1]


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile would use, None if there is none."""
    from torch._inductor import cpp_builder, exc

    try:
        return cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return None


def version(package: str) -> str:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """The versions of the packages that figures depend on, DALI's under the name of the wheel that is there."""
    return {name: version(name) for name in (*PACKAGES, *dali_wheels())}


def dali_wheels() -> tuple[str, ...]:
    """The names of DALI's wheels that are installed, one for each CUDA."""
    names = {(found.metadata["Name"] or "").lower() for found in metadata.distributions()}
    return tuple(sorted(name for name in names if name.startswith(DALI)))


def _driver() -> str | None:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0] if said else None


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / GIB:.0f} GiB"
