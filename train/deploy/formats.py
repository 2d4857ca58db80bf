"""Write a trained network in each format of export, and check each file before it gets its final name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dali_pipes.errors import InputError
from dali_pipes.files import replacing

from ..engine.trained import Trained
from ..recipe.config import Data
from .exported import OUTPUTS, HeightFunction, contract, input_names, random_tiles
from .suffixes import Format

TOLERANCE = 0.01  # metres: what the labels are rounded to

Tensors = tuple[Tensor, ...]
Names = tuple[str, ...]
Function = Callable[[Tensors], Sequence[Any]]
"""A written file, read back: inputs → mu, sigma."""


def check_reference_layout(trained: Trained) -> None:
    """Raise InputError if `trained` has another target, view or frame size than the reference system's."""
    if trained.target.kind != "height":
        raise InputError(
            f"the reference's layout holds a network with the target height, found {trained.target.kind}; use"
            " another --format, or train with --model.target height"
        )
    if trained.view.kind != "tile":
        raise InputError(
            "the reference's layout holds a network that sees the whole tile, found one with --data.view"
            f" {trained.view.kind}; use another --format, or train with --data.view tile"
        )
    if trained.mirror:
        raise InputError(
            "the reference's layout cannot say that a network predicts the mean for two mirror images, found one with"
            " --model.mirror; use another --format, or train with --model.no-mirror"
        )
    if trained.size != Data.size:
        raise InputError(
            f"the reference's layout holds no frame size and is read as {Data.size} pixels, found a network of"
            f" {trained.size}; use another --format, or train with --data.size {Data.size}"
        )


def reference_layout(trained: Trained) -> dict[str, Any]:
    """The checkpoint that the reference system reads: plain tensors, and its own names in "calib".

    Raises InputError if `trained` does not fit; see `check_reference_layout`.
    """
    check_reference_layout(trained)
    contents: dict[str, Any] = {
        "model": {name: value.detach().cpu().contiguous() for name, value in trained.model.state_dict().items()},
        "stats": tuple(trained.statistics),
    }
    if trained.calibration is not None:
        contents["calib"] = {name: getattr(trained.calibration, name) for name in ("a", "b", "tau")}
    return contents


def write_checked(
    out: Path, kind: Format, trained: Trained, real: Tensors, before_rename: Callable[[float], object] = lambda _: None
) -> float:
    """Write `trained` to `out` if the file agrees with eager; return their largest difference in metres.

    The two are compared on random tiles and on `real` ones. `before_rename` is called with the difference before the
    file gets its final name. Raises InputError, and leaves no file, if they differ by more than `TOLERANCE`.
    """
    device, names = real[0].device, input_names(trained)
    function = HeightFunction(trained).to(device)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.no_grad():
        program = torch.export.export(
            function,
            random_tiles(trained, 2, device),
            dynamic_shapes={name: {0: batch} for name in names},
        )
    with replacing(out) as file:
        written = WRITERS[kind](program, Path(file.name), names, contract(trained))
        batches = [*(random_tiles(trained, n, device) for n in (1, 3)), real]
        difference = max(largest_difference(function, written, inputs) for inputs in batches)
        if not difference <= TOLERANCE:
            raise InputError(
                f"the exported network is up to {difference:.3g} m from the checkpoint's, more than {TOLERANCE} m:"
                f" {out} was not written; try another --format"
            )
        before_rename(difference)
    return difference


def largest_difference(function: HeightFunction, written: Function, inputs: Tensors) -> float:
    """The largest difference in metres between eager and the `written` file, of mu and sigma."""
    with torch.no_grad():
        expected = function(*inputs)
    pairs = zip(expected, written(inputs), strict=True)
    return max(float((eager.cpu() - torch.as_tensor(file).cpu()).abs().max()) for eager, file in pairs)


def write_torch(program: torch.export.ExportedProgram, path: Path, names: Names, metadata: dict[str, str]) -> Function:
    """Save a torch.export program, with the contract as its extra file contract.json."""
    in_memory = io.BytesIO()  # torch ends the process if its own writer fails, such as on a full disk
    torch.export.save(program, in_memory, extra_files={"contract.json": json.dumps(metadata)})
    path.write_bytes(in_memory.getbuffer())
    module = torch.export.load(path).module()
    return lambda inputs: module(*inputs)


def write_onnx(program: torch.export.ExportedProgram, path: Path, names: Names, metadata: dict[str, str]) -> Function:
    """Save an ONNX graph, with the contract as the model's metadata."""
    import onnxruntime

    graph = torch.onnx.export(program, dynamo=True, input_names=list(names), output_names=list(OUTPUTS), verbose=False)
    assert graph is not None
    graph.model.metadata_props.update(metadata)
    graph.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(
        list(OUTPUTS), {name: value.cpu().numpy() for name, value in zip(names, inputs, strict=True)}
    )


def write_aoti(program: torch.export.ExportedProgram, path: Path, names: Names, metadata: dict[str, str]) -> Function:
    """Compile and package by AOTInductor, with the contract as the package's metadata."""
    config = {"aot_inductor.metadata": metadata}
    in_memory = io.BytesIO()  # as in `write_torch`
    torch._inductor.aoti_compile_and_package(program, package_path=in_memory, inductor_configs=config)
    path.write_bytes(in_memory.getbuffer())
    package = torch._inductor.aoti_load_package(str(path))
    return lambda inputs: package(*inputs)


WRITERS: dict[Format, Callable[[torch.export.ExportedProgram, Path, Names, dict[str, str]], Function]] = {
    "torch": write_torch,
    "onnx": write_onnx,
    "aoti": write_aoti,
}
