"""Checkpoints in the background: tensors are copied while the step waits, and written during the next steps."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from dali_pipes.console import printable


class Snapshot:
    """Copies nested values into host memory, which is reused each time, because their tensors keep changing.

    Tensors on a GPU go to pinned memory, and the host waits for all of them once, on their own device: it need not be
    the current one.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._gpus: set[torch.device] = set()

    def of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of `values`. Its tensors are valid until the next call."""
        copied: dict[str, Any] = self._copy(values, "")
        for gpu in self._gpus:
            torch.cuda.synchronize(gpu)
        return copied

    def _copy(self, value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            return self._copy_tensor(name, value.detach())
        if isinstance(value, Mapping):
            return {key: self._copy(item, f"{name}/{key}") for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._copy(item, f"{name}/{i}") for i, item in enumerate(value))
        return value

    def _copy_tensor(self, name: str, tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[name] = buffer
        if tensor.is_cuda:
            self._gpus.add(tensor.device)
        return buffer.copy_(tensor, non_blocking=True)


class CheckpointWriter:
    """Runs jobs one after another on a thread; while one runs, one more may wait.

    An error in a job is raised by the next call of `start`, `wait` or `check`, and later jobs are skipped. A context
    manager: all jobs end before it exits.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "checkpoint writer")
        self._jobs: deque[Future[None]] = deque()
        self._error: BaseException | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._executor.shutdown()
        if error is None:
            self.check()
        elif self._error and self._error is not error:  # neither error caused the other, so the user sees both
            print(f"error: {printable(str(self._error))}", file=sys.stderr)

    @property
    def busy(self) -> bool:
        """Whether a job is running or waiting."""
        while self._jobs and self._jobs[0].done():
            self._jobs.popleft()
        return bool(self._jobs)

    def start(self, job: Callable[[], None]) -> None:
        """Run `job` after the running one. Blocks while another job is waiting."""
        self.wait(1)
        self._jobs.append(self._executor.submit(self._run, job))

    def wait(self, left: int = 0) -> None:
        """Block until at most `left` jobs are running or waiting."""
        while len(self._jobs) > left:
            self._jobs.popleft().result()
        self.check()

    def check(self) -> None:
        """Raise the error of a job that failed."""
        if self._error:
            raise self._error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            if self._error is None:
                job()
        except BaseException as error:
            self._error = error
