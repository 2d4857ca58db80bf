"""The command line: `chimney` equals `python -m`, help needs no heavy library, and errors say what was meant."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import train.__main__
from dali_pipes.errors import InputError
from dali_pipes.release.paths import ReleasePaths
from train.cli import BENCHMARKS, COMMANDS, main
from train.recipe.presets import demo, fast
from train.run.place import Place

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


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--relase", "DIR", "--out", "x"], "--release is missing, and --relase DIR is unknown"),
        (["--out", "x"], "--release is missing"),
        (["--release", "x", "--out", "x", "--batchsize", "3"], "--batchsize, 3; similar: --batch-size"),
        (["--release", "x", "--out", "x", "--epochs", "abc"], "--epochs takes a whole number, found 'abc'"),
    ],
)
def test_a_wrong_flag_gives_a_short_sentence_with_similar_flags(argv: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        train.__main__.parse(argv)
    assert str(error.value).endswith(f"{sentence}; see python -m train --help")
    assert len(str(error.value)) < 110
    # tyro draws its frame in another way where the output is no UTF-8 stream, as in the process below.
    framed = subprocess.run(
        [sys.executable, "-m", "train", *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert framed.stderr == f"error: {error.value}\n"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "PATH is missing"),
        (["--html", "x"], "PATH is missing"),
        (["--no-such-flag"], "PATH is missing, or a flag before it is unknown"),
        (["DIR", "--htm", "x"], "Unrecognized options: --htm, x; similar: --html"),
    ],
)
def test_a_missing_path_is_one_short_sentence(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", *argv])
    assert capsys.readouterr().err == f"error: {sentence}; see chimney inspect --help\n"


def test_the_names_of_other_trainers_mean_our_flags() -> None:
    theirs = [
        "--data-dir",
        "D",
        "--out",
        "x",
        "--model",
        "convnext_atto",
        "--lr",
        "0.5",
        "--precision=fp32",
        "--workers",
        "3",
        "--imgsz",
        "64",
    ]
    ours = [
        "--release",
        "D",
        "--out",
        "x",
        "--backbone",
        "convnext_atto",
        "--optimizer.learning-rate",
        "0.5",
        "--runtime.precision",
        "fp32",
        "--data.threads",
        "3",
        "--data.size",
        "64",
    ]
    assert train.__main__.parse(theirs) == train.__main__.parse(ours)


def test_help_shows_plain_values_and_examples_on_lines_of_their_own(helps: dict[str, Any]) -> None:
    for module, (_, text) in helps.items():
        assert "None" not in text, module
    assert "(default: runs/DATE-PRESET)" in " ".join(helps["train"][1].replace("│", "").split())
    examples = [line for line in helps["train"][1].splitlines() if "-m train --release" in line]
    assert len(examples) == 2


def test_an_optional_value_may_be_given_as_the_word_none() -> None:
    argv = ["--release", "x", "--out", "x", "--model.layer-scale"]
    for word in ("none", "None"):
        assert train.__main__.parse([*argv, word]).config.model.layer_scale is None
    assert train.__main__.parse([*argv, "0.5"]).config.model.layer_scale == 0.5


def test_a_configuration_in_yaml_or_json_gives_flags_that_the_command_line_overrides(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "preset: fast\nrelease: D\nepochs: 7\nbatch-size: 4\nsplit: scene\noptimizer:\n  learning-rate: 1e-3\n"
        "  ema: 0\nmodel.layer_scale: null\nmodel.mirror: false\n"
    )
    parsed = train.__main__.parse(["--config", str(file), "--epochs", "8"])
    optimizer = replace(fast().optimizer, learning_rate=1e-3, ema=0.0)
    data, model = replace(fast().data, split="scene"), replace(fast().model, layer_scale=None, mirror=False)
    expected = replace(fast(), epochs=8, batch_size=4, data=data, model=model, optimizer=optimizer)
    assert (parsed.config, str(parsed.paths.release), parsed.preset) == (expected, "D", "fast")
    (tmp_path / "config.json").write_text(json.dumps(asdict(expected)))
    assert train.__main__.parse([f"--config={tmp_path / 'config.json'}", "--release=D"]).config == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epocs: 3\n", r"a.yaml has a wrong setting: .*--epocs=3; similar: --epochs"),
        ("epochs: many\n", r"a.yaml has a wrong setting: --epochs takes a whole number, found 'many'"),
        ("epochs: [1, 2]\n", r"expected one value for epochs, found a list of 2"),
        ("- 3\n", r"found at .*a.yaml: no names with values"),
        ("a: [\n", r"found at .*a.yaml: while parsing"),
        (None, r"found at .*a.yaml: No such file"),
    ],
)
def test_a_wrong_configuration_names_its_file_and_setting(text: str | None, sentence: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=sentence):
        train.__main__.parse(["--config", str(tmp_path / "a.yaml"), "--release", "x"])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The files of a run that --resume reads, after `--preset demo --split scene --seed 3 --train-labels L`."""
    config = replace(demo(), seed=3, data=replace(demo().data, split="scene"))
    (tmp_path / "config.json").write_text(json.dumps(asdict(config)))
    samples = {**ReleasePaths(Path("/D"), train_labels=Path("/L")).given(), "split": "…", "training": {"samples": 1}}
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    return tmp_path


@pytest.mark.parametrize("form", ["--resume {}", "--resume={}"])
def test_resume_with_a_folder_needs_no_other_flag(form: str, run_folder: Path) -> None:
    resumed = train.__main__.parse(form.format(run_folder).split())
    assert resumed.config == replace(demo(), seed=3, data=replace(demo().data, split="scene"))
    assert resumed.paths == ReleasePaths(Path("/D"), train_labels=Path("/L"))
    assert (resumed.out, resumed.resume) == (run_folder, True)


def test_resume_with_a_folder_takes_further_flags(run_folder: Path) -> None:
    resumed = train.__main__.parse(["--resume", str(run_folder), "--release", "elsewhere", "--epochs", "60"])
    assert (resumed.config.epochs, resumed.config.seed, resumed.paths.release) == (60, 3, Path("elsewhere"))


def test_resume_without_a_run_is_refused(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, sentence in (
        (["--resume", "nowhere"], "found no config.json in nowhere"),
        (["--resume", str(run_folder), "--out", "x"], "found --out x as well"),
        (["--resume", "--release", "x"], "--resume needs the folder of the run"),
    ):
        with pytest.raises(SystemExit) as end:
            train.__main__.main(argv)
        assert end.value.code == 2
        assert sentence in capsys.readouterr().err


def test_without_out_a_run_gets_a_new_folder_of_its_date_and_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = train.__main__.default_out("fast", Place())
    assert re.fullmatch(r"runs/\d{4}-\d\d-\d\d-fast", str(first))
    first.mkdir(parents=True)
    assert train.__main__.default_out("fast", Place()) == Path(f"{first}-2")
    with pytest.raises(InputError, match="name it with --out"):
        train.__main__.default_out("fast", Place(0, 2, 0, 2))
