"""The choices for this machine: device, precision, compilation and threads, each with its reason."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from dali_pipes.choice import Choice as Choice
from dali_pipes.errors import InputError

from .compilation import compiler_fault, set_compiler_cache
from .hardware import multiplies_bf16, versions


def choose_device(wanted: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N"; a GPU becomes torch's current device.

    Raises InputError if it does not exist here.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise InputError(f"--device takes cpu, cuda, cuda:N or auto, found {wanted!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InputError(f"expected {wanted} to exist, but torch sees {count} CUDA devices; use --device cpu")
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device


def choose_precision(wanted: str, device: torch.device) -> Choice:
    """Resolve "auto" to the precision that `device` multiplies natively."""
    if wanted != "auto":
        return Choice(wanted, "as requested")
    kind = "GPU" if device.type == "cuda" else "CPU"
    if multiplies_bf16(device):
        return Choice("bf16", f"this {kind} multiplies it natively")
    return Choice("fp16" if kind == "GPU" else "fp32", f"this {kind} only emulates bf16")


def choose_compilation(wanted: str, device: torch.device, world_size: int = 1) -> Choice:
    """Resolve "auto", "on" or "off" to "off", "whole" or "regional"; compilation.py explains these.

    "auto" compiles on a GPU only. On two cores with AVX512-BF16 a compiled step was not faster than eager bf16.
    """
    if wanted == "off":
        return Choice("off", "as requested")
    if device.type == "cpu" and wanted == "auto":
        return Choice("off", "on a CPU compiling is not faster and adds a minute")
    cache = set_compiler_cache()
    fault = compiler_fault(device)
    if fault:
        return Choice("off", f"the step runs eagerly, because nothing can be compiled here ({fault}): install g++")
    where = f"; cached in {cache}" if cache else ""
    if world_size > 1:
        return Choice("regional", f"block by block, so that gradients are reduced during the backward pass{where}")
    if device.type == "cpu":
        return Choice("regional", f"as requested; block by block, which starts faster than one whole graph{where}")
    return Choice("whole", f"forward and loss in one graph, which pays off on a GPU within minutes{where}")


def choose_compile_mode(wanted: str, compilation: str, graph_fault: str = "") -> Choice:
    """The mode of torch.compile, or "cudagraph"; `graph_fault` is why the step cannot be one CUDA graph, if it cannot.

    Raises InputError if "cudagraph" is requested and impossible. With DDP the CUDA graphs of torch.compile have open
    bugs, too.
    """
    if wanted == "cudagraph" and graph_fault:
        raise InputError(f"--runtime.compile-mode cudagraph needs {graph_fault}; use the mode default")
    if wanted == "auto":
        if graph_fault:
            return Choice("default", "starts fastest")
        return Choice("cudagraph", "the host starts the whole step by a single call")
    if wanted == "max-autotune" and compilation == "regional":
        return Choice("max-autotune-no-cudagraphs", "CUDA graphs need a step that is compiled whole")
    return Choice(wanted, "as requested")


def graph_fault(device: torch.device, precision: str, world_size: int, accumulate: int) -> str:
    """Why a step cannot be one CUDA graph: what it needs, and what was found. Empty if it can."""
    for needed, is_met, found in (
        ("a CUDA device", device.type == "cuda", str(device)),
        ("a single process", world_size == 1, f"{world_size} ranks"),
        ("--accumulate 1", accumulate == 1, str(accumulate)),
        ("bf16 or fp32, because fp16's loss scaler decides on the host", precision != "fp16", precision),
    ):
        if not is_met:
            return f"{needed}, found {found}"
    return ""


def choose_threads(wanted: int, cores: int, device: torch.device) -> int:
    """DALI's threads for a rank with `cores` cores: all of them with a GPU, half of them if the step runs on the CPU.

    Measured on two cores with convnext_atto, batch 16 and 224²: one thread decodes four times as fast as the step
    needs. With a second thread the step waited for 3.2 % of an epoch instead of 1.8 %.
    """
    return wanted or (cores if device.type == "cuda" else max(1, cores // 2))


def describe(device: torch.device) -> dict[str, str]:
    """The hardware and the versions that measured figures depend on, by name."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none used"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "torch threads": str(torch.get_num_threads()),
        "GPU": gpu,
        **versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
