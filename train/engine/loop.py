"""The loop over epochs and steps: selects the best epoch, and saves or stops between two steps.

`Loop.fit` runs the epochs, `_train_epoch` their steps, and `_between_steps` saves or stops when it is time. See
step.py for the step, state.py for what it changes, run/folder.py for the files, and run/ranks.py for what ranks share.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from dali_pipes import Batch
from dali_pipes.errors import InputError
from dali_pipes.units import count

from ..run.console import RunConsole, StepStatus
from ..run.folder import CheckpointTimer, Deadline, RunFolder, best_of
from ..run.ranks import Agreement, all_gather, barrier, from_rank_zero, leave_group, shorten_timeout
from ..run.signals import TIME_LIMIT, Signals, Stopped
from ..run.tracker import Tracker
from ..run.writer import CheckpointWriter, Snapshot
from ..scores.metrics import score
from .progress import Clock
from .state import Training
from .trained import predict

SAVE = 1
"""Rank 0's request to save at the end of the next step. A request to save and stop is larger: SAVE plus the number of a
signal, which may be 1 itself, or plus TIME_LIMIT."""


class Loop:
    """Takes a `Training` through its epochs, and saves it into `folder` on rank 0."""

    def __init__(
        self,
        training: Training,
        folder: RunFolder,
        signals: Signals,
        writer: CheckpointWriter,
        console: RunConsole,
        tracker: Tracker,
        deadline: Deadline,
    ) -> None:
        self.training, self.folder, self.signals, self.console = training, folder, signals, console
        self.config, self.tracker = training.config, tracker
        self._agreement, self._writer, self._deadline = Agreement(), writer, deadline
        self._snapshots = [Snapshot(), Snapshot()]  # one may be written while the other is filled
        self._written = self._snapshots[0]  # the one that was last given to the writer
        self._best: dict[str, Any] | None = None  # what best.pt lacks: the weights of the best epoch
        self._unwritten: dict[str, Any] | None = None  # the end of the last epoch, if last.pt lacks it
        self._timer = CheckpointTimer(self.config.runtime.checkpoint_every)
        compiles = training.forward.compilation != "off"
        self._first_step = "the step is compiled first, which takes minutes" if compiles else ""

    def fit(self) -> None:
        """Train the remaining epochs. The last one is saved, and earlier ones if the last save is long ago.

        An error loses only the epoch in which it happens.
        """
        gc.collect()
        gc.freeze()  # without it, each full collection walks over all imported modules: 0.6 s within a step
        try:
            while not self._is_over():
                self._take_epoch()
        except Exception:
            if self._unwritten:
                self._write(self._unwritten)
            raise
        if self.training.progress.epoch < self.config.epochs:
            stale, patience = self.training.progress.epochs_since_best, self.config.patience
            self.console.note(f"ending early: no lower RMSE in {count(stale, 'epoch')}, and --patience is {patience}")
        self._agreement.result()
        self._writer.wait()
        received = max(all_gather(self.signals.received))
        if received:
            self._stop(received)

    def _is_over(self) -> bool:
        return self.training.progress.epoch >= self.config.epochs or self._lost_patience()

    def _lost_patience(self) -> bool:
        """Whether the last `--patience` epochs brought no lower RMSE."""
        return 0 < self.config.patience <= self.training.progress.epochs_since_best

    def _take_epoch(self) -> None:
        record = {**self._train_epoch(), **self._select()}
        is_best = self.training.end_epoch(record)
        self._save_epoch(is_best)
        shorten_timeout()
        self.console.log_epoch(record)
        self.tracker.scalars(self.training.progress.epoch, record)

    def _train_epoch(self) -> dict[str, Any]:
        """Train the remaining steps of the epoch; returns the first half of its record."""
        training, progress, config = self.training, self.training.progress, self.config
        training.begin_epoch()
        steps = len(training.train_loader)
        self.console.stage(f"epoch {progress.epoch + 1}/{config.epochs}", steps, figures=self._first_step)
        self.console.advance(progress.step)
        clock = Clock(progress)
        for batch in clock.time_waits(training.train_loader.epoch(progress.epoch, progress.step)):
            training.take_step(batch)
            self.console.advance(progress.step)
            if progress.step == steps:
                self._log(training.mean_loss())
            elif progress.step % config.runtime.log_every == 0 and (loss := training.recent_loss()) is not None:
                self._log(loss)
            clock.read()
            self._timer.count_step()
            if progress.step < steps:
                self._between_steps(may_save=True)
        self._first_step = ""
        return {
            "epoch": progress.epoch + 1,
            "train_loss": training.mean_loss(),
            "learning_rate": progress.learning_rate,
            "samples_per_s": steps * config.batch_size / progress.seconds,
            "data_wait": progress.waited / progress.seconds,
        }

    def _select(self) -> dict[str, Any]:
        """Score the network on the samples that select the best epoch; returns the second half of the record.

        A run that is stopped here resumes here.
        """
        training = self.training
        clock = Clock(training.progress)
        mu, sigma = predict(training.evaluated, training.selection_loader, training.target, self._watch_selection)
        clock.read()
        scores = score(training.selection_loader.table.height, mu, sigma)
        if not math.isfinite(scores.rmse):
            raise _diverged(scores.rmse, f"{training.selected_on} after epoch {training.progress.epoch + 1}")
        return {
            "measured_on": training.selected_on,
            "rmse": scores.rmse,
            "mae": scores.mae,
            "bias": scores.bias,
            "nll": scores.nll,
            "seconds": training.progress.seconds,
        }

    def _watch_selection(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches; the run may stop after each. All ranks call `_between_steps` equally often."""
        loader, epoch = self.training.selection_loader, self.training.progress.epoch + 1
        self.console.stage(f"epoch {epoch}/{self.config.epochs}, {self.training.selected_on}", len(loader))
        for done, batch in enumerate(batches, 1):
            yield batch
            self.console.advance(done)
            self._between_steps()
        for _ in range(len(loader), loader.most_batches):
            self._between_steps()

    def _between_steps(self, may_save: bool = False) -> None:
        """Save or stop, on all ranks at once, if one requested it one step ago; then submit this rank's request."""
        self._writer.check()
        agreed = self._agreement.result()
        if agreed > SAVE:
            self._save()
            self._stop(agreed - SAVE)
        saved = agreed == SAVE and self._save(wait=False)
        # With --checkpoint-every 1, the checkpoint that was just started may be complete when the next step ends.
        ready = self._timer.due_after_next_step and (saved or not self._writer.busy)
        requests_save = may_save and ready and self.training.place.is_rank_zero
        reason = self.signals.received or (TIME_LIMIT if self._deadline.is_over else 0)
        self._agreement.request(SAVE + reason if reason or requests_save else 0)

    def _stop(self, number: int) -> NoReturn:
        self._writer.wait()
        barrier()  # when one rank ends, torchrun ends the others, even while they write
        leave_group()
        raise Stopped(number, f"the state is saved in {self.folder.last}", f"--resume {self.folder.path} continues")

    def _save(self, wait: bool = True) -> bool:
        """Copy the state now and write it during the next steps; returns whether this rank does.

        If the last checkpoint is still being written, wait for it, or skip this one if `wait` is False.
        """
        state = self.training.state()  # on all ranks, since it gathers from all
        if not self.training.place.is_rank_zero or (self._writer.busy and not wait):
            return False
        self._write({**self._copy(state), "best": self._best})
        return True

    def _save_epoch(self, is_best: bool) -> None:
        """Copy the state at the end of an epoch; write it if the last save is long ago, or the run is over."""
        writes = from_rank_zero(lambda: self._is_over() or self._timer.due_after_epoch)
        state = self.training.state()
        if not self.training.place.is_rank_zero:
            return
        copied = self._copy(state)
        if is_best:  # the next epoch overwrites `copied`, so what stays in memory is a copy of its own
            self._best = best_of(copied) if writes else Snapshot().of(best_of(state))
        self._unwritten = {**copied, "best": self._best}
        if writes:
            self._write(self._unwritten)

    def _copy(self, state: dict[str, Any]) -> dict[str, Any]:
        """`state` in memory that the checkpoint which is being written does not use."""
        self._writer.wait(left=1)  # waits only if two saves come within the time of one write
        if self._writer.busy and self._snapshots[0] is self._written:
            self._snapshots.reverse()
        return self._snapshots[0].of(state)

    def _write(self, copied: dict[str, Any]) -> None:
        """Write the last copy during the next steps."""
        self._timer.restart()
        self._written, self._best, self._unwritten = self._snapshots[0], None, None
        self._writer.start(lambda: self.folder.save(copied))

    def _log(self, loss: float) -> None:
        training, progress = self.training, self.training.progress
        steps, epochs = len(training.train_loader), self.config.epochs
        if not math.isfinite(loss):
            raise _diverged(loss, f"step {progress.step} of epoch {progress.epoch + 1}")
        elapsed = max(progress.seconds, 1e-9)
        self.console.log_step(
            StepStatus(
                epoch=progress.epoch + 1,
                step=progress.step,
                loss=loss,
                samples_per_s=progress.step * self.config.batch_size / elapsed,
                data_wait=progress.waited / elapsed,
                seconds_left=progress.seconds_left(steps, epochs),
            )
        )


def _diverged(value: float, where: str) -> InputError:
    return InputError(
        f"the loss is {value} at {where}: the training diverged; lower --optimizer.learning-rate, or use"
        " --runtime.precision fp32"
    )
