"""Nothing in an epoch makes the host wait: no copy of a cached or augmented batch, and no step of the loop.

The `meta` device shows the copies: it has no memory, but everything is copied to it as to a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dali_pipes import CacheOptions, Loader, SampleTable
from dali_pipes.batches.augment import Augmentation
from tests.test_step import Syncs
from tests.test_training import SMALL, Quiet
from train.engine.loop import Loop
from train.engine.run import train

META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Counts the copies from host to device, and lists those for which CUDA would make the host wait.

    Only a `non_blocking` copy from pinned memory does not wait.  Pinned memory is simulated here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.waiting: list[str] = []
        self._pinned: list[torch.Tensor] = []  # kept, so no other tensor gets their addresses

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        if name == "_pin_memory" or kwargs.pop("pin_memory", False):
            self._pinned.append(args[0].clone() if name == "_pin_memory" else func(*args, **kwargs))
            return self._pinned[-1]
        result = func(*args, **kwargs)
        source = {"_to_copy": 0, "copy_": 1}.get(name)
        if source is not None and args[source].device.type == "cpu" and result.device == META:
            self.count += 1
            asynchronous = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            if not asynchronous or args[source].data_ptr() not in {tensor.data_ptr() for tensor in self._pinned}:
                self.waiting.append(f"{func} of {tuple(result.shape)}")
        return result


@pytest.mark.parametrize("place", ["host", "device", "disk"])
def test_no_cached_or_augmented_batch_waits_for_a_copy(place: str, release: Path, tmp_path: Path) -> None:
    table = SampleTable.from_release(release)
    changes = Augmentation(hflip=0.5, vflip=0.5, rot90=0.5, brightness=0.2, contrast=0.2)
    loader = Loader(table, 32, device=META, shuffle=True, size=32, cache=CacheOptions(place, tmp_path))
    with Copies():  # fills the cache and draws the masks; streamed frames stay on the host, so they are not augmented
        list(loader)
        batches = iter(loader)
        next(batches)
    loader._augmentation = changes
    with Copies() as seen:
        batch = next(batches)
    assert {tensor.device for tensor in vars(batch).values()} == {META}
    assert seen.waiting == []
    assert seen.count == 4, "rows, tiles, orientations, brightness and contrast"


def test_the_counter_lists_the_copies_that_wait() -> None:
    host = torch.zeros(3)
    with Copies() as seen:
        host.to(META)
        host.to(META, non_blocking=True)  # from unpinned memory
        torch.empty(3, device=META).copy_(host)
        torch.tensor([1.0], device="cpu").to(META)
        host.pin_memory().to(META)
        host.pin_memory().to(META, non_blocking=True)
    assert (seen.count, len(seen.waiting)) == (6, 5)


def test_between_log_steps_no_step_of_the_loop_waits_for_the_device(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_epoch, seen, logged = Loop._train_epoch, [], []

    def guarded(loop: Loop) -> dict[str, Any]:
        with Syncs() as syncs:
            record = train_epoch(loop)
        seen.extend(syncs.found)
        assert len(loop.training.train_loader) > 2 * SMALL.runtime.log_every, "most steps must not log"
        raise KeyboardInterrupt(record)  # one epoch is enough

    class Counting(Quiet):
        def log_step(self, now: Any) -> None:
            logged.append(now.step)

    monkeypatch.setattr(Loop, "_train_epoch", guarded)
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, release, tmp_path / "run", resume=False, console=Counting())
    assert logged
    assert seen == ["aten._local_scalar_dense.default"] * (len(logged) + 1), "one per log line and epoch"
