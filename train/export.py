"""Export a trained network as one file that runs without this project: uint8 tiles in, calibrated metres out.

    python -m train.export --checkpoint best.pt --release DIR --format onnx --out heights.onnx

    torch       a torch.export program (.pt2)           torch.export.load(path).module()
    onnx        an ONNX graph (.onnx)                   onnxruntime.InferenceSession(path)
    aoti        an AOTInductor package (.pt2)           torch._inductor.aoti_load_package(path)
    reference   the reference's layout (.pth)           {"model", "stats"[, "calib"]}, for the reference's own code

The first three take any batch size and include the whole function of train/deploy/exported.py; the file's metadata
describes how to make the inputs. A file is written, read back and compared with eager on random and on real tiles, and
only then renamed to OUT. A model card next to it gives the scores of this file: in fp32, raw and calibrated.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console

from dali_pipes import command
from dali_pipes.console import Activity, ProgressStyle, activity, open_console, say
from dali_pipes.errors import InputError, exits_with_one_sentence
from dali_pipes.files import write_text
from dali_pipes.release.paths import ALIASES, ReleasePaths
from dali_pipes.samples.splits import VALIDATION
from model import BackboneError, CheckpointError

from .deploy.suffixes import SUFFIXES, Format
from .recipe.data import default_index_folder
from .scores.evaluation import Evaluation

REAL_TILES = 8


@dataclass(frozen=True)
class Arguments:
    """Export a checkpoint, compare the file with eager, and write a model card next to it."""

    checkpoint: Path
    """A run folder, its best.pt or last.pt, or a .pth in the reference's layout."""

    paths: Annotated[ReleasePaths, tyro.conf.arg(name="")]

    out: Path
    """The file: .pt2 for torch and aoti, .onnx for onnx, .pth for reference; the card is OUT.md."""

    format: Format
    """torch: a torch.export program; onnx: needs the extra onnx; aoti: compiled by AOTInductor for this kind of
    machine; reference: the reference system's layout."""

    device: str = "cpu"
    """cpu, cuda, cuda:N, or auto for a GPU if there is one. An aoti package runs only on this kind of device."""

    batch_size: int = 64
    """Samples per step."""

    statistics: Path | None = None
    """Needed only for a bare state dict: a JSON file of length mean, length std, height mean and height std, or the
    release that it was trained on."""

    progress: ProgressStyle = "auto"
    """How to show progress. bar: a bar that moves. plain: at most one line in ten seconds.
    auto: bar on a terminal; plain elsewhere, and in notebooks and CI."""


def export(arguments: Arguments) -> None:
    """Write the file and its card. Raises InputError, CheckpointError or BackboneError on bad input."""
    _check(arguments.out, arguments.format)
    console = open_console(arguments.progress)
    with activity(console, "loading PyTorch and DALI") as shown:
        _write(arguments, console, shown)


def _write(arguments: Arguments, console: Console, shown: Activity) -> None:
    """Evaluate the network, and write the file and its card."""
    from .deploy.card import model_card
    from .deploy.exported import real_tiles
    from .deploy.formats import check_reference_layout, reference_layout, write_checked
    from .engine.trained import calibrate_and_pool, completed, evaluate, forward_of, load_trained
    from .machine.choices import choose_device
    from .recipe.data import load_datasets
    from .run.folder import save_checkpoint

    out, kind, device = arguments.out, arguments.format, choose_device(arguments.device)
    shown.begin("loading the checkpoint")
    loaded = load_trained(arguments.checkpoint, arguments.statistics)
    if kind == "reference":
        check_reference_layout(loaded)
    paths = arguments.paths.cached_in(default_index_folder(out))
    tables = load_datasets(paths, loaded.division, loaded.held_out, loaded.select_on, console=console)
    trained, card = completed(loaded, tables.training), Path(f"{out}.md")
    assert trained.baselines is not None
    baselines = trained.baselines
    forward = forward_of(trained, device, arguments.batch_size, "fp32")
    predictions = evaluate(trained, tables, forward, console=console)
    evaluation = Evaluation.of(calibrate_and_pool(trained, predictions, "none"), baselines)
    heights = float(tables.training.height.min()), float(tables.training.height.max())

    def write_card(difference: float | None) -> None:
        text = model_card(loaded, evaluation, name=out.name, kind=kind, difference=difference, heights=heights)
        write_text(card, text)

    shown.begin(f"writing {out.name}")
    checked = ""
    if kind == "reference":
        write_card(None)
        save_checkpoint(out, reference_layout(trained))
    else:
        validation = tables.evaluated[VALIDATION]
        few = validation.select(np.arange(min(REAL_TILES, len(validation))))
        difference = write_checked(out, kind, trained, real_tiles(trained, few, device), write_card)
        checked = f", at most {difference:.1e} m from eager"
    say(console, f"exported: {out}{checked}")
    say(console, f"model card: {card}")


def _check(out: Path, kind: Format) -> None:
    """Raise InputError if `out` cannot be written in the format `kind`."""
    if out.suffix != SUFFIXES[kind]:
        raise InputError(f"--format {kind} writes a {SUFFIXES[kind]} file, found --out {out}")
    command.check_out(out)
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" and find_spec(name) is None]
    if missing:
        raise InputError(f"--format onnx needs {', '.join(missing)}; install the extra: pip install -e .[onnx]")


def main(argv: list[str]) -> None:
    """The command: on bad input it exits with status 2 and one sentence."""
    with exits_with_one_sentence(BackboneError, CheckpointError):
        export(command.parse(Arguments, argv, module="train.export", description=__doc__, aliases=ALIASES))


if __name__ == "__main__":
    main(sys.argv[1:])
