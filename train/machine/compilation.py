"""Compile the forward pass and the loss whole, or each block of the backbone.

"whole" is one graph without a break, for one device. "regional" compiles blocks: those of the same width share one
graph, so a network of 12 or 36 blocks needs four. It starts faster, and under DDP a gradient is reduced while the
backward pass of the next block runs. One whole graph returns all gradients at its end.

    graphs     whole   regional
    training     1        4      (one per stage)
    predicting   1        4

More graphs than these are a bug, and a test counts them: each new shape, layout, dtype or Python number that reaches
the compiler adds a graph. Compiled code is cached in a folder, where the next run finds it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

RECOMPILE_LIMIT = 64  # one network in training and evaluation uses up the default of 8; a second one would fail
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def set_compiler_cache() -> Path | None:
    """Set the compiler's cache to a folder in the user's cache, unless the user set one, and return it.

    torch's default is a temporary folder, which a reboot removes. None if no folder can be made.
    """
    if CACHE not in os.environ:
        folder = _user_cache() / "inductor"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
        os.environ[CACHE] = str(folder)
    return Path(os.environ[CACHE])


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chimney-height"


def compiler_fault(device: torch.device) -> str | None:
    """Why nothing can be compiled for `device`, or None. It is tested by compiling one addition.

    With an empty cache this takes time, which is not lost: the step needs the same precompiled headers.
    """
    from torch._inductor import cpp_builder

    try:
        if device.type == "cpu":
            cpp_builder.get_cpp_compiler()  # with a warm cache the addition does not need it
        torch.compile(_one_more, fullgraph=True)(torch.zeros(64, device=device))
    except Exception as error:  # InvalidCxxCompiler is wrapped in InductorError, and Triton has its own errors
        return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return None


def _one_more(x: Tensor) -> Tensor:
    return x + 1


class StochasticDepth(nn.Module):
    """timm's DropPath with its probability in a tensor: a Python float would add a graph for each block.

    The buffer is not persistent, so that the state dict keeps the reference's names.
    """

    keep: Tensor

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.register_buffer("keep", torch.tensor(1 - drop_prob), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Set each sample of (B, C, H, W) to zero with the drop probability, and scale the others to keep the mean."""
        if not self.training:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) < self.keep
        return x * (kept / self.keep).to(x.dtype)


def compile_whole(function: Any, mode: str = "default") -> Any:
    """`function` as one graph without a break, for one shape of each argument. `mode`: that of torch.compile."""
    return torch.compile(function, fullgraph=True, dynamic=False, mode=None if mode == "default" else mode)


def compile_blocks(backbone: nn.Module, mode: str = "default") -> None:
    """Compile each block of a timm ConvNeXt in place; the names of its parameters do not change."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    device = next(backbone.parameters()).device
    drops_paths = any(isinstance(module, DropPath) for module in backbone.modules())
    for stage in backbone.get_submodule("stages").children():
        # Under autocast a stage's first block gets bf16 from a convolution, and its other blocks get fp32 from the
        # residual sum. Without the hook these would be two graphs for the same numbers.
        stage.get_submodule("downsample").register_forward_hook(_as_float32)
        for block in stage.get_submodule("blocks").children():
            if drops_paths:  # also in the first block, whose path is never dropped: another module would add a graph
                block.drop_path = StochasticDepth(getattr(block.drop_path, "drop_prob", 0.0)).to(device)
            block.compile(fullgraph=True, dynamic=False, mode=None if mode == "default" else mode)


def _as_float32(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.float()
