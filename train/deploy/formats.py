"""The formats of an exported network, and how each file is checked before it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dali_pipes.errors import InputError
from dali_pipes.files import replacing

from ..engine.trained import Trained
from .exported import OUTPUTS, HeightFunction, contract, inputs_of, random_tiles

Format = Literal["torch", "onnx", "aoti", "reference"]


SUFFIXES: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx", "aoti": ".pt2", "reference": ".pth"}


TOLERANCE = 0.01  # metres: what the labels are rounded to


Tensors = tuple[Tensor, ...]


Names = tuple[str, ...]


Run = Callable[[Tensors], Sequence[Any]]


def _fits_reference_layout(trained: Trained) -> None:
    if trained.target.kind != "height":
        raise InputError(
            f"the reference's layout holds a network that regresses height, found one of {trained.target.kind}; use"
            " another --format, or train with --model.target height"
        )
    if trained.view.kind != "tile":
        raise InputError(
            "the reference's layout holds a network that is shown the whole tile, found one with --data.view"
            f" {trained.view.kind}; use another --format, or train with --data.view tile"
        )


def reference_layout(trained: Trained) -> dict[str, Any]:
    """`trained` as the reference system reads it: plain tensors, and its own names in "calib".

    Raises InputError if it regresses another target than the reference's, or is shown another view.
    """
    _fits_reference_layout(trained)
    contents: dict[str, Any] = {
        "model": {name: value.detach().cpu().contiguous() for name, value in trained.model.state_dict().items()},
        "stats": tuple(trained.statistics),
    }
    if trained.calibration is not None:
        contents["calib"] = {name: getattr(trained.calibration, name) for name in ("a", "b", "tau")}
    return contents


def write_checked(
    out: Path, kind: Format, trained: Trained, real: Tensors, accept: Callable[[float], object] = lambda _: None
) -> float:
    """Write `trained` to `out` if the file agrees with eager → the largest difference in metres.

    `accept` is told it before the file gets its name.  Raises InputError, and leaves no file, if it differs by more
    than `TOLERANCE`.
    """
    device, names = real[0].device, inputs_of(trained)
    function = HeightFunction(trained).to(device)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.no_grad():
        program = torch.export.export(
            function,
            random_tiles(trained, 2, device),
            dynamic_shapes={name: {0: batch} for name in names},
        )
    with replacing(out) as file:
        run = WRITERS[kind](program, Path(file.name), names, contract(trained))
        batches = [*(random_tiles(trained, n, device) for n in (1, 3)), real]
        difference = max(furthest(function, run, inputs) for inputs in batches)
        if not difference <= TOLERANCE:
            raise InputError(
                f"the exported network is up to {difference:.3g} m from the checkpoint's, more than {TOLERANCE} m:"
                f" {out} was not written; try another --format"
            )
        accept(difference)
    return difference


def furthest(function: HeightFunction, run: Run, inputs: Tensors) -> float:
    """The largest difference in metres between eager and `run`, of mu and sigma."""
    with torch.no_grad():
        expected = function(*inputs)
    pairs = zip(expected, run(inputs), strict=True)
    return max(float((mine.cpu() - torch.as_tensor(theirs).cpu()).abs().max()) for mine, theirs in pairs)


def as_torch(program: torch.export.ExportedProgram, path: Path, names: Names, about: dict[str, str]) -> Run:
    """Save a torch.export program; its contract is the extra file contract.json."""
    torch.export.save(program, path, extra_files={"contract.json": json.dumps(about)})
    module = torch.export.load(path).module()
    return lambda inputs: module(*inputs)


def as_onnx(program: torch.export.ExportedProgram, path: Path, names: Names, about: dict[str, str]) -> Run:
    """Save an ONNX graph; its contract is the model's metadata."""
    import onnxruntime

    graph = torch.onnx.export(program, dynamo=True, input_names=list(names), output_names=list(OUTPUTS), verbose=False)
    assert graph is not None
    graph.model.metadata_props.update(about)
    graph.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(
        list(OUTPUTS), {name: value.cpu().numpy() for name, value in zip(names, inputs, strict=True)}
    )


def as_aoti(program: torch.export.ExportedProgram, path: Path, names: Names, about: dict[str, str]) -> Run:
    """Compile and package by AOTInductor; its contract is the package's metadata."""
    config = {"aot_inductor.metadata": about}
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=config)
    package = torch._inductor.aoti_load_package(str(path))
    return lambda inputs: package(*inputs)


WRITERS: dict[Format, Callable[[torch.export.ExportedProgram, Path, Names, dict[str, str]], Run]] = {
    "torch": as_torch,
    "onnx": as_onnx,
    "aoti": as_aoti,
}
