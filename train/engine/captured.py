"""The step and the moving average as one CUDA graph, which the host starts by a single call.

    step = CapturedStep(step, average, CudaGraph())
    loss = step(batch, variance_weight, completed=17)

A graph repeats the same kernels on the same memory. So whatever changes from step to step lives in tensors that keep
their place: the batch, the weight of the variance, the learning rate, and the decay of the average. The first steps run
without a graph, on the stream of the capture; they compile, choose kernels and create the optimizer's state.

It needs one GPU, a whole batch at once and no loss scaler: see `graph_fault` in machine/choices.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Protocol

import torch
from torch import Tensor

from dali_pipes import Batch
from dali_pipes.errors import InputError, first_line, lacks_memory

from .average import MovingAverage
from .step import Step

WARM_UP = 3
"""Steps before the capture."""


class Graph(Protocol):
    """Records work once, and repeats it."""

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work without recording it."""

    def capture(self, work: Callable[[], Tensor]) -> Tensor:
        """Record the work without doing it; returns the tensor that holds the result after each replay."""

    def replay(self) -> None:
        """Do the recorded work."""


class CudaGraph:
    """A graph on the current GPU."""

    def __init__(self) -> None:
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """See `Graph`."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        result.record_stream(current)
        return result

    def capture(self, work: Callable[[], Tensor]) -> Tensor:
        """See `Graph`."""
        with torch.cuda.graph(self._graph, stream=self._stream):
            return work()

    def replay(self) -> None:
        """See `Graph`."""
        self._graph.replay()


class PlainCalls:
    """A graph that calls the work each time, on any device: for tests."""

    def __init__(self) -> None:
        self._work: Callable[[], Tensor] | None = None
        self._result = torch.zeros(())

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """See `Graph`."""
        return work()

    def capture(self, work: Callable[[], Tensor]) -> Tensor:
        """See `Graph`."""
        self._work = work
        return self._result

    def replay(self) -> None:
        """See `Graph`."""
        assert self._work is not None
        self._result.copy_(self._work())


class CapturedStep:
    """`step`, then the update of `average`, recorded in `graph` after `WARM_UP` steps.

    All batches must have the shapes of the first one. Between two calls the optimizer is as an eager step leaves it, so
    checkpoints are the same.
    """

    def __init__(self, step: Step, average: MovingAverage | None, graph: Graph) -> None:
        self._step, self._average, self._graph = step, average, graph
        device = step.forward.device
        (self._group,) = step.optimizer.param_groups
        self._learning_rate, self._decay, self._variance_weight = (torch.zeros((), device=device) for _ in range(3))
        self._batch: Batch | None = None
        self._loss: Tensor | None = None
        self._warm_ups = 0

    def __call__(self, batch: Batch, variance_weight: Tensor, completed: int) -> Tensor:
        """The mean loss of the batch, 0-dim on the device, valid until the next call. `completed`: steps with this.

        Raises InputError if the GPU or its driver refuses the capture.
        """
        if self._batch is None:
            self._batch = Batch(**{field.name: getattr(batch, field.name).clone() for field in fields(batch)})
        for field in fields(batch):
            getattr(self._batch, field.name).copy_(getattr(batch, field.name))
        self._variance_weight.copy_(variance_weight)
        self._learning_rate.fill_(self._group["lr"])
        if self._average:
            self._decay.fill_(self._average.get_decay(completed))
        if self._warm_ups < WARM_UP:
            self._warm_ups += 1
            return self._graph.warm_up(self._work)
        if self._loss is None:
            self._loss = self._capture()
        self._graph.replay()
        return self._loss

    def _capture(self) -> Tensor:
        try:
            return self._graph.capture(self._work)
        except RuntimeError as error:
            if lacks_memory(error):
                raise
            raise InputError(
                f"the step cannot be recorded as a CUDA graph here: {first_line(error)}; train again with"
                " --runtime.compile-mode default"
            ) from error

    def _work(self) -> Tensor:
        assert self._batch is not None
        with self._rate_as_tensor():
            loss = self._step(self._batch, self._variance_weight)
        if self._average:
            self._average.move(self._decay)
        return loss

    @contextmanager
    def _rate_as_tensor(self) -> Iterator[None]:
        """Let the optimizer read its learning rate from the device; it allows that only if it is `capturable`."""
        before = {name: self._group[name] for name in ("lr", "capturable")}
        self._group.update(lr=self._learning_rate, capturable=self._learning_rate.is_cuda)
        try:
            yield
        finally:
            self._group.update(before)
