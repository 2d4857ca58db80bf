"""Free memory on simulated machines and containers; folders that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dali_pipes.batches.tile_cache
from dali_pipes.batches.tile_cache import choose_cache
from dali_pipes.capacity import free_disk, free_memory
from dali_pipes.units import byte_size

MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n"}
UNLIMITED = str((1 << 63) - 4096)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        (MEMINFO, 8000 << 10),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/memory.max": "5000000",
                "sys/fs/cgroup/pod/memory.current": "2000000",
                "sys/fs/cgroup/pod/memory.stat": "anon 7\ninactive_file 1000000\n",
                "sys/fs/cgroup/pod/box/memory.max": "max",
                "sys/fs/cgroup/pod/box/memory.current": "1000000",
            },
            4000000,
        ),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "9:pids:/box\n4:cpu,memory:/not/seen/from/here\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "2500000",
            },
            500000,
        ),
        (
            MEMINFO
            | {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED,
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "2500000",
            },
            8000 << 10,
        ),
    ],
    ids=["nothing reported", "no container", "version 2, the outer group limits", "version 1", "version 1, unlimited"],
)
def test_free_memory_is_the_minimum_over_the_machine_and_its_containers(
    files: dict[str, str], free: int | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == free


def test_this_machine_reports_its_memory_and_its_disk(tmp_path: Path) -> None:
    assert free_memory() or not Path("/proc/meminfo").exists()
    assert free_disk(tmp_path / "not" / "yet" / "there") > 0
    assert not list(tmp_path.iterdir())


def test_a_disk_that_cannot_be_written_is_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali_pipes.batches.tile_cache, "free_memory", lambda: 0)
    file = tmp_path / "file"
    file.touch()
    assert choose_cache("auto", 1 << 20, torch.device("cpu"), folder=tmp_path).value == "disk"
    chosen = choose_cache("auto", 1 << 20, torch.device("cpu"), folder=file)
    assert chosen == (
        "none",
        f"the tiles would take 1 MiB, more than half of the 0 MiB free, and {file} cannot be written: Not a directory",
    )


def test_less_than_half_a_gibibyte_is_given_in_mebibytes() -> None:
    assert [byte_size(count) for count in (3 << 20, 310 << 20, 2 << 30)] == ["3 MiB", "310 MiB", "2.0 GiB"]
