"""What only a fresh process can tell: the seconds from its start to a first batch, and the memory that streaming takes.

`first_batch` starts Python and waits for the batch, imports included: cold, where each image is checked first, and
warm, from the index kept.  `resident` streams from a table that repeats its rows, 1, 10 and 100 times.  Only private
memory counts (RssAnon): pages of the archive that are mapped belong to the system, which takes them back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dali_pipes import Loader, SampleTable

TIMES = (1, 10, 100)
SAME_CODE = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}  # whatever else is installed

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

_RESIDENT = """
import json, sys
from bench.measure.fresh import stream
print(json.dumps(stream(*json.loads(sys.argv[1]))), flush=True)
"""


def grow(loose: Sequence[Path], folder: Path, tiles: int) -> None:
    """A release of `tiles` training tiles in `folder`: links to the JPEGs `loose`, one after the other, with labels."""
    images = folder / "TS_KS"
    images.mkdir(parents=True)
    with zipfile.ZipFile(folder / "TL_KS_LINE.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as labels:
        for i in range(tiles):
            name = f"K3_CHN_{20210518050720 + i // 40}_{i % 40}"
            os.link(loose[i % len(loose)], images / f"{name}.jpg")
            labels.writestr(f"{name}.json", LABEL.replace(b"NAME", name.encode()))


def first_batch(release: Path, cache: Path, device: str, batch_size: int) -> float:
    """Seconds from the start of a process to its first batch of `release`, whose index is, or will be, in `cache`."""
    command = [sys.executable, "-c", _FIRST_BATCH, str(release), str(cache), device, str(batch_size)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=SAME_CODE) as process:
        assert process.stdout
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
    if process.returncode or line.strip() != str(batch_size):
        raise RuntimeError(f"no first batch came from {release}")
    return seconds


def resident(release: Path, device: str, batch_size: int, batches: int, times: int) -> dict[str, Any]:
    """`stream` in a process of its own."""
    arguments = json.dumps([str(release), device, batch_size, batches, times])
    command = [sys.executable, "-c", _RESIDENT, arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=SAME_CODE)
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def stream(release: str, device: str, batch_size: int, batches: int, times: int) -> dict[str, Any]:
    """Stream `batches` of a table whose rows stand there `times` times → its rows, and bytes that this took.

    `bytes`: private memory after the last batch above that before the loader was made; `bytes_halfway`: likewise
    after half of the batches.
    """
    table = SampleTable.from_release(release)
    table = table.select(np.tile(np.arange(len(table)), times))
    before = private_memory()
    halfway = 0
    loader = Loader(table, batch_size, device=device, shuffle=True)
    steps = (batch for _ in iter(int, 1) for batch in loader)
    for i, batch in zip(range(batches), steps, strict=False):
        del batch
        if i == batches // 2:
            halfway = private_memory() - before
    return {"rows": len(table), "bytes": private_memory() - before, "bytes_halfway": halfway}


def private_memory() -> int:
    """Bytes of this process that are no file's."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("RssAnon:") + 1]) * 1024


LABEL = json.dumps(
    {
        "NAME.jpg58854": {
            "filename": "NAME.jpg",
            "size": 58854,
            "regions": [
                {
                    "shape_attributes": {"name": "polyline", "all_points_x": [202, 232], "all_points_y": [384, 408]},
                    "region_attributes": {"chi_id": "1", "chi_height_m": "62.41"},
                }
            ],
            "file_attributes": {
                "img_id": "NAME",
                "img_height": "512",
                "img_width": "512",
                "img_resolution": "0.7",
                "img_time": "21051805",
                "img_roll_tilt": "-16.71936769",
                "img_pitch_tilt": "-17.167585",
                "img_provided": "한국항공우주연구원",
                "provided_nm": "한국지능정보사회진흥원",
            },
        }
    },
    ensure_ascii=False,
).encode()
