"""CUDA 12 or 13: which versions of torch and DALI fit this machine.

A wheel of DALI is for one major version of CUDA, and so is a build of torch. PyPI's torch was built for CUDA 12 up to
2.10, and for CUDA 13 since 2.11. CUDA 13 needs NVIDIA's driver 580 or newer, and a GPU of compute capability 7.5 or
newer (CUDA 13.0 release notes).
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import NamedTuple

NEWEST = "13"
LEAST_DRIVER = 580
LEAST_CAPABILITY = 7.5


class Gpu(NamedTuple):
    """A GPU as nvidia-smi lists it."""

    name: str
    driver: str  # such as 580.82.07
    capability: str  # such as 9.0

    def fault(self) -> str:
        """Why this GPU cannot run CUDA 13; empty if it can."""
        if int(self.driver.partition(".")[0]) < LEAST_DRIVER:
            return f"the driver {self.driver} is older than {LEAST_DRIVER}, which CUDA 13 needs"
        if float(self.capability) < LEAST_CAPABILITY:
            return f"CUDA 13 does not support the {self.name} (compute capability {self.capability})"
        return ""


def choose(gpus: Sequence[Gpu], torch_cuda: str) -> tuple[str, str]:
    """(the major version of CUDA, the reason).

    `torch_cuda` is `torch.version.cuda` of the torch in the environment, or empty without one or for a CPU build.
    """
    faults = [fault for gpu in gpus if (fault := gpu.fault())]
    if faults:
        return "12", faults[0]
    if torch_cuda:
        return torch_cuda.partition(".")[0], f"the torch in the environment was built for CUDA {torch_cuda}"
    if gpus:
        return NEWEST, f"the driver {gpus[0].driver} and the {gpus[0].name} support it"
    return NEWEST, "nvidia-smi finds no GPU here, and without one the smaller download is enough"


def installed_gpus() -> list[Gpu]:
    """The GPUs that nvidia-smi lists; none if it is missing, fails or prints something else."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
        gpus = [Gpu(*(field.strip() for field in line.rsplit(",", 2))) for line in lines if line.strip()]
        for gpu in gpus:
            gpu.fault()
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return []
    return gpus
