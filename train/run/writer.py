"""Saving beside the training: tensors are copied while the step waits, and written while the next steps run."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """Copies of nested values whose tensors go on changing, in host memory that is used again each time.

    Tensors of a GPU go to pinned memory, all at once, and the host waits for them one time.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}
        self._from_gpu = False

    def of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of `values`: its tensors are valid until the next call."""
        copied: dict[str, Any] = self._copy(values, "")
        if self._from_gpu:
            torch.cuda.synchronize()
        return copied

    def _copy(self, value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            return self._keep(name, value.detach())
        if isinstance(value, Mapping):
            return {key: self._copy(item, f"{name}/{key}") for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._copy(item, f"{name}/{i}") for i, item in enumerate(value))
        return value

    def _keep(self, name: str, tensor: Tensor) -> Tensor:
        kept = self._kept.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._kept[name] = kept
        self._from_gpu |= tensor.is_cuda
        return kept.copy_(tensor, non_blocking=True)


class Writer:
    """Runs jobs one after another on a thread; while one runs, one more may wait.

    What goes wrong there is raised by the next call of `start`, `wait` or `check`, and the jobs after it are left out.
    A context manager: no job outlives it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "checkpoint writer")
        self._jobs: deque[Future[None]] = deque()
        self._error: BaseException | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._pool.shutdown()
        if error is None:
            self.check()
        elif self._error and self._error is not error:  # neither is the other's cause: both are told
            print(f"error: {self._error}", file=sys.stderr)

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        while self._jobs and self._jobs[0].done():
            self._jobs.popleft()
        return bool(self._jobs)

    def start(self, job: Callable[[], None]) -> None:
        """Run `job` after the one that runs.  Waits while another one waits already."""
        self.wait(1)
        self._jobs.append(self._pool.submit(self._run, job))

    def wait(self, left: int = 0) -> None:
        """Wait until no more than `left` jobs run or wait."""
        while len(self._jobs) > left:
            self._jobs.popleft().result()
        self.check()

    def check(self) -> None:
        """Raise what a job raised, if one did."""
        if self._error:
            raise self._error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            if self._error is None:
                job()
        except BaseException as error:
            self._error = error
