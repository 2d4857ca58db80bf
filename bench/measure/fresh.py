"""Cold-start measurements: the seconds to a first batch, and the memory that streaming takes.

Both need a new process. `first_batch` starts Python and waits for the batch, imports included. `resident` streams from
a table with repeated rows. Only private memory counts (RssAnon): the system can reclaim mapped pages of an archive.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bench.measure.data import repeated
from dali_pipes import SampleTable

THIS_CODE = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}  # even if another copy is installed

_FIRST_BATCH = """
import sys
from pathlib import Path
from dali_pipes import Loader
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.index import open_index
release, cache, device, batch_size = sys.argv[1:]
table = open_index(ReleasePaths(Path(release), index_cache=Path(cache)), "train").table
batch = next(iter(Loader(table, int(batch_size), device=device, shuffle=True)))
print(len(batch.sample.cpu()), flush=True)
"""

Result = TypeVar("Result")


def in_new_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)` in a new Python process, so that memory used before does not count."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def memory_of(entry: str) -> int:
    """Bytes in an entry of /proc/self/status: RssAnon is private memory now, VmHWM the peak of all memory.

    The peak of getrusage would include the memory of the parent process.
    """
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index(f"{entry}:") + 1]) * 1024


# --- The first batch.


def first_batch(release: Path, cache: Path, device: str, batch_size: int) -> float:
    """Seconds from the start of a process to its first batch of `release`; `cache` is the folder of the index."""
    command = [sys.executable, "-c", _FIRST_BATCH, str(release), str(cache), device, str(batch_size)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=THIS_CODE) as process:
        assert process.stdout
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
    if process.returncode or line.strip() != str(batch_size):
        raise RuntimeError(f"no first batch came from {release}")
    return seconds


# --- Memory.


def resident(
    release: Path,
    device: str,
    batch_size: int,
    batches: int,
    times: int,
) -> dict[str, int]:
    """Memory of streaming `batches` from a table that repeats the rows of `release` `times` times.

    Returns:
        "rows" of the table; "table", its private memory in bytes; "bytes", the private memory of streaming after the
        last batch; "bytes_halfway", the same after half of the batches.
    """
    return in_new_process(_stream, release, device, batch_size, batches, times)


def _stream(release: Path, device: str, batch_size: int, batches: int, times: int) -> dict[str, int]:
    from dali_pipes import Loader

    table = SampleTable.from_release(release)
    before = _private()
    table = repeated(table, times * len(table))
    built = _private()
    loader = Loader(table, batch_size, device=device, shuffle=True)
    steps, halfway = (batch for _ in iter(int, 1) for batch in loader), 0
    for i, batch in zip(range(batches), steps, strict=False):
        del batch
        if i == batches // 2:
            halfway = _private() - built
    streaming = _private() - built
    return {"rows": len(table), "table": built - before, "bytes": streaming, "bytes_halfway": halfway}


def _private() -> int:
    """Private memory now, without what the allocator keeps of freed arrays, which differs by 25 MB from run to run."""
    ctypes.CDLL(None).malloc_trim(0)
    return memory_of("RssAnon")
