"""The graph for the GPU, as far as it can be tested without one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

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

DEVICES = {"cpu": "CPU", "gpu": "GPU", "mixed": "Mixed"}


@pytest.mark.parametrize(
    ("kind", "decoder", "more"),
    [("tile", "Image", set()), ("crop", "ImageSlice", set()), ("both", "Image", {"Slice", "Cat"})],
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
    on_gpu = {"Resize", *more, *(() if square else ("Crop",))}
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
        assert batch.resized.dtype == np.float32
        assert [bytes(jpeg[:2]) for jpeg in batch.jpeg] == [b"\xff\xd8"] * len(rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: none here")
@pytest.mark.parametrize("kind", ["tile", "crop", "both"])
def test_the_gpu_gives_the_batches_of_the_cpu(kind: ViewKind, release: Path) -> None:
    table = SampleTable.from_release(release, split="validation")
    loaders = [Loader(table, 16, device=device, view=View(kind)) for device in ("cpu", "cuda")]
    for cpu, gpu in zip(*loaders, strict=True):
        assert torch.equal(cpu.sample, gpu.sample.cpu())
        assert torch.equal(cpu.polyline, gpu.polyline.cpu())
        assert torch.equal(cpu.padding, gpu.padding.cpu())
        difference = (cpu.rgb.int() - gpu.rgb.cpu().int()).abs().float()
        assert difference.mean() < 1, "nvJPEG's IDCT may differ by one level, but not more"
