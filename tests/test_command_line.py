"""The command line: `chimney` equals `python -m`, help needs no heavy library, and errors say what was meant."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from train.cli import BENCHMARKS, COMMANDS, main

ROOT = Path(__file__).parent.parent
ALL = {**COMMANDS, **{f"bench {name}": command for name, command in BENCHMARKS.items()}}

HELP_WITHOUT_LIBRARIES = """
import contextlib, io, json, runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "nvidia", "cv2", "matplotlib", "timm", "torchvision"):
            raise ImportError(f"--help imports {name}")

sys.meta_path.insert(0, Blocked())
helps = {}
for module in sys.argv[1:]:
    sys.argv = [module, "--help"]
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            helps[module] = [end.code or 0, text.getvalue()]
print(json.dumps(helps))
"""


def as_run(module: str) -> str:
    """What follows `python -m`: train for train.__main__."""
    return module.removesuffix(".__main__")


@pytest.fixture(scope="module")
def helps() -> dict[str, Any]:
    """The exit status and the help of each command under `python -m`, in a process that cannot import torch."""
    modules = [as_run(module) for module, _ in ALL.values()]
    script = [sys.executable, "-c", HELP_WITHOUT_LIBRARIES, *modules]
    ran = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


@pytest.mark.parametrize("name", ALL)
def test_help_needs_no_heavy_library_and_is_the_same_under_both_names(
    name: str, helps: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    module = as_run(ALL[name][0])
    status, text = helps[module]
    with pytest.raises(SystemExit) as end:
        main([*name.split(), "--help"])
    ours = capsys.readouterr().out
    assert (end.value.code or 0) == status == 0
    assert f"usage: chimney {name}" in ours
    assert ours.replace(f"chimney {name}", "…").split() == text.replace(f"python -m {module}", "…").split()


@pytest.mark.parametrize("name", ALL)
def test_an_unknown_flag_ends_both_names_with_the_same_status_and_sentence(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ALL[name][0]
    sentences = []
    for run, program in (
        (lambda: main([*name.split(), "--no-such-flag"]), f"chimney {name}"),
        (lambda: import_module(module).main(["--no-such-flag"]), f"python -m {as_run(module)}"),
    ):
        with pytest.raises(SystemExit) as end:
            run()
        assert end.value.code == 2
        sentences.append(capsys.readouterr().err.replace(program, "…"))
    assert sentences[0] == sentences[1]
    assert sentences[0].startswith("error: ")
    assert len(sentences[0].splitlines()) == 1


@pytest.mark.parametrize("argv", [[], ["--help"], ["bench"]])
def test_without_a_command_each_one_is_listed_with_a_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 0
    out = capsys.readouterr().out
    for name, (_, line) in (BENCHMARKS if argv == ["bench"] else COMMANDS).items():
        assert f"  {name} " in out
        assert line in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_mistyped_command_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "found 'trian'; did you mean chimney train?" in capsys.readouterr().err


def test_the_script_of_setup_cfg_is_the_function_tested_here() -> None:
    assert "chimney = train.cli:main" in (ROOT / "setup.cfg").read_text()


@pytest.mark.parametrize("hidden", ["model.py", "model"])
def test_a_file_of_the_user_does_not_hide_our_packages_from_chimney(hidden: str, tmp_path: Path) -> None:
    if hidden.endswith(".py"):
        (tmp_path / hidden).write_text("print('the wrong model')\n")
    else:
        (tmp_path / hidden).mkdir()
        (tmp_path / hidden / "__init__.py").touch()
    path = {"PYTHONPATH": str(ROOT), "PATH": ""}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *command], cwd=tmp_path, env=path, capture_output=True, text=True)

    module = run("-m", "train", "--help")
    assert (module.returncode, module.stdout) == (2, "")
    assert module.stderr.startswith(f"error: {tmp_path / hidden}")
    assert "use the command chimney" in module.stderr
    assert len(module.stderr.splitlines()) == 1
    # A console script has its own folder, not the working folder, at the front of the path.
    script = run("-c", "import sys; del sys.path[0]; from train.cli import main; main()", "train", "--help")
    assert (script.returncode, script.stderr) == (0, "")
