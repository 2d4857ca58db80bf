"""What torch.compile compiles: forward and loss whole, or each block of the backbone.

Whole is one graph without a break, for one device.  Regional is the same few graphs for all blocks: a block of the
same width is the same code, so that a network of 12 or 36 blocks costs four graphs.  It starts sooner, and under DDP
a gradient can travel while the backward of the next block computes; one whole graph gives all gradients at its end.

    graphs     whole   regional
    training     1        4      (one a stage)
    predicting   1        4

More graphs than that are a mistake, which a test would show: each distinct shape, layout, dtype or Python number
that reaches the compiler costs another one.  What was compiled is kept in a folder and found again by the next run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

RECOMPILE_LIMIT = 64  # the default of 8 is met by one network in training and evaluation; a second one would fail


CACHE = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled() -> Path | None:
    """Let the compiler keep its work in the user's cache folder, which outlives a reboot as torch's own default, a
    temporary folder, does not.  A folder that the user named stays.  None where no folder can be written."""
    if CACHE not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(caches) / "chimney-height" / "inductor"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
        os.environ[CACHE] = str(folder)
    return Path(os.environ[CACHE])


def compiler_fault(device: torch.device) -> str | None:
    """Why nothing can be compiled for `device`, or None: found by compiling one addition.

    Its price, with an empty cache, is no loss: the step needs the same precompiled headers.
    """
    from torch._inductor import cpp_builder

    try:
        if device.type == "cpu":
            cpp_builder.get_cpp_compiler()  # with a warm cache the addition would not ask for it
        torch.compile(_one_more, fullgraph=True)(torch.zeros(64, device=device))
    except Exception as error:  # InvalidCxxCompiler comes inside InductorError, Triton has its own
        return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return None


def _one_more(x: Tensor) -> Tensor:
    return x + 1


class StochasticDepth(nn.Module):
    """timm's DropPath with its probability in a tensor: a Python float would be another graph in each block.

    The buffer is not persistent, so that the state dict keeps the reference's names.
    """

    keep: Tensor

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.register_buffer("keep", torch.tensor(1 - drop_prob), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Zero each sample of (B, C, H, W) with the drop probability, and scale the others to keep the mean."""
        if not self.training:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) < self.keep
        return x * (kept / self.keep).to(x.dtype)


def compile_whole(function: Any, mode: str = "default") -> Any:
    """`function` as one graph without a break, for one shape of each argument.  `mode`: torch.compile's."""
    return torch.compile(function, fullgraph=True, dynamic=False, mode=None if mode == "default" else mode)


def compile_blocks(backbone: nn.Module, mode: str = "default") -> None:
    """Compile each block of a timm ConvNeXt in place; the names of its parameters stay what they were."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    device = next(backbone.parameters()).device
    drops_paths = any(isinstance(module, DropPath) for module in backbone.modules())
    for stage in backbone.get_submodule("stages").children():
        # Under autocast a stage's first block gets bf16 from a convolution, its other blocks get the fp32 of the
        # residual sum: a graph each, for the same numbers.
        stage.get_submodule("downsample").register_forward_hook(_as_float32)
        for block in stage.get_submodule("blocks").children():
            if drops_paths:  # the first block's path is never dropped; as another module it would be another graph
                block.drop_path = StochasticDepth(getattr(block.drop_path, "drop_prob", 0.0)).to(device)
            block.compile(fullgraph=True, dynamic=False, mode=None if mode == "default" else mode)


def _as_float32(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.float()
