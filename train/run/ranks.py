"""Where this process stands among those that torchrun started, and how they agree.

    torchrun --nproc-per-node 8 -m train --release DIR --out runs/one

Nothing else in this project asks for a rank: a process that was not started by torchrun is the only one of its world,
and every function here then returns what it was given.  Tensors on GPUs travel by NCCL, those on the CPU by gloo.
What torchrun does when a process or a node ends, and which recipe fits which cluster, stands in docs/distributed.md.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch._dynamo
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from dali_pipes.errors import InputError

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others at first: steps compile, and the index of a new release takes minutes."""

SETTLED = timedelta(minutes=10)
"""How long a rank waits for the others once an epoch is over: NCCL's own default, and enough for rank 0 to write a
checkpoint to a slow disk.

That a process died, torchrun sees within a second, and its peers by their closed connections; only a node that
vanishes without closing them is waited for so long."""

BEGUN = "begun"  # the mark of a job whose run folder is its own

HEAD_START = 1.0  # seconds in which the rank that tells its error may do so, before torchrun ends it, too

GONE = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "remote process exited")
"""Words of gloo and NCCL where the other end of a connection is gone or silent."""

Shared = TypeVar("Shared")


class LostRank(RuntimeError):
    """Another rank ended, and with it the connection to it; the message is a sentence for the user."""


@dataclass(frozen=True)
class Place:
    """This process's place, as torchrun's environment variables tell it."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """Alone, where torchrun did not start this process."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        return cls(*(int(environment.get(name, default)) for name, default in zip(names, "0101", strict=True)))

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone writes and draws."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """`--device` for this rank: its own GPU.  Raises InputError where one GPU was named for all."""
        if self.world_size == 1:
            return wanted
        if wanted.startswith("cuda:"):
            raise InputError(f"under torchrun each rank takes its own GPU: use --device cuda, found {wanted}")
        if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
            return f"cuda:{self.local_rank}"
        return wanted

    @property
    def threads(self) -> int:
        """Cores for this rank, so that the ranks of a node do not contend for them."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_world_size)


@contextmanager
def joined(place: Place, device: torch.device) -> Iterator[None]:
    """Be one of `place.world_size` ranks, with its share of the cores.

    After an error the group is left as it is: to dissolve it would wait for ranks that may be gone.
    """
    if place.world_size == 1:
        yield
        return
    torch.set_num_threads(place.threads)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    store, _, _ = next(rendezvous("env://", place.rank, place.world_size, timeout=TIMEOUT))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore(_generation(store, place), store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=TIMEOUT,
        device_id=device if on_gpu else None,
    )
    yield
    leave()


def settle() -> None:
    """Wait for others no longer than `SETTLED` from here on: all is indexed, compiled and cached."""
    if dist.is_initialized():
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # before torch 2.14
        set_timeout(SETTLED)


