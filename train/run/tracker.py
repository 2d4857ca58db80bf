"""Where a run is followed from outside: TensorBoard if that extra is installed, else nowhere.

    tracker = open_tracker(out)              # TensorBoard, or the null object
    tracker.scalars(3, {"rmse": 15.8})       # after an epoch
    tracker.finish(config, scores, history)  # at the end

Who calls it does not know which it is.  Nothing of a run depends on it: metrics.jsonl and report.html hold all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..recipe.config import flatten
from ..report.figures import rmse_by_epoch

History = Sequence[Mapping[str, Any]]


class Tracker:
    """Follows nothing."""

    def scalars(self, epoch: int, record: Mapping[str, Any]) -> None:
        """The finite numbers of an epoch's record, by name."""

    def finish(self, config: Mapping[str, Any], scores: Mapping[str, float], history: History) -> None:
        """The run's hyper-parameters with its final scores, and a figure of its epochs."""


class TensorBoard(Tracker):
    """Writes event files into `folder`; look at them by `tensorboard --logdir`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))

    def scalars(self, epoch: int, record: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "epoch":
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def finish(self, config: Mapping[str, Any], scores: Mapping[str, float], history: History) -> None:
        """See `Tracker`."""
        settings = {
            name: value if isinstance(value, (int, float, str)) else str(value) for name, value in flatten(config)
        }
        self._writer.add_hparams(settings, dict(scores), run_name=".")
        self._writer.add_figure("RMSE by epoch", rmse_by_epoch({"this run": history}))
        self._writer.close()


def open_tracker(run: Path) -> Tracker:
    """TensorBoard's event files in the folder `tensorboard` of the run, if the extra is installed."""
    return TensorBoard(run / "tensorboard") if find_spec("tensorboard") else Tracker()
