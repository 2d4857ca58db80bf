"""The training step: a uint8 batch in, a loss out.

Layout, normalisation and autocast are part of it, so that they are compiled together with the network. Nothing in this
file synchronises with the device: the loss stays there as a tensor.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dali_pipes import Batch
from model import gaussian_nll, scene_nll

from ..machine.compilation import compile_blocks, compile_whole

MEAN = (0.485, 0.456, 0.406, 0.5, 0.5)  # ImageNet's for RGB, the reference's for the two masks
STD = (0.229, 0.224, 0.225, 0.5, 0.5)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class SceneTerm:
    """A term of the loss: `weight` times the mean of `scene_nll`, for batches in blocks of `group` samples.

    `scene`: (N,) int64 on the device, the scene's number of each row of the training table.
    """

    weight: float
    group: int
    scene: Tensor


class Forward:
    """Loss and predictions of `model` for batches of at most `batch_size` samples.

    `model` is saved and loaded. `network`, if given, is a wrapper of it (DDP) that a training step calls.
    `precision`: "bf16", "fp16" or "fp32", for the backbone. `compilation`: "off", "whole" (forward and loss as one
    graph) or "regional" (each block of the backbone, in place); parameter names stay the same. `mode`: that of
    torch.compile; "max-autotune" replays CUDA graphs. `beta`: see `gaussian_nll`. `scene_term`: added to
    the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        batch_size: int,
        precision: str,
        *,
        compilation: str = "off",
        mode: str = "default",
        network: nn.Module | None = None,
        beta: float = 0.0,
        scene_term: SceneTerm | None = None,
    ) -> None:
        self.model = model
        self.network = network or model
        self.device = device
        self.batch_size = batch_size
        self.compilation = compilation
        self._replays = mode == "max-autotune" and device.type == "cuda"
        self.beta, self.scene_term = beta, scene_term
        self.precision = precision
        self.dtype = DTYPES[precision]
        # (x / 255 - mean) / std as one multiplication and one addition
        self._scale = torch.tensor([1 / (255 * std) for std in STD], device=device)[:, None, None]
        shift = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]
        self._shift = torch.tensor(shift, device=device)[:, None, None]
        self._loss, self._predict = self._forward_loss, self._forward
        if compilation == "whole":
            self._loss = compile_whole(self._forward_loss, mode)
            self._predict = compile_whole(self._forward, mode)
        elif compilation == "regional":
            compile_blocks(model.get_submodule("backbone"), mode)

    def loss(self, batch: Batch, variance_weight: Tensor) -> Tensor:
        """Mean loss of a batch, 0-dim. `variance_weight`: 0-dim float, 0 during the variance warm-up, then 1."""
        self._begin()
        scene = self.scene_term.scene[batch.sample] if self.scene_term else None
        inputs = batch.rgb, batch.polyline, batch.padding, batch.length, batch.height
        return self._loss(*inputs, variance_weight, scene)

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`mu`, `log_var` of the normalised target, both (B,) float32 on the device."""
        inputs = [batch.rgb, batch.polyline, batch.padding, batch.length]
        missing = self.batch_size - len(batch)
        if self.compilation != "off" and missing:  # another batch size would compile another graph
            inputs = [torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) for x in inputs]
        self._begin()
        mu, log_var = self._predict(self.model, *inputs)
        return mu[: len(batch)].clone(), log_var[: len(batch)].clone()  # the next replay overwrites their memory

    def _begin(self) -> None:
        if self._replays:
            torch.compiler.cudagraph_mark_step_begin()

    def image(self, rgb: Tensor, polyline: Tensor, padding: Tensor) -> Tensor:
        """The normalised input of the network, (V·B, 5, S, S) float32, channels_last; shapes as in `five_channels`."""
        return torch.addcmul(self._shift, five_channels(rgb, polyline, padding).float(), self._scale)

    def _forward(
        self, network: nn.Module, rgb: Tensor, polyline: Tensor, padding: Tensor, length: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            mu, log_var = network(self.image(rgb, polyline, padding), length)
        return mu, log_var

    def _forward_loss(
        self,
        rgb: Tensor,
        polyline: Tensor,
        padding: Tensor,
        length: Tensor,
        height: Tensor,
        variance_weight: Tensor,
        scene: Tensor | None,
    ) -> Tensor:
        mu, log_var = self._forward(self.network, rgb, polyline, padding, length)
        loss = gaussian_nll(mu, log_var, height, variance_weight, self.beta).mean()
        if self.scene_term is None or scene is None:
            return loss
        pooled = scene_nll(mu, log_var, height, scene, self.scene_term.group, variance_weight, self.beta)
        return loss + self.scene_term.weight * pooled.mean()


def five_channels(rgb: Tensor, polyline: Tensor, padding: Tensor) -> Tensor:
    """(B, S, S, 3·V), (B, S, S, V), (B, S, S, V) uint8 → (V·B, 5, S, S), channels_last; view 1 of all samples first."""
    views = zip(rgb.split(3, dim=-1), polyline.split(1, dim=-1), padding.split(1, dim=-1), strict=True)
    frames = [torch.cat(view, dim=-1) for view in views]
    pixels = frames[0] if len(frames) == 1 else torch.cat(frames)
    return pixels.permute(0, 3, 1, 2)  # HWC is channels_last: a view of the same memory


class Step:
    """Forward, backward, gradient clipping and optimizer step, with a loss scaler for fp16.

    `accumulate`: number of equal parts for forward and backward, for batches that do not fit into memory.
    """

    def __init__(
        self, forward: Forward, optimizer: torch.optim.Optimizer, clip_norm: float, *, accumulate: int = 1
    ) -> None:
        self.forward = forward
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.accumulate = accumulate
        self._parameters = list(forward.model.parameters())  # listed once: it takes 0.7 ms for convnext_base
        self.scaler = torch.amp.GradScaler(forward.device.type, enabled=forward.dtype == torch.float16)

    def __call__(self, batch: Batch, variance_weight: Tensor) -> Tensor:
        """Update the parameters; returns the mean loss of the batch, 0-dim on the device, detached."""
        *earlier, last = batch.split(self.accumulate)
        with self._without_reduction():
            losses = [self._backward(part, variance_weight) for part in earlier]
        losses.append(self._backward(last, variance_weight))
        self.update()
        return torch.stack(losses).sum()

    def update(self) -> None:
        """Clip the gradients, update the parameters, and clear the gradients."""
        self.scaler.unscale_(self.optimizer)
        self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for parameter in self._parameters:  # as `zero_grad`, in half its host time
            parameter.grad = None

    @torch.no_grad()
    def _clip(self) -> None:
        """`nn.utils.clip_grad_norm_` to the bit, for gradients of one device and dtype, in about half its host time."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, torch.clamp(self.clip_norm / (norm + 1e-6), max=1.0))

    def _backward(self, part: Batch, variance_weight: Tensor) -> Tensor:
        """Add the gradients of one part; returns its share of the mean loss of the batch."""
        # The division makes a copy: the next replay of a CUDA graph overwrites what this one returned.
        loss = self.forward.loss(part, variance_weight) / self.accumulate
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _without_reduction(self) -> AbstractContextManager[None]:
        """Ranks reduce their gradients once per step, during the backward of the last part."""
        network = self.forward.network
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
