"""Export a trained network as one file that needs none of this project: uint8 tiles in, calibrated metres out.

python -m train.export --checkpoint best.pt --release DIR --format onnx --out heights.onnx

    torch       a torch.export program (.pt2)           torch.export.load(path).module()
    onnx        an ONNX graph (.onnx)                   onnxruntime.InferenceSession(path)
    aoti        an AOTInductor package (.pt2)           torch._inductor.aoti_load_package(path)
    reference   the reference's layout (.pth)           {"model", "stats"[, "calib"]}, for the reference's own code

The first three take any batch and hold the whole of `exported.HeightFunction`; what a caller must do before is in the
file's metadata.  Each is written, read back, and compared with eager on random and on real tiles; only then it gets
its name.  A model card lies beside it, whose figures are the file's: in fp32, as the network says and calibrated.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from dali_pipes import command
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import write_text
from model import BackboneError, CheckpointError, checkpoint

from .deploy.card import model_card
from .deploy.exported import OUTPUTS, HeightFunction, contract, inputs_of, random_tiles, real_tiles
from .environment import choose_device
from .evaluate import Trained, completed, evaluate, forward_of, load, refine
from .recipe.data import VALIDATION, beside, load_tables

Format = Literal["torch", "onnx", "aoti", "reference"]
SUFFIXES: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx", "aoti": ".pt2", "reference": ".pth"}
TOLERANCE = 0.01  # metres: what the labels are rounded to
REAL_TILES = 8
Tensors = tuple[Tensor, ...]
Names = tuple[str, ...]
Run = Callable[[Tensors], Sequence[Any]]


@dataclass(frozen=True)
class Arguments:
    """Export a checkpoint, check the file against eager, and write a model card beside it."""

    checkpoint: Path
    """A run folder, a best.pt or last.pt of one, or a .pth in the reference's layout."""

    release: Path
    """The release to check the file on and to take the card's figures from, in any form that training takes."""

    out: Path
    """The file: .pt2 for torch and aoti, .onnx for onnx, .pth for reference; the card is OUT.md."""

    format: Format
    """torch: a torch.export program; onnx: needs the extra onnx; aoti: compiled by AOTInductor for this kind of
    machine; reference: the reference system's layout."""

    images: Path | None = None
    """Where the images lie, if the release holds them twice or not at all: anything that would do as a release."""

    labels: Path | None = None
    """Where the labels lie, likewise."""

    index_cache: Path | None = None
    """Folder for the checked sample tables; if not given, the folder index-cache beside --out."""

    device: str = "cpu"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one.  An aoti package runs on this kind of device alone."""

    batch_size: int = 64
    """Samples a step."""


def export(arguments: Arguments) -> None:
    """Export as the command line says.  Raises InputError, CheckpointError or BackboneError on bad input."""
    out, kind = arguments.out, arguments.format
    if out.suffix != SUFFIXES[kind]:
        raise InputError(f"--format {kind} writes a {SUFFIXES[kind]} file, found --out {out}")
    command.check_out(out)
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" and find_spec(name) is None]
    if missing:
        raise InputError(f"--format onnx needs {', '.join(missing)}; install the extra: pip install -e .[onnx]")
    device = choose_device(arguments.device)
    loaded, console = load(arguments.checkpoint), Console()
    if kind == "reference":
        _fits_reference_layout(loaded)
    tables = load_tables(
        arguments.release,
        loaded.division,
        loaded.held_out,
        loaded.select_on,
        cache=arguments.index_cache or beside(out),
        images=arguments.images,
        labels=arguments.labels,
        console=console,
    )
    trained, card = completed(loaded, tables.training), Path(f"{out}.md")
    assert trained.baselines is not None
    baselines = trained.baselines
    predictions = evaluate(trained, tables, forward_of(trained, device, arguments.batch_size, "fp32"))
    predictions = refine(trained, predictions, "none")
    heights = float(tables.training.height.min()), float(tables.training.height.max())

    def write_card(difference: float | None) -> None:
        about = model_card(
            loaded, baselines, predictions, name=out.name, kind=kind, difference=difference, heights=heights
        )
        write_text(card, about)

    if kind == "reference":
        difference = None
        write_card(difference)
        checkpoint.save(out, reference_layout(trained))
    else:
        some = tables.evaluated[VALIDATION].select(np.arange(min(REAL_TILES, len(tables.evaluated[VALIDATION]))))
        difference = write_checked(out, kind, trained, real_tiles(trained, some, device), write_card)
    checked = "" if difference is None else f", at most {difference:.1e} m from eager"
    console.print(f"exported: {out}{checked}\nmodel card: {card}", highlight=False, markup=False, soft_wrap=True)


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
    unfinished = out.with_name(f".unfinished.{out.name}")  # the suffix stays: torch asks for it
    try:
        run = WRITERS[kind](program, unfinished, names, contract(trained))
        batches = [*(random_tiles(trained, n, device) for n in (1, 3)), real]
        difference = max(furthest(function, run, inputs) for inputs in batches)
        if not difference <= TOLERANCE:
            raise InputError(
                f"the exported network is up to {difference:.3g} m from the checkpoint's, more than {TOLERANCE} m:"
                f" {out} was not written; try another --format"
            )
        accept(difference)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
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


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        export(command.parse(Arguments, argv, module="train.export", description=__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
