"""Training: epochs, selection of the best one, and when to save.

The method, top to bottom: `run` prepares and reports, `Loop.fit` goes through the epochs, `_train_epoch` through the
steps, and `_between_steps` saves or stops where it is time.  The step itself is in step.py, what it changes in
training.py, where the run is kept in checkpointing.py, and what many ranks share in distributed.py.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import torch

from dali_pipes import Batch
from dali_pipes.errors import InputError

from ..run.console import Moment, RunConsole
from ..run.folder import Due, RunFolder
from ..run.ranks import Agreement, gather, leave, mean, settle
from ..run.signals import Signals, Stopped
from ..run.tracker import Tracker
from ..run.writer import Snapshot, Writer
from ..scores.metrics import Scores, score
from .state import Clock, Training
from .trained import predict

SAVE = 1
"""What rank 0 may wish at the end of a step; larger wishes are the numbers of signals."""


class Loop:
    """Moves a `Training` through its epochs, and saves it into `folder`, which only rank 0 does."""

    def __init__(
        self,
        training: Training,
        folder: RunFolder,
        signals: Signals,
        writer: Writer,
        console: RunConsole,
        tracker: Tracker,
    ) -> None:
        self.training, self.folder, self.signals, self.console = training, folder, signals, console
        self.config, self.tracker = training.config, tracker
        self._agreement, self._writer = Agreement(), writer
        self._snapshots = [Snapshot(), Snapshot()]  # one may be being written while the other is filled
        self._due = Due(self.config.runtime.checkpoint_every)

    def fit(self) -> None:
        """Train the epochs that are left; after each one save the network, and as the best one if it is."""
        training = self.training
        gc.collect()
        gc.freeze()  # else each full collection walks over all that was imported: 0.6 s in the middle of a step
        while training.epoch < self.config.epochs:
            record = self._train_epoch()
            scores = self._select()
            if not math.isfinite(scores.rmse):
                raise _diverged(scores.rmse, f"{training.selected_on} after epoch {training.epoch + 1}")
            training.schedule.after_epoch(scores.rmse)
            record |= {
                "measured_on": training.selected_on,
                "rmse": scores.rmse,
                "mae": scores.mae,
                "bias": scores.bias,
                "nll": scores.nll,
                "seconds": training.seconds,
            }
            training.history.append(record)
            is_best = scores.rmse < training.best_rmse
            training.best_rmse = min(training.best_rmse, scores.rmse)
            training.epoch, training.step = training.epoch + 1, 0
            training.seconds = training.waited = 0.0
            training.loss.zero_()
            self._save(best=is_best)
            settle()
            self.console.epoch(record)
            self.tracker.scalars(training.epoch, record)
        self._agreement.reached()
        self._writer.wait()
        received = max(gather(self.signals.received))
        if received:
            self._stop(received)

    def _train_epoch(self) -> dict[str, Any]:
        training, config = self.training, self.config
        training.model.train()
        epoch, steps = training.epoch, len(training.train_loader)
        warming_up = epoch < config.optimizer.variance_warmup
        variance_weight = torch.tensor(0.0 if warming_up else 1.0, device=training.device)
        if training.step == 0:
            training.learning_rate = training.schedule.learning_rate
        clock = Clock(training)
        for batch in clock.waiting_for(training.train_loader.epoch(epoch, training.step)):
            training.loss += training.step_of(batch, variance_weight)
            training.step += 1
            training.after_step()
            if training.step % config.runtime.log_every == 0 or training.step == steps:
                self._log(mean(training.loss) / training.step)
            clock.read()
            self._due.after_step()
            if training.step < steps:
                self._between_steps(may_save=True)
        return {
            "epoch": epoch + 1,
            "train_loss": mean(training.loss) / steps,
            "learning_rate": training.learning_rate,
            "samples_per_s": steps * config.batch_size / training.seconds,
            "data_wait": training.waited / training.seconds,
        }

    def _select(self) -> Scores:
        """How good the network is on the samples that choose the best epoch; stopped in here, a run goes on here."""
        training = self.training
        clock = Clock(training)
        mu, sigma = predict(training.evaluated, training.selection_loader, training.target, self._watched)
        clock.read()
        return score(training.selection_loader.table.height, mu, sigma)

    def _watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; between any two a run may stop, on all ranks equally often, though some have a batch less."""
        loader = self.training.selection_loader
        for batch in batches:
            yield batch
            self._between_steps()
        for _ in range(len(loader), loader.most_batches):
            self._between_steps()

    def _between_steps(self, may_save: bool = False) -> None:
        """Save or stop if any rank wished so a step ago, and say what this one wishes: all ranks do the same."""
        self._writer.check()
        agreed = self._agreement.reached()
        if agreed > SAVE:
            self._save()
            self._stop(agreed)
        saved = agreed == SAVE and self._save(wait=False)
        # What was just saved may be written before the next step is over: with --checkpoint-every 1 it has to be.
        ready = self._due.next and (saved or not self._writer.busy)
        wishes_to_save = may_save and ready and self.training.place.leads
        self._agreement.ask(self.signals.received or (SAVE if wishes_to_save else 0))

    def _stop(self, number: int) -> NoReturn:
        self._writer.wait()
        gather(None)  # where a rank ends before the others, torchrun ends those, be it while they write
        leave()
        raise Stopped(number, f"all is saved in {self.folder.last}")

    def _save(self, best: bool = False, wait: bool = True) -> bool:
        """Copy the state now, and write it while the next steps run; whether this rank did.

        While the last one is still being written, this one waits, or is not made at all if told not to wait.
        """
        state = self.training.state()  # on all ranks, whatever rank 0 makes of it
        if not self.training.place.leads or (self._writer.busy and not wait):
            return False
        self._writer.wait(left=1)  # only where an epoch is shorter than a write, since nothing is left out
        if self._writer.busy:
            self._snapshots.reverse()
        copied = self._snapshots[0].of(state)
        self._due.saved()
        self._writer.start(lambda: self.folder.save(copied, best=best))
        return True

    def _log(self, loss: float) -> None:
        training = self.training
        step, steps, epoch, epochs = training.step, len(training.train_loader), training.epoch, self.config.epochs
        if not math.isfinite(loss):
            raise _diverged(loss, f"step {step} of epoch {epoch + 1}")
        elapsed = max(training.seconds, 1e-9)
        if training.history:
            left = (epochs - epoch - step / steps) * training.history[-1]["seconds"]
        else:
            left = elapsed / step * (steps * (epochs - epoch) - step)
        self.console.moment(
            Moment(
                epoch=epoch + 1,
                epochs=epochs,
                step=step,
                steps=steps,
                loss=loss,
                learning_rate=training.schedule.learning_rate,
                samples_per_s=step * self.config.batch_size / elapsed,
                data_wait=training.waited / elapsed,
                seconds_left=left,
            )
        )


def _diverged(value: float, where: str) -> InputError:
    return InputError(
        f"the loss is {value} at {where}: the training diverged; lower --optimizer.learning-rate, or use"
        " --runtime.precision fp32"
    )
