"""A batch and a step need torch alone; decoding needs DALI, and says so."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dali_pipes import Batch
from dali_pipes.batches.plan import ONE_RANK, ValidationPlan
from dali_pipes.batches.stream import Stream
from dali_pipes.batches.view import WHOLE_TILE
from dali_pipes.errors import InputError
from tests.test_cache import table_of_sizes

NO_DALI = """
import sys

class NoDali:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "nvidia":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoDali())
"""

STEP = """
import torch
from dali_pipes import Batch, Loader
from model import HeightRegressor
from train.engine.step import Forward, Step

views = {"rgb": 3, "polyline": 1, "padding": 1}
images = {name: torch.randint(0, 256, (4, 64, 64, channels), dtype=torch.uint8) for name, channels in views.items()}
batch = Batch(**images, length=torch.randn(4, 1), height=torch.randn(4), sample=torch.arange(4))
network = HeightRegressor("convnext_atto", weights=None)
forward = Forward(network, torch.device("cpu"), len(batch), "fp32")
step = Step(forward, torch.optim.AdamW(network.parameters()), 5.0)
print(step(batch, torch.ones(())).item())
"""


def without_dali(script: str) -> str:
    """What `script` prints in a process that cannot import DALI."""
    result = subprocess.run([sys.executable, "-c", NO_DALI + script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_step_runs_on_a_batch_where_dali_is_not_installed() -> None:
    assert float(without_dali(STEP)) > 0


def test_a_missing_dali_is_an_error_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dali_pipes.batches.graph", raising=False)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.delattr("dali_pipes.batches.graph", raising=False)
    frames = WHOLE_TILE.frames(table_of_sizes([(64, 64)]), 32)
    stream = Stream(frames, ValidationPlan(1, 1, ONE_RANK), torch.device("cpu"), threads=1)
    with pytest.raises(InputError, match="NVIDIA DALI cannot be imported"):
        stream.batch(0)


def test_the_parts_of_a_batch_are_its_samples_in_order() -> None:
    columns = {name: torch.arange(6) for name in ("rgb", "polyline", "padding", "length", "height", "sample")}
    parts = Batch(**columns).split(3)
    assert [part.sample.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert [len(part) for part in parts] == [2, 2, 2]
