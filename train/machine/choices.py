"""What is chosen for this machine: device, precision, compilation and threads, each with its reason."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from dali_pipes.choice import Choice as Choice
from dali_pipes.errors import InputError

from .compilation import compiler_fault, keep_compiled
from .hardware import multiplies_bf16, versions


def choose_device(wanted: str) -> torch.device:
    """The torch device for "auto", "cpu", "cuda" or "cuda:N".  Raises InputError if it is not there."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise InputError(f"--device takes cpu, cuda, cuda:N or auto, found {wanted!r}")
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            raise InputError(f"--device {wanted} was asked for, but torch sees {found} CUDA devices; use --device cpu")
        return torch.device("cuda", device.index or 0)
    return device


def choose_precision(wanted: str, device: torch.device) -> Choice:
    """Resolve "auto" to what the hardware multiplies natively."""
    if wanted != "auto":
        return Choice(wanted, "as asked")
    kind = "GPU" if device.type == "cuda" else "CPU"
    if multiplies_bf16(device):
        return Choice("bf16", f"this {kind} multiplies it natively")
    return Choice("fp16" if kind == "GPU" else "fp32", f"this {kind} only emulates bf16")


def choose_compilation(wanted: str, device: torch.device, world_size: int = 1) -> Choice:
    """Resolve "auto", "on" or "off" to "off", "whole" or "regional": see train/machine/compilation.py.

    On GPUs it is on, on CPUs off: measured on two cores with AVX512-BF16, it gained nothing over eager bf16.
    """
    if wanted == "off":
        return Choice("off", "as asked")
    if device.type == "cpu" and wanted == "auto":
        return Choice("off", "on a CPU it was measured to gain nothing over eager bf16, and to start in a minute")
    kept = keep_compiled()
    fault = compiler_fault(device)
    if fault:
        return Choice("off", f"the step runs eager, since nothing can be compiled here ({fault}): install g++")
    where = f"; kept in {kept}" if kept else ""
    if world_size > 1:
        return Choice("regional", f"block by block, so that gradients travel during the backward{where}")
    if device.type == "cpu":
        return Choice("regional", f"as asked; block by block, which starts sooner than one whole graph{where}")
    return Choice("whole", f"forward and loss in one graph, which a GPU pays for within minutes{where}")


def choose_compile_mode(wanted: str, compilation: str) -> Choice:
    """torch.compile's mode.  CUDA graphs replay one step on one device: with DDP they have open faults."""
    if wanted == "max-autotune" and compilation == "regional":
        return Choice("max-autotune-no-cudagraphs", "CUDA graphs are only for a step that is compiled whole")
    return Choice(wanted, "as asked" if wanted != "default" else "starts soonest")


def choose_threads(wanted: int, cores: int, device: torch.device) -> int:
    """DALI's threads for a rank that has `cores`: as many beside a GPU, half beside a step that computes on them, too.

    On two cores, where one thread decodes four times what a step of convnext_atto takes, a second one only kept the
    step waiting: for 3.2 % of an epoch where it was 1.8 %, at batch 16 and 224².
    """
    return wanted or (cores if device.type == "cuda" else max(1, cores // 2))


def describe(device: torch.device) -> dict[str, str]:
    """What a reader of the figures must know: the hardware and the versions, by name."""
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
