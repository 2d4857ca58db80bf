"""The place of this process among the ranks, and how a node that fails prints one error.

Nothing here needs torch before a run starts, so that the command line is read within a second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dali_pipes.errors import InputError

ERROR_REPORTED = "error-reported"
"""Name of the file by which the first rank of a node that fails claims the right to print its error."""

HEAD_START = 1.0
"""Seconds that the other ranks wait, so that the first one prints its error before torchrun ends it."""

CONNECTION_ERRORS = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "remote process exited")
"""Phrases in the errors of gloo and NCCL when the other end of a connection has closed or does not answer."""


class LostRank(RuntimeError):
    """Another rank ended and closed its connections; the message is a sentence for the user."""


@dataclass(frozen=True)
class Place:
    """This process among the ranks, from torchrun's environment variables; the default is a single process."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """Read RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return cls()
        return cls(*(int(environment.get(name, default)) for name, default in zip(names, "0101", strict=True)))

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is rank 0, the only one that writes files and prints."""
        return self.rank == 0

    def device(self, wanted: str) -> str:
        """`--device` for this rank: its own GPU. Raises InputError if one GPU is named for all ranks."""
        if self.world_size == 1:
            return wanted
        if wanted.startswith("cuda:"):
            raise InputError(f"under torchrun each rank takes its own GPU: use --device cuda, found {wanted}")
        import torch

        if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
            return f"cuda:{self.local_rank}"
        return wanted

    @property
    def threads(self) -> int:
        """This rank's share of the cores of its node."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_world_size)


def start_folder() -> Path | None:
    """Where torchrun keeps the errors of this start's ranks on this node; its parent is shared by all starts."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(file).parent.parent if file else None


@contextmanager
def one_error_per_node(place: Place) -> Iterator[None]:
    """Let only the first rank of a node that fails print its error.

    The others either have the same error or lost the connection to the first one.
    """
    try:
        yield
    except Exception as error:
        if place.world_size == 1:
            raise
        if not _claim_error():
            time.sleep(HEAD_START)
            raise SystemExit(2) from None
        if _is_connection_error(error):
            detail = str(error).strip().splitlines()[0][:120]
            raise LostRank(f"rank {place.rank} lost another rank; see the error of that rank ({detail})") from None
        raise


def _claim_error() -> bool:
    """Whether this is the first rank of this node to fail in this start; True without torchrun."""
    try:
        if folder := start_folder():
            (folder / ERROR_REPORTED).open("x").close()
    except FileExistsError:
        return False
    except OSError:  # printing the error twice is better than not at all
        pass
    return True


def _is_connection_error(error: Exception) -> bool:
    """Whether another rank or the store is gone, rather than something local such as the GPU."""
    import torch.distributed as dist

    if isinstance(error, (dist.DistNetworkError, dist.DistStoreError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in CONNECTION_ERRORS)
