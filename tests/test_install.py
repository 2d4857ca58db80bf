"""The installation: which CUDA it picks, which versions it locks, and what happens where something is missing."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import install
import install.__main__ as installation
from dali_pipes.batches.wheel import fitting_extra
from dali_pipes.errors import InputError
from dali_pipes.release.paths import ReleasePaths
from install.cuda import Gpu, choose, installed_gpus
from install.lowest import lowest
from train.engine import run
from train.recipe.presets import fast
from train.run.place import Place

ROOT = Path(__file__).parent.parent
H100 = Gpu("NVIDIA H100 80GB HBM3", "580.82.07", "9.0")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@pytest.mark.parametrize(
    ("gpus", "of_torch", "cuda", "reason"),
    [
        ([], "", "13", "no GPU"),
        ([], "12.8", "12", "the torch in the environment was built for CUDA 12.8"),
        ([H100], "", "13", "the driver 580.82.07 and the NVIDIA H100 80GB HBM3 support it"),
        ([H100], "12.6", "12", "built for CUDA 12.6"),
        ([H100._replace(driver="550.54.15")], "", "12", "the driver 550.54.15 is older than 580"),
        ([H100._replace(driver="550.54.15")], "13.0", "12", "the driver 550.54.15 is older than 580"),
        ([H100, Gpu("Tesla V100-SXM2-16GB", "580.82.07", "7.0")], "", "12", "not support the Tesla V100-SXM2-16GB"),
        ([Gpu("Tesla T4", "580.82.07", "7.5")], "", "13", "Tesla T4"),
    ],
)
def test_the_cuda_fits_the_gpu_first_and_then_the_torch_that_is_there(
    gpus: list[Gpu], of_torch: str, cuda: str, reason: str
) -> None:
    chosen, why = choose(gpus, of_torch)
    assert chosen == cuda
    assert reason in why
    assert "\n" not in why


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'NVIDIA H100 80GB HBM3, 580.82.07, 9.0'", [H100]),
        ("echo 'NVIDIA A100, PCIe, 535.104, 8.0'; echo 'T4, 535.104, 7.5'", ["NVIDIA A100, PCIe", "T4"]),
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the driver.'; exit 9", []),
        ("echo 'No devices were found'", []),
        ("echo 'Some GPU, [N/A], [N/A]'", []),
        ("true", []),
    ],
)
def test_the_gpus_are_those_that_nvidia_smi_lists(
    script: str, found: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert [gpu if gpu == H100 else gpu.name for gpu in installed_gpus()] == found


def requirements(*sections: str) -> list[Requirement]:
    """What setup.cfg asks for, in `install_requires` and the named extras."""
    config = ConfigParser()
    config.read_string((ROOT / "setup.cfg").read_text("utf-8"))
    extras = config["options.extras_require"]
    lines = "\n".join([config["options"]["install_requires"], *(extras[name] for name in sections)]).splitlines()
    return [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]


def locked(cuda: str, python: str) -> dict[str, Requirement]:
    """The pins of install/cuda….txt that apply to `python` on Linux, by name; each has a hash."""
    blocks = re.findall(r"^(\S.*?)((?: \\\n    \S+)+)$", (ROOT / f"install/cuda{cuda}.txt").read_text(), re.MULTILINE)
    where = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    where |= {"platform_machine": "x86_64", "platform_python_implementation": "CPython"}
    pins = [Requirement(pin) for pin, hashes in blocks if "--hash=sha256:" in hashes]
    return {pin.name: pin for pin in pins if not pin.marker or pin.marker.evaluate(where)}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("cuda", ["12", "13"])
def test_the_locked_versions_fulfil_setup_cfg_with_one_wheel_of_dali(cuda: str, python: str) -> None:
    pins = locked(cuda, python)
    for wanted in requirements("dev", f"cuda{cuda}"):
        pin = pins[wanted.name.lower().replace("_", "-")]
        [version] = [specifier.version for specifier in pin.specifier if specifier.operator == "=="]
        assert wanted.specifier.contains(version), f"{pin} does not fulfil {wanted}; run make lock"
    assert [name for name in pins if name.startswith("nvidia-dali")] == [f"nvidia-dali-cuda{cuda}0"]
    assert "setuptools" in pins, "the second command of the installation builds without downloading anything"


def test_every_locked_file_has_a_hash() -> None:
    for path in sorted((ROOT / "install").glob("cuda*.txt")):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if not line.startswith(" "):
                assert re.match(r"    --hash=sha256:[0-9a-f]{64}", after), f"{path.name}: {line} has no hash"


def test_the_lower_bounds_come_from_setup_cfg(tmp_path: Path) -> None:
    pins = {pin.name: str(pin.specifier) for pin in map(Requirement, lowest(ROOT / "setup.cfg"))}
    bounded = [wanted for wanted in requirements("dev", "cuda12", "cuda13") if wanted.specifier]
    assert pins == {wanted.name: str(wanted.specifier).replace(">=", "==") for wanted in bounded}
    assert len(pins) > 15
    setup = tmp_path / "setup.cfg"
    setup.write_text("[options]\ninstall_requires =\n    torch>=2.9,<3\n[options.extras_require]\n")
    with pytest.raises(ValueError, match=r"NAME>=VERSION in .*, found 'torch>=2.9,<3'"):
        lowest(setup)


def test_the_installation_imports_the_standard_library_only() -> None:
    for path in (ROOT / "install").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            absolute = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else absolute
            assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names), path.name


class Recorder:
    """Stands for `subprocess.run`: records the commands, and fails for those that ask for what is absent."""

    def __init__(self, absent: tuple[str, ...] = ()) -> None:
        self.absent, self.commands = absent, list[str]()

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        line = " ".join(command)
        self.commands.append(line)
        return subprocess.CompletedProcess(
            command, int(any(word in line for word in self.absent)), stdout="", stderr=""
        )


@pytest.mark.parametrize(
    ("present", "made"),
    [
        (("ensurepip", "pip"), ["-m venv {}"]),
        (("pip",), ["-m venv {} --without-pip", "-m pip --python {}/bin/python install pip"]),
    ],
)
def test_an_environment_is_made_with_ensurepip_or_with_pip(
    present: tuple[str, ...], made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(subprocess, "run", recorder)
    monkeypatch.setattr(installation, "find_spec", lambda name: name if name in present else None)
    folder = tmp_path / "venv"
    assert installation.make_environment(folder) == folder / "bin/python"
    assert recorder.commands == [f"{sys.executable} {command.format(folder)}" for command in made]


def test_without_ensurepip_and_pip_one_sentence_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        installation.make_environment(tmp_path / "venv")
    assert end.value.code == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("error: expected a Python with ensurepip or pip, found neither")
    assert "apt install python3-venv" in sentence
    assert sentence.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_an_old_python_gets_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 6, 15))
    with pytest.raises(SystemExit) as end:
        importlib.reload(install)
    assert end.value.code == 2
    assert "expected Python 3.10 to 3.13, found 3.6; name another one" in capsys.readouterr().err


def test_the_other_wheel_of_dali_is_removed_before_the_one_that_fits_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(subprocess, "run", recorder)
    monkeypatch.setattr(installation, "choose", lambda *_: ("13", "of a reason"))
    installation.install_locked(Path("python"), None)
    assert capsys.readouterr().out == "torch and DALI for CUDA 13 (install/cuda13.txt): of a reason\n"
    pip = [line.removeprefix("python -m pip ") for line in recorder.commands if line.startswith("python -m pip")]
    assert pip[0] == "uninstall --yes nvidia-dali-cuda120"
    assert pip[1] == f"install --no-compile --require-hashes --requirement {ROOT}/install/cuda13.txt"
    assert pip[2] == f"install --no-deps --no-build-isolation --editable {ROOT}"
    monkeypatch.setattr(subprocess, "run", recorder := Recorder(absent=("nvidia-dali",)))
    installation.install_locked(Path("python"), "12")
    assert "uninstall" not in " ".join(recorder.commands)


def test_the_extra_fits_the_cuda_of_torch() -> None:
    assert [fitting_extra(cuda) for cuda in ("12.8", "13.0", None)] == ["cuda12", "cuda13", "cuda13"]


def test_a_run_without_dali_ends_before_it_reads_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(InputError, match=r'install the extra cuda1[23]: pip install "\.\[cuda1[23]\]"'):
        run._check_before_reading(fast(), Place.from_environment(), ReleasePaths(tmp_path), tmp_path / "out")


def test_every_extra_in_the_pages_and_the_dockerfile_exists() -> None:
    config = ConfigParser()
    config.read_string((ROOT / "setup.cfg").read_text("utf-8"))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "Dockerfile"]
    named = re.findall(r'"\.\[([^\]]+)\]"', "".join(page.read_text("utf-8") for page in pages))
    extras = {extra for names in named for extra in names.replace("${CUDA}", "13").split(",")}
    assert extras >= {"cuda12", "cuda13"}
    assert extras <= set(config["options.extras_require"])
