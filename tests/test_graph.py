"""The graph for the GPU, as far as it can be tested without one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import nvidia.dali
import pytest
import torch
from nvidia.dali import backend

from dali_pipes import Loader, SampleTable
from dali_pipes.batches.graph import build
from dali_pipes.batches.plan import ValidationPlan
from dali_pipes.batches.source import Source
from dali_pipes.batches.view import WHOLE_TILE, View, ViewKind
from tests.conftest import jpeg, via_label

DEVICES = {"cpu": "CPU", "gpu": "GPU", "mixed": "Mixed"}


@pytest.mark.parametrize(
    ("kind", "decoder", "more"),
    [
        ("tile", "Image", set()),
        ("crop", "ImageSlice", set()),
        ("both", "Image", {"Slice", "Cat"}),
        ("aligned", "ImageSlice", {"WarpAffine"}),
        ("tile+aligned", "Image", {"Slice", "Cat", "WarpAffine"}),
    ],
)
@pytest.mark.parametrize("square", [True, False])
def test_every_operator_of_the_gpu_graph_is_registered_for_its_device(
    square: bool, kind: ViewKind, decoder: str, more: set[str], release: Path
) -> None:
    table = SampleTable.from_release(release, split="validation")
    if not square:
        table = replace(table, width=np.where(np.arange(len(table)), table.width, 128))
    source = Source(View(kind).frames(table, 224), ValidationPlan(len(table), 8))
    pipeline = build(source, device="gpu", device_id=None, threads=1)
    assert pipeline.serialize()
    if not hasattr(pipeline, "_ops"):
        pytest.skip(f"DALI {nvidia.dali.__version__} does not list its operators")
    pipeline._build_graph()
    registered = {device: getattr(backend, f"Registered{name}Ops")() for device, name in DEVICES.items()}
    specs = [str(operator.spec) for operator in pipeline._ops]
    found = {(re.findall(r"device: (\w+)", spec)[0], re.findall(r"OpSpec for (\w+)", spec)[0]) for spec in specs}
    on_gpu = more if kind == "aligned" else {"Resize", *more, *(() if square else ("Crop",))}
    expected = {("cpu", "ExternalSource"), ("mixed", f"decoders__{decoder}"), *(("gpu", name) for name in on_gpu)}
    assert found == expected
    (decoding,) = (spec for spec in specs if "decoders__" in spec)
    assert re.search(r"preallocate_width_hint: 512", decoding), "growing buffers would stall the device"
    assert re.search(r"hw_decoder_load: 0\.65", decoding)
    for device, operator in found:
        assert operator in registered[device]


def test_the_source_gives_the_batch_of_any_step(release: Path) -> None:
    table = SampleTable.from_release(release, split="validation")
    plan = ValidationPlan(len(table), 16)
    source = Source(WHOLE_TILE.frames(table, 64), plan, first_step=1)
    for call in (0, 5, 1000):
        batch = source(call)
        rows = plan.ids(1 + call)
        assert batch.sample[:, 0].tolist() == rows.tolist()
        assert batch.polyline.shape == (len(rows), 64, 64, 1)
        assert [placed.dtype for placed in batch.placed] == [np.float32]
        assert [bytes(jpeg[:2]) for jpeg in batch.jpeg] == [b"\xff\xd8"] * len(rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: none here")
@pytest.mark.parametrize("kind", get_args(ViewKind))
def test_the_gpu_gives_the_batches_of_the_cpu(kind: ViewKind, release: Path) -> None:
    table = SampleTable.from_release(release, split="validation")
    loaders = [Loader(table, 16, device=device, view=View(kind)) for device in ("cpu", "cuda")]
    for cpu, gpu in zip(*loaders, strict=True):
        assert torch.equal(cpu.sample, gpu.sample.cpu())
        assert torch.equal(cpu.polyline, gpu.polyline.cpu())
        assert torch.equal(cpu.padding, gpu.padding.cpu())
        assert_decoded_alike(cpu.rgb, gpu.rgb)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: none here")
@pytest.mark.parametrize(
    ("height", "width", "sampling", "progressive", "grey"),
    [
        (511, 509, "420", False, False),
        (33, 700, "422", False, False),
        (512, 512, "444", False, False),
        (500, 512, "420", True, False),
        (512, 300, "444", False, True),
    ],
)
def test_the_gpu_decodes_every_kind_of_jpeg_as_the_cpu_does(
    height: int, width: int, sampling: str, progressive: bool, grey: bool, write_split: Callable[..., Path]
) -> None:
    pixels = cv2.imdecode(np.frombuffer(jpeg(height, width), np.uint8), cv2.IMREAD_GRAYSCALE if grey else 1)
    assert pixels is not None
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")
    how = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    encoded = cv2.imencode(".jpg", pixels, how)[1].tobytes()
    label = via_label("K3_1.jpg", [[(10, 10), (20, 5)]])
    table = SampleTable.from_release(write_split({"K3_1.jpg": (encoded, label)}))
    (cpu,), (gpu,) = (list(Loader(table, 1, device=device)) for device in ("cpu", "cuda"))
    assert_decoded_alike(cpu.rgb, gpu.rgb)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: none here")
def test_a_streamed_batch_lives_until_a_slow_step_has_read_it(release: Path) -> None:
    def sums(pause: Callable[[], object]) -> list[int]:
        loader, found = Loader(SampleTable.from_release(release), 4, device="cuda", size=64), []
        for batch in (*loader.epoch(0), *loader.epoch(1)):
            pause()
            found.append(batch.rgb.sum(dtype=torch.int64))
            del batch  # its memory may be used again before the device has come to the sum
        return [int(total) for total in found]

    assert sums(lambda: torch.cuda._sleep(10**8)) == sums(torch.cuda.synchronize)


def assert_decoded_alike(cpu: torch.Tensor, gpu: torch.Tensor) -> None:
    """Print how far two decoders differ, and compare. Nearest-neighbour chroma would have a mean of 0.36 levels."""
    difference = (cpu.int() - gpu.cpu().int()).abs().float()
    mean, tail = difference.mean().item(), difference.flatten().kthvalue(int(0.999 * difference.numel())).values
    print(f"grey levels: mean {mean:.3f}, p99.9 {tail.item():.0f}, maximum {difference.max().item():.0f}")
    assert mean < 0.2
    assert tail <= 2, "nvJPEG's IDCT may round by one level, and the letterbox by another"
