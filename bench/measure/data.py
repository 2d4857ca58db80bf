"""The data that benchmarks work on: part of a release, loose files, many tiles without rendering, random batches."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dali_pipes import SampleTable
from dali_pipes.errors import InputError

if TYPE_CHECKING:
    import torch

    from dali_pipes import Batch


def whole_batches(release: Path, samples: int, batch_size: int) -> SampleTable:
    """The first `samples` training samples, rounded down to whole batches. Raises InputError if there is no batch."""
    table = SampleTable.from_release(release)
    rows = np.arange(min(len(table), samples) // batch_size * batch_size)
    if not len(rows):
        raise InputError(f"expected at least {batch_size} samples in {release}, found {len(table)}")
    return table.select(rows)


def repeated(table: SampleTable, samples: int) -> SampleTable:
    """A table of `samples` rows that repeats the rows of `table`."""
    return table.select(np.arange(samples) % len(table))


def unpack(table: SampleTable, folder: Path) -> None:
    """Write the JPEGs of the table into `folder` as loose files, which the reference needs."""
    for image in np.unique(table.image).tolist():
        (folder / table.images.names[image]).write_bytes(table.images.read(image).tobytes())


def random_batch(count: int, size: int, device: torch.device) -> Batch:
    """`count` samples of noise at `size` × `size` pixels, on the device."""
    import torch

    from dali_pipes import Batch

    random = torch.Generator().manual_seed(0)

    def pixels(channels: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, size, size, channels), generator=random, dtype=torch.uint8).to(device)

    length, height = torch.randn(count, 1, generator=random), torch.randn(count, generator=random)
    return Batch(
        pixels(3), pixels(1), pixels(1), length.to(device), height.to(device), torch.arange(count, device=device)
    )


def linked_release(loose: Sequence[Path], folder: Path, tiles: int) -> None:
    """Make a release of `tiles` training tiles in `folder`: labels, and links to the JPEGs `loose` in turn."""
    images = folder / "TS_KS"
    images.mkdir(parents=True)
    with zipfile.ZipFile(folder / "TL_KS_LINE.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as labels:
        for i, name in enumerate(tile_names(tiles)):
            os.link(loose[i % len(loose)], images / f"{name}.jpg")
            labels.writestr(f"{name}.json", label_of(name))


def tile_names(count: int) -> list[str]:
    """Names of `count` tiles without suffix, 40 of each scene."""
    return [f"K3_CHN_{20210518050720 + i // 40}_{i % 40}" for i in range(count)]


def label_of(name: str) -> bytes:
    """The VIA label of the tile `name`, UTF-8, with one polyline."""
    return _LABEL.replace(b"NAME", name.encode())


_LABEL = json.dumps(
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
