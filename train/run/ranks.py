"""Ranks: which one this process is, and how the ranks of a run share values and agree.

    torchrun --nproc-per-node 8 -m train --release DIR --out runs/one

In a process that torchrun did not start, the world size is 1 and every function here returns its own argument.
Tensors on GPUs travel by NCCL, those on the CPU by gloo. docs/distributed.md describes restarts and cluster recipes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from inspect import signature
from typing import Any, TypeVar

import torch
import torch._dynamo
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from .place import LostRank as LostRank
from .place import Place as Place
from .place import one_error_per_node as one_error_per_node
from .place import start_folder

START_TIMEOUT = timedelta(minutes=30)  # for the other ranks: compiling, or indexing a new release, takes minutes
# After the first epoch: NCCL's default, and enough for rank 0 to write a checkpoint to a slow disk. It only matters
# for a node that vanishes without closing its connections: torchrun and the others notice a dead rank in a second.
EPOCH_TIMEOUT = timedelta(minutes=10)
STARTED = "started"  # the file by which a job marks that it owns its run folder

Value = TypeVar("Value")


# --- The process group.


@contextmanager
def process_group(place: Place, device: torch.device) -> Iterator[None]:
    """Join the process group, and use only this rank's share of the cores.

    After an error the group is not destroyed, because that waits for ranks that may be gone.
    """
    if place.world_size == 1:
        yield
        return
    torch.set_num_threads(place.threads)
    on_gpu = device.type == "cuda"
    store, _, _ = next(rendezvous("env://", place.rank, place.world_size, timeout=START_TIMEOUT))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore(_start_id(store, place), store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=START_TIMEOUT,
        device_id=device if on_gpu else None,
    )
    yield
    leave_group()


def shorten_timeout() -> None:
    """From now on wait for other ranks for at most `EPOCH_TIMEOUT`."""
    if dist.is_initialized():
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # before torch 2.14
        set_timeout(EPOCH_TIMEOUT)


def leave_group() -> None:
    """Destroy the process group; collectives after this involve only this rank."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _start_id(store: Store, place: Place) -> str:
    """A random id: the same on all ranks of this start, and different from earlier starts.

    torchrun keeps one store over all restarts, and its restart count does not change when a node joins or leaves.
    Without an id of its own, a new group would read the addresses of dead processes and wait for them. Each process
    stores a random token, and rank 0 answers each token with the id until all ranks have confirmed it.
    """
    if not place.is_rank_zero:
        token = uuid.uuid4().hex
        store.set(f"token of {place.rank}", token)
        start_id = store.get(f"answer to {token}").decode()
        store.add(f"confirmed {start_id}", 1)
        return start_id
    start_id = uuid.uuid4().hex
    deadline = time.monotonic() + START_TIMEOUT.total_seconds()
    while store.add(f"confirmed {start_id}", 0) < place.world_size - 1:
        for rank in range(1, place.world_size):
            if store.check([f"token of {rank}"]):
                store.set(f"answer to {store.get(f'token of {rank}').decode()}", start_id)
        if time.monotonic() > deadline:
            raise LostRank(f"waited {START_TIMEOUT} for {place.world_size - 1} other ranks, but not all of them came")
        time.sleep(0.02)
    return start_id


def data_parallel(model: nn.Module, device: torch.device, *, compress: bool) -> nn.Module | None:
    """Wrap `model` in DDP, which averages gradients over the ranks during the backward; None for a single process.

    `compress`: reduce in bf16, which halves the bytes. `gradient_as_bucket_view` saves a copy of all gradients.
    `static_graph` stays off: no parameter is unused, and with it the first backward overlaps nothing. Buffers are not
    broadcast, because training changes none. Blocks may be compiled before or after this call.
    """
    if not dist.is_initialized():
        return None
    torch._dynamo.config.optimize_ddp = False  # blocks are compiled one by one, so no graph spans two buckets
    # torch 2.12 renamed the flag of the broadcast in each forward pass
    names = signature(DistributedDataParallel).parameters
    broadcast = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    no_broadcast: dict[str, Any] = {broadcast: False}
    network = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **no_broadcast,
    )
    if compress:
        network.register_comm_hook(None, bf16_compress_hook)
    _fix_bucket_order(network, device)
    return network


def _fix_bucket_order(network: nn.Module, device: torch.device) -> None:
    """Run one backward pass and discard its gradients.

    DDP orders its buckets by the first backward. With three or more ranks the bucket order changes the order of
    summation, so a resumed run would differ in the last bits from one that was not interrupted.
    """
    network.eval()  # no drop path, so no random numbers are drawn
    mu, log_var = network(torch.zeros(1, 5, 32, 32, device=device), torch.zeros(1, 1, device=device))
    (mu.sum() + log_var.sum()).backward()
    network.zero_grad(set_to_none=True)
    network.train()


# --- Shared values.


def from_rank_zero(make: Callable[[], Value]) -> Value:
    """Call `make` on rank 0 only, and return its result on every rank."""
    if not dist.is_initialized():
        return make()
    made = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(made)
    return made[0]  # type: ignore[return-value]


def all_gather(value: Value) -> list[Value]:
    """The values of all ranks, in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Value] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until all ranks get here."""
    all_gather(None)


def mean_over_ranks(value: Tensor) -> float:
    """The mean over ranks of a 0-dim tensor, in float64. Synchronises the device."""
    here = value.detach().to("cpu", torch.float64)
    if dist.is_initialized():
        dist.all_reduce(here)
        here /= dist.get_world_size()
    return float(here)


@contextmanager
def local_rank_zero_first(place: Place) -> Iterator[None]:
    """Run the block on one rank of each node, then on the others, which find on disk what the first one wrote.

    If the first one raises, torchrun ends the others while they wait, so its error is printed once.
    """
    if place.local_rank:
        barrier()
    yield
    if not place.local_rank:
        barrier()


class Agreement:
    """Maximum over ranks with one step of delay: `request` at the end of a step, `result` at the end of the next.

    The reduction runs on the host during the step, so that neither the step nor the device waits for it.
    """

    def __init__(self) -> None:
        self._request: Tensor | int = 0
        self._work: dist.Work | None = None

    def request(self, value: int) -> None:
        """Submit this rank's value."""
        self._request = value
        if dist.is_initialized():
            self._request = torch.tensor(value)
            self._work = dist.all_reduce(self._request, dist.ReduceOp.MAX, async_op=True)

    def result(self) -> int:
        """The maximum of the values of the last `request`, the same on all ranks; 0 before the first."""
        if self._work:
            self._work.wait()
        return int(self._request)


# --- Restarts by torchrun.


def mark_started() -> None:
    """Mark that this job owns its run folder, so that a restart by torchrun resumes without --resume."""
    if folder := start_folder():
        with suppress(OSError):  # without the mark a restart needs --resume
            (folder.parent / STARTED).touch()


def is_restart() -> bool:
    """Whether an earlier start of this job called `mark_started`, on any node that is still present.

    torchrun's restart count does not answer this: the first start may have been refused, and the count does not
    change when a node joins or leaves.
    """
    folder = start_folder()
    return any(all_gather(folder is not None and (folder.parent / STARTED).exists()))
