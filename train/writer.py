"""Saving beside the training: tensors are copied while the step waits, and written while the next steps run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
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
    """Runs one job at a time on a thread; what goes wrong there is raised here, at the next `start` or `finish`.

    A context manager: no job outlives it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether the last job still runs."""
        return self._thread is not None and self._thread.is_alive()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._thread:
            self._thread.join()
        if kind is None:
            self.finish()

    def start(self, job: Callable[[], None]) -> None:
        """Wait for the last job, then run `job`.  Raises what the last one raised."""
        self.finish()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint writer")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last job.  Raises what it raised."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self._error = error
