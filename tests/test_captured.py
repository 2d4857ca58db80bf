"""The step as one CUDA graph, with plain calls in place of the graph: it equals the eager step and resumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dali_pipes.errors import InputError
from tests.test_step import CPU, network, random_batch
from tests.test_training import SMALL, Quiet
from train.engine.adamw import AdamW
from train.engine.average import MovingAverage
from train.engine.captured import WARM_UP, CapturedStep, PlainCalls
from train.engine.run import train
from train.engine.step import Forward, Step
from train.machine.choices import choose_compile_mode, graph_fault
from train.recipe.config import Config

ONE = torch.tensor(1.0)
RATES = [2.0**-10, 2.0**-11]  # exact in fp32, as the captured optimizer reads them


def steps() -> tuple[Step, MovingAverage]:
    model = network(drop_path=0.1)
    optimizer = AdamW(model.parameters(), lr=RATES[0])
    return Step(Forward(model, CPU, 4, "fp32"), optimizer, clip_norm=5.0), MovingAverage(model, 0.9)


def test_an_epoch_equals_that_of_the_eager_step() -> None:
    (eager, eager_average), (step, average) = steps(), steps()
    captured = CapturedStep(step, average, PlainCalls())
    batches = [random_batch(32, seed=seed) for seed in range(WARM_UP + 4)]
    losses: tuple[list[Tensor], list[Tensor]] = ([], [])
    torch.manual_seed(0)  # stochastic depth
    for i, batch in enumerate(batches):
        eager.optimizer.param_groups[0]["lr"] = RATES[i % 2]
        losses[0].append(eager(batch, torch.tensor(float(i > 1))))
        eager_average.update_after(i + 1)
    torch.manual_seed(0)
    for i, batch in enumerate(batches):
        step.optimizer.param_groups[0]["lr"] = RATES[i % 2]
        losses[1].append(captured(batch, torch.tensor(float(i > 1)), i + 1).clone())
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))
    for mine, theirs in zip(step.forward.model.parameters(), eager.forward.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    torch.testing.assert_close(average.module.state_dict(), eager_average.module.state_dict())
    assert step.optimizer.state_dict()["param_groups"] == eager.optimizer.state_dict()["param_groups"]


def test_the_recorded_work_reads_the_same_memory_at_each_replay() -> None:
    class Recorded(PlainCalls):
        works: list[Callable[[], Tensor]]

        def capture(self, work: Callable[[], Tensor]) -> Tensor:
            self.works = [*getattr(self, "works", []), work]
            return super().capture(work)

    graph, (step, average) = Recorded(), steps()
    captured = CapturedStep(step, average, graph)
    memory = set()
    for i in range(WARM_UP + 3):
        loss = captured(random_batch(32, seed=i), ONE, i + 1)
        assert captured._batch is not None
        memory.add(tuple(tensor.data_ptr() for tensor in vars(captured._batch).values()))
        assert captured._batch.height.equal(random_batch(32, seed=i).height)
        if i > WARM_UP:
            memory.add(tuple(tensor.data_ptr() for tensor in vars(captured._batch).values()))
            assert loss.data_ptr() == graph._result.data_ptr()
    assert len(memory) == 1
    assert len(graph.works) == 1, "it is recorded once"


@pytest.mark.usefixtures("saves_each_epoch")
def test_a_resumed_run_is_bit_identical(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.engine.state.CudaGraph", PlainCalls)
    monkeypatch.setattr("train.engine.state.graph_fault", lambda *_: "")
    config: Config = replace(SMALL, runtime=replace(SMALL.runtime, compile_mode="cudagraph"))
    whole = train(config, release, tmp_path / "whole", resume=False, console=Quiet()).training
    assert whole._captured
    with pytest.raises(KeyboardInterrupt):
        train(config, release, tmp_path / "parts", resume=False, console=Quiet(stop_after=1))
    parts = train(config, release, tmp_path / "parts", resume=True, console=Quiet()).training
    for mine, theirs in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("reason", "error", "sentence"),
    [
        (
            "operation not permitted\nwhen stream is capturing",
            InputError,
            r"here: operation not permitted; train again",
        ),
        ("CUDA out of memory. Tried to allocate 2 GiB", RuntimeError, r"^CUDA out of memory"),
    ],
)
def test_a_refused_capture_ends_with_a_sentence_and_missing_memory_with_its_own(
    reason: str, error: type[Exception], sentence: str
) -> None:
    class Refused(PlainCalls):
        def capture(self, work: Callable[[], Tensor]) -> Tensor:
            raise RuntimeError(reason)

    captured = CapturedStep(*steps(), Refused())
    for _ in range(WARM_UP):
        captured(random_batch(32), ONE, 1)
    with pytest.raises(error, match=sentence):
        captured(random_batch(32), ONE, 1)


def test_a_step_that_cannot_be_one_graph_is_refused_with_the_reason() -> None:
    cuda = torch.device("cuda")
    assert graph_fault(cuda, "bf16", 1, 1) == ""
    assert choose_compile_mode("auto", "whole").value == "cudagraph"
    for found in ((CPU, "bf16", 1, 1), (cuda, "bf16", 2, 1), (cuda, "bf16", 1, 4), (cuda, "fp16", 1, 1)):
        with pytest.raises(InputError, match=r"cudagraph needs .*, found (cpu|2 ranks|4|fp16); use the mode default"):
            choose_compile_mode("cudagraph", "whole", graph_fault(*found))
        assert choose_compile_mode("auto", "whole", graph_fault(*found)).value == "default"
