"""Which wheel of DALI fits torch, and what to do without one."""

from __future__ import annotations

from ..errors import InputError


def fitting_extra(torch_cuda: str | None) -> str:
    """The extra of this project whose wheel of DALI fits a torch that was built for the CUDA `torch_cuda`.

    On a CPU both wheels work. A torch without CUDA (None) gets cuda13, which is half as large.
    """
    return "cuda12" if torch_cuda and int(torch_cuda.partition(".")[0]) <= 12 else "cuda13"


def how_to_install(torch_cuda: str | None) -> str:
    """The advice for an environment without DALI."""
    extra = fitting_extra(torch_cuda)
    built = f"was built for CUDA {torch_cuda}" if torch_cuda else "was built without CUDA"
    return f'torch {built}, so install the extra {extra}: pip install ".[{extra}]" in the folder of this project'


def check_dali() -> None:
    """Raise InputError if DALI cannot be imported; a run calls this before it reads any data."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        import torch

        raise InputError(f"NVIDIA DALI cannot be imported ({error}); {how_to_install(torch.version.cuda)}") from None
