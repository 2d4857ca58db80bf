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

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console

from dali_pipes import command
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import write_text
from dali_pipes.samples.splits import VALIDATION
from model import BackboneError, CheckpointError

from .deploy.card import model_card
from .deploy.exported import real_tiles
from .deploy.formats import SUFFIXES, Format, _fits_reference_layout, reference_layout, write_checked
from .engine.trained import calibrate_and_pool, completed, evaluate, forward_of, load_trained
from .machine.choices import choose_device
from .recipe.data import default_index_folder, load_datasets
from .run.folder import save_checkpoint

REAL_TILES = 8


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
    loaded, console = load_trained(arguments.checkpoint), Console()
    if kind == "reference":
        _fits_reference_layout(loaded)
    tables = load_datasets(
        arguments.release,
        loaded.division,
        loaded.held_out,
        loaded.select_on,
        cache=arguments.index_cache or default_index_folder(out),
        images=arguments.images,
        labels=arguments.labels,
        console=console,
    )
    trained, card = completed(loaded, tables.training), Path(f"{out}.md")
    assert trained.baselines is not None
    baselines = trained.baselines
    predictions = evaluate(trained, tables, forward_of(trained, device, arguments.batch_size, "fp32"))
    predictions = calibrate_and_pool(trained, predictions, "none")
    heights = float(tables.training.height.min()), float(tables.training.height.max())

    def write_card(difference: float | None) -> None:
        about = model_card(
            loaded, baselines, predictions, name=out.name, kind=kind, difference=difference, heights=heights
        )
        write_text(card, about)

    if kind == "reference":
        difference = None
        write_card(difference)
        save_checkpoint(out, reference_layout(trained))
    else:
        some = tables.evaluated[VALIDATION].select(np.arange(min(REAL_TILES, len(tables.evaluated[VALIDATION]))))
        difference = write_checked(out, kind, trained, real_tiles(trained, some, device), write_card)
    checked = "" if difference is None else f", at most {difference:.1e} m from eager"
    console.print(f"exported: {out}{checked}\nmodel card: {card}", highlight=False, markup=False, soft_wrap=True)


def main(argv: list[str]) -> None:
    """The command: exits with status 2 and one sentence on bad input."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        export(command.parse(Arguments, argv, module="train.export", description=__doc__))


if __name__ == "__main__":
    main(sys.argv[1:])