def leave() -> None:
    """End the group: from here on each rank is alone."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _generation(store: Store, place: Place) -> str:
    """A name that the ranks of this start share, and no earlier one.

    torchrun keeps one store over all restarts, and its restart count stays where a node joins or leaves: without a
    name of its own, a new group reads the addresses of processes that are dead, and waits for them.  Rank 0 answers
    each rank under the word that this very process chose, until all have heard it.
    """
    if not place.leads:
        word = uuid.uuid4().hex
        store.set(f"word of {place.rank}", word)
        generation = store.get(f"answer to {word}").decode()
        store.add(f"heard {generation}", 1)
        return generation
    generation = uuid.uuid4().hex
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while store.add(f"heard {generation}", 0) < place.world_size - 1:
        for rank in range(1, place.world_size):
            if store.check([f"word of {rank}"]):
                store.set(f"answer to {store.get(f'word of {rank}').decode()}", generation)
        if time.monotonic() > deadline:
            raise LostRank(f"waited {TIMEOUT} for {place.world_size - 1} other ranks, and not all of them came")
        time.sleep(0.02)
    return generation


def data_parallel(model: nn.Module, device: torch.device, *, compress: bool) -> nn.Module | None:
    """`model` with its gradients averaged over the ranks as they become ready, None where this rank is alone.

    `gradient_as_bucket_view` spares a copy of all gradients.  `static_graph` stays off: the graph has no unused
    parameters to search for anyway, and under it the first backward reduces nothing early.  Buffers are not
    broadcast: the network has none that training changes.  Blocks may be compiled before or after: `compile` of a
    module changes how it is called, not its parameters.  `compress`: sum in bf16, half the bytes.
    """
    if not dist.is_initialized():
        return None
    torch._dynamo.config.optimize_ddp = False  # blocks are compiled one by one: no graph needs cutting at the buckets
    network = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,
    )
    if compress:
        network.register_comm_hook(None, bf16_compress_hook)
    _settle_buckets(network, device)
    return network


def _settle_buckets(network: nn.Module, device: torch.device) -> None:
    """Let DDP see one backward pass, and forget it.

    It orders its buckets by the first one, and with their order changes the order in which three ranks or more are
    summed: a resumed run would begin in another order than it was left in, and end with other last bits.
    """
    network.eval()  # drops no paths, and so draws no random numbers
    mu, log_var = network(torch.zeros(1, 5, 32, 32, device=device), torch.zeros(1, 1, device=device))
    (mu.sum() + log_var.sum()).backward()
    network.zero_grad(set_to_none=True)
    network.train()


def shared(make: Callable[[], Shared]) -> Shared:
    """What rank 0 makes, on every rank: nothing is read or computed twice, and all go by the same."""
    if not dist.is_initialized():
        return make()
    made = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(made)
    return made[0]  # type: ignore[return-value]


def gather(mine: Shared) -> list[Shared]:
    """What each rank has, in the order of ranks."""
    if not dist.is_initialized():
        return [mine]
    found: list[Shared] = [mine] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


def mean(value: Tensor) -> float:
    """The mean over ranks of a 0-dim tensor, in float64.  Waits for the device."""
    here = value.detach().to("cpu", torch.float64)
    if dist.is_initialized():
        dist.all_reduce(here)
        here /= dist.get_world_size()
    return float(here)


@contextmanager
def first_on_each_node(place: Place) -> Iterator[None]:
    """Do what follows on one rank of each node, then on the others, which find on the disk what the first left there.

    Where the first raises, torchrun ends the others while they wait: one error is told once.
    """
    if place.local_rank:
        gather(None)
    yield
    if not place.local_rank:
        gather(None)


def begin() -> None:
    """Note that the run folder is this job's, for whom torchrun may start in the place of these ranks."""
    if folder := _folder_of_start():
        with suppress(OSError):  # then a new start is refused without --resume
            (folder.parent / BEGUN).touch()


def begun() -> bool:
    """Whether an earlier start of this very job came to `begin`, seen from any node that is still there.

    Not the same as torchrun's restart count: the first start may have been refused, and where a node joins or leaves,
    all start anew and the count stays.
    """
    folder = _folder_of_start()
    return any(gather(folder is not None and (folder.parent / BEGUN).exists()))


def _folder_of_start() -> Path | None:
    """Where torchrun keeps the errors of the ranks of this node and start; it lies in one that all starts share."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(file).parent.parent if file else None


class Agreement:
    """The largest wish of any rank, the same on all: `ask` at the end of a step, `reached` at the end of the next.

    In between the wish travels beside the training on the host, so that neither a step nor a device waits for it.
    """

    def __init__(self) -> None:
        self._wish: Tensor | int = 0
        self._work: dist.Work | None = None

    def ask(self, wish: int) -> None:
        """Say what this rank wishes."""
        self._wish = wish
        if dist.is_initialized():
            self._wish = torch.tensor(wish)
            self._work = dist.all_reduce(self._wish, dist.ReduceOp.MAX, async_op=True)

    def reached(self) -> int:
        """The largest of the wishes that were asked last; 0 before the first."""
        if self._work:
            self._work.wait()
        return int(self._wish)


@contextmanager
def one_voice(place: Place) -> Iterator[None]:
    """Let the first rank of a node that fails tell its error, and neither those that have it, too, nor those that it
    took along: they lose their connections when it ends, and so after it spoke."""
    try:
        yield
    except Exception as error:
        if place.world_size == 1:
            raise
        if not _is_first_to_tell():
            time.sleep(HEAD_START)
            raise SystemExit(2) from None
        if _is_of_connection(error):
            detail = str(error).strip().splitlines()[0][:120]
            raise LostRank(f"rank {place.rank} lost another rank, whose own error tells why ({detail})") from None
        raise


def _is_first_to_tell() -> bool:
    """Whether no rank of this node told an error since torchrun started them: each start has a folder for its ranks'
    errors, and the first one leaves its mark there.  Who was not started by torchrun tells its own."""
    try:
        if folder := _folder_of_start():
            (folder / "told").open("x").close()
    except FileExistsError:
        return False
    except OSError:  # better told twice than never
        pass
    return True


def _is_of_connection(error: Exception) -> bool:
    """Whether another rank or the store is gone, and not something of this rank's own, such as a failing GPU."""
    if isinstance(error, (dist.DistNetworkError, dist.DistStoreError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in GONE)
