"""One flipped bit in each record of a checkpoint, each tile of a disk cache and each column of an index.

    python -m tests.chaos.corruption --rounds 2
    python -m tests.chaos.corruption --minutes 5

A run writes last.pt, best.pt, the index and the disk cache.  Then one bit is flipped, the file is read, and the bit is
restored.  Half of the rounds flip a bit anywhere else in a file, such as in a ZIP's directory.

- *refused*: the file is not used, and the error is of the declared kind.
- *harmless*: what was read equals the original.  A record must never be harmless.
- *silent*: anything else.  There must be none.

At the end each command gets a damaged best.pt or last.pt, and must end with one sentence and write nothing.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dali_pipes import SampleTable
from dali_pipes.batches.tile_file import CRC_BYTES, TileFile
from dali_pipes.command import parse
from dali_pipes.errors import InputError
from dali_pipes.release.find import open_split
from dali_pipes.release.members import Members
from dali_pipes.release.paths import ReleasePaths
from model import CheckpointError, checkpoint
from tests.chaos.commands import COMMANDS
from tests.chaos.runs import SIZE, Process, Run, workplace
from tests.stored_zip import records

ANYWHERE = "anywhere"
DISK = ("--epochs", "1", "--cache", "disk")


@dataclass(frozen=True)
class Arguments:
    """Flip bits, and count what is noticed."""

    rounds: int = 1
    """Flipped bits for each record, tile and column."""

    minutes: float = 0
    """Start further rounds until this time is over."""

    every: int = 1
    """Take only each n-th record of a checkpoint."""

    release: Path | None = None
    """A small rendered release. Default: a new one."""

    seed: int = 0
    """Seed of the bits."""


class Victim(NamedTuple):
    """A file, how it is read, and its records: (name, offset, bytes)."""

    path: Path
    read: Callable[[str], Any]
    """Name of the record → what is used of it. Raises InputError or CheckpointError."""
    records: list[tuple[str, int, int]]


def victims(run: Path, cache: Path, release: Path, every: int) -> Iterator[Victim]:
    """The files of a finished run, and of its cache."""
    for tiles in cache.glob("tiles-*.u8"):
        size = SIZE * SIZE * 3
        count = tiles.stat().st_size // (size + CRC_BYTES)
        spots = [(f"tile {tile}", tile * size, size) for tile in range(count)]
        spots += [(f"checksum {tile}", count * size + tile * CRC_BYTES, CRC_BYTES) for tile in range(count)]
        yield Victim(tiles, partial(_tile, tiles, count), spots[::every])
    for split in ("train", "validation"):
        (table,) = cache.glob(f"{split}-*.npz")
        key, images = table.stem.removeprefix(f"{split}-"), open_split(ReleasePaths(release), split)[0]
        yield Victim(table, partial(_table, table, images, key), records(table))
    for name in ("best.pt", "last.pt"):
        path = run / name
        yield Victim(path, partial(_load, path), records(path)[::every])


def _load(path: Path, _: str) -> Any:
    return checkpoint.load(path)


def _tile(path: Path, count: int, spot: str) -> Any:
    return TileFile(path, (count, SIZE, SIZE, 3)).read(np.array([int(spot.split()[1])]), torch.device("cpu"))


def _table(path: Path, images: Members, key: str, _: str) -> Any:
    return {name: value for name, value in vars(SampleTable.load(path, images, key)).items() if name != "images"}


def equal(one: Any, other: Any) -> bool:
    """Whether two contents of a file are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other) or one is other


def flip(victim: Victim, data: bytes, record: tuple[str, int, int], draw: random.Random) -> str:
    """Flip a bit of a record of the file with the bytes `data`; returns how that ended."""
    name, offset, size = record
    at = offset + draw.randrange(size)
    try:
        _put(victim.path, at, data[at] ^ 1 << draw.randrange(8))
        found = victim.read(name)
    except (InputError, CheckpointError):
        return "refused"
    except BaseException as error:
        return f"{victim.path.name}, {name}, byte {at}: {error!r} instead of one sentence"
    finally:
        if victim.path.exists():
            _put(victim.path, at, data[at])
        else:  # a damaged cache is deleted
            victim.path.write_bytes(data)
    if name == ANYWHERE and equal(found, victim.read(name)):
        return "harmless"
    return f"{victim.path.name}, {name}, byte {at}: silent"


def _put(path: Path, at: int, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([byte]))


def flip_all(victim: Victim, draw: random.Random, tally: Counter[str], faults: list[str]) -> None:
    """Flip a bit of each record, and as often one anywhere in the file."""
    data, kind = victim.path.read_bytes(), victim.path.name.split("-")[0]
    anywhere = [] if kind == "tiles" else [(ANYWHERE, 0, len(data))] * len(victim.records)
    for record in filter(itemgetter(2), [*victim.records, *anywhere]):
        how = flip(victim, data, record, draw)
        noticed = how in ("refused", "harmless")
        tally.update({"corruptions": 1, f"in {kind}": 1, how if noticed else "silent": 1})
        faults += [] if noticed else [how]
        print(f"\r{dict(tally)}", end="", file=sys.stderr, flush=True)


def commands_refuse(run: Path, release: Path, work: Path, tally: Counter[str], faults: list[str]) -> None:
    """Give each command a checkpoint with one flipped bit."""
    for name, command in COMMANDS.items():
        damaged, out = work / f"damaged for {name}", work / f"out of {name}"
        shutil.copytree(run, damaged)
        out.mkdir()
        for path in damaged.glob("*.pt"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.unlink()  # two names may be one file
            path.write_bytes(data)
        process = Process.start(command.main, command.arguments(damaged, release, out))
        status, stderr = process.status(), process.stderr().strip()
        tally["commands"] += 1
        if command.reads_checkpoint and (status != 2 or "is damaged" not in stderr or list(out.iterdir())):
            faults.append(f"{name}: status {status}, {stderr!r}, {[path.name for path in out.iterdir()]}")


def main(argv: list[str]) -> None:
    """Print the tally, then one JSON object; exits with 1 if a flipped bit was silent."""
    arguments = parse(Arguments, argv, module="tests.chaos.corruption", description=__doc__)
    end = time.monotonic() + 60 * arguments.minutes
    draw, tally, faults = random.Random(arguments.seed), Counter(corruptions=0, silent=0), list[str]()
    with workplace(arguments.release) as (work, release):
        run = Run.start(release, work / "run", *DISK, "--index-cache", str(work / "cache"))
        if any(run.statuses(600)):
            raise RuntimeError(run.stderr())
        rounds = 0
        while rounds < arguments.rounds or time.monotonic() < end:
            for victim in victims(work / "run", work / "cache", release, arguments.every):
                flip_all(victim, draw, tally, faults)
            rounds += 1
        commands_refuse(work / "run", release, work, tally, faults)
    print(json.dumps({**tally, "faults": faults}))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
