"""Experiment tracking: TensorBoard if that extra is installed, else nothing.

    tracker = open_tracker(out)             # TensorBoard, or an object that does nothing
    tracker.scalars(3, {"rmse": 15.8})      # after an epoch
    tracker.finish(config, scores, figure)  # at the end

Tracking is optional: metrics.jsonl and report.html contain the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..recipe.config import flatten

WORDS = {
    "train_loss": "training loss (normalised)",
    "rmse": "RMSE, m",
    "mae": "MAE, m",
    "bias": "Bias, m",
    "nll": "NLL",
    "learning_rate": "learning rate",
    "samples_per_s": "samples per second",
    "data_wait": "share of the time waiting for data",
}
"""The number of an epoch's record → its name, as in the report."""


class Tracker:
    """Writes event files into `folder`, or does nothing if it is None; view them with `tensorboard --logdir`."""

    def __init__(self, folder: Path | None = None) -> None:
        self._writer: Any = None
        if folder:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def scalars(self, epoch: int, record: Mapping[str, Any]) -> None:
        """Log the numbers in an epoch's record."""
        if self._writer:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self._writer.add_scalar(WORDS.get(name, name), value, epoch)
            self._writer.flush()

    def finish(self, config: Mapping[str, Any], scores: Mapping[str, float], rmse_figure: Callable[[], Any]) -> None:
        """Log the hyper-parameters with the final scores, and a matplotlib figure of the RMSE by epoch."""
        if self._writer:
            settings = {
                name: value if isinstance(value, (int, float, str)) else str(value) for name, value in flatten(config)
            }
            self._writer.add_hparams(settings, dict(scores), run_name=".")
            self._writer.add_figure("RMSE by epoch", rmse_figure())
            self._writer.close()


def open_tracker(run: Path) -> Tracker:
    """TensorBoard in the folder `tensorboard` of the run, if the extra is installed."""
    return Tracker(run / "tensorboard" if find_spec("tensorboard") else None)
