"""The GPU figures of docs/benchmarks.md are replaced by measurements, or stay as they are."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from bench import fill
from bench.measure.report import as_plain
from dali_pipes.command import parse
from dali_pipes.errors import InputError

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/benchmarks.md").read_text("utf-8")
PLACES = re.findall(r"<!-- gpu:(\w+) -->", PAGE)
HARDWARE = {"GPU": "Made-up 100", "cores": "16", "processor": "CPU", "torch": "2.9", "timm": "1.0"}
DALI = {"nvidia-dali-cuda130": "2.2"}  # one of two wheels


def printed(name: str, gpu: str = "Made-up 100") -> str:
    """The output of a benchmark, as far as it is read."""
    table = Table("", "samples/s", title=f"{name}, samples a second", caption="64 samples")
    table.add_row("ours | streamed", "1,234")
    everything = {"bench": name, "tables": [as_plain(table)], "hardware": {**HARDWARE, **DALI, "GPU": gpu}}
    return f"$ python -m bench.{name} --device cuda\na table\n{json.dumps(everything)}\n"


def test_each_place_gets_its_own_figures_and_nothing_else_changes() -> None:
    text = fill.filled(PAGE, {"loader": printed("loader"), "tests": "$ python -m pytest -m gpu\n7 passed in 9.8s\n"})
    loader = text.split("<!-- gpu:loader -->")[1].split("<!-- /gpu -->")[0]
    assert (
        "`python -m bench.loader --device cuda` on Made-up 100, 16 cores of CPU, torch 2.9, nvidia-dali-cuda130 2.2:"
        in loader
    )
    assert "| ours \\| streamed | 1,234 |" in loader.splitlines()
    assert "`python -m pytest -m gpu`: 7 passed in 9.8s" in text
    place = re.compile(r"<!-- gpu:(loader|tests) -->\n.*?<!-- /gpu -->", re.DOTALL)
    assert place.sub("", text) == place.sub("", PAGE)


def test_filling_again_replaces_what_was_filled() -> None:
    once = fill.filled(PAGE, {"step": printed("step", "An older one")})
    assert fill.filled(once, {"step": printed("step")}) == fill.filled(PAGE, {"step": printed("step")})


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("loader", printed("loader", gpu="none used"), "not measured on a GPU"),
        ("loader", "$ python -m bench.loader\nRuntimeError: CUDA out of memory", "JSON object as the last line"),
        ("loader", "$ python -m bench.loader\n[1]", "JSON object as the last line"),
        ("loader", "", "the command"),
        ("tests", "$ python -m pytest\n1 failed, 6 passed in 3s", "JSON object as the last line"),
        ("weather", printed("weather"), "one place <!-- gpu:weather -->"),
    ],
)
def test_without_a_measurement_on_a_gpu_the_page_does_not_change(
    name: str, text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        fill.filled(PAGE, {name: text})
    (tmp_path / "page.md").write_text(PAGE, "utf-8")
    (tmp_path / f"{name}.txt").write_text(text, "utf-8")
    with pytest.raises(SystemExit) as end:
        fill.main([str(tmp_path / "page.md"), str(tmp_path / f"{name}.txt")])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text("utf-8") == PAGE


SCRIPT = (ROOT / "bench/gpu.sh").read_text("utf-8").replace("\\\n", "")  # continued lines
COMMANDS = re.findall(r"record \w+ \d+ (bench\.\w+) (.*?)(?: ;;)?$", SCRIPT, re.MULTILINE)


@pytest.mark.parametrize(("module", "flags"), COMMANDS)
def test_the_benchmarks_know_the_flags_of_the_script(module: str, flags: str) -> None:
    pytest.importorskip(module)
    parse(importlib.import_module(module).Arguments, shlex.split(flags), module=module, description=None)


def gpu_script(folder: Path, python: str, *parts: str) -> subprocess.CompletedProcess[str]:
    """`bench/gpu.sh` on a copy of the page."""
    for name in ("bench/gpu.sh", "docs/benchmarks.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_bytes((ROOT / name).read_bytes())
    environment = {**os.environ, "PYTHON": python, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = ["bash", "bench/gpu.sh", *parts]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_without_a_gpu_the_script_says_so_and_changes_nothing(tmp_path: Path) -> None:
    result = gpu_script(tmp_path, sys.executable)
    assert result.returncode == 2
    assert re.fullmatch(r"error: expected a CUDA device .*, found none; .*\n", result.stderr)
    assert (tmp_path / "docs/benchmarks.md").read_text("utf-8") == PAGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench", "docs"]


FAKE = """#!/usr/bin/env bash
# A python that finds a GPU, notes each command, and prints its output.
echo "$*" >> {log}
case "$*" in
    "-c"*) ;;
    "-m bench.render"*) mkdir -p "$3" ;;
    "-m pytest"*) echo "7 passed, 300 deselected in 9.8s" ;;
    "-m bench.fill"*) exec {python} "$@" ;;
    "-m {broken}"*) echo "half of it"; exit 1 ;;
    "-m bench."*) echo '{result}' ;;
    "-m train"*) echo "done" ;;
    *) exit 9 ;;
esac
"""


def fake_python(folder: Path, broken: str = "nothing") -> Path:
    fake, result = folder / "python", printed("any").splitlines()[-1]
    text = FAKE.format(python=sys.executable, result=result, broken=broken, log=folder / "log")
    fake.write_text(text, "utf-8")
    fake.chmod(0o755)
    return fake


def test_a_part_that_fails_leaves_the_figures_of_the_others(tmp_path: Path) -> None:
    ended = gpu_script(tmp_path, str(fake_python(tmp_path, "bench.loader")))
    assert ended.returncode == 1
    assert ended.stderr.endswith("not done: loader\n")
    text = (tmp_path / "docs/benchmarks.md").read_text("utf-8")
    assert {name for name in PLACES if f"<!-- gpu:{name} -->\n`python -m bench.{name}`: no GPU" in text} == {"loader"}
    assert text.count("Made-up 100") == len(PLACES) - 2 == 4, "all but the tests and the loader"
    assert (tmp_path / "runs/gpu/loader.failed.txt").read_text().endswith("half of it\n")

    (tmp_path / "log").unlink()
    assert gpu_script(tmp_path, str(fake_python(tmp_path))).returncode == 0
    commands = (tmp_path / "log").read_text()
    assert "bench.loader" in commands
    assert "bench.step" not in commands, "what is there is not run again"
    assert "no GPU has run it yet" not in (tmp_path / "docs/benchmarks.md").read_text("utf-8")


def test_parts_run_alone_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    assert gpu_script(tmp_path, str(fake_python(tmp_path)), "step64").returncode == 0
    commands = (tmp_path / "log").read_text()
    assert commands.count("bench.step") == 1
    assert "pytest" not in commands
    refused = gpu_script(tmp_path, str(fake_python(tmp_path)), "speed")
    assert refused.returncode == 2
    assert "expected parts among versions" in refused.stderr
