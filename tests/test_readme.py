"""The pages are right: their commands parse, their links lead somewhere, and their trees list files that exist.

The commands of the README and of the pages in `RUN` are also run, on a small release and with fewer steps. CI runs
`make test` itself.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

import bench.epoch
import bench.index
import bench.loader
import bench.render.__main__
import bench.scale
import bench.step
import dali_pipes.__main__
import train.__main__
import train.compare
import train.environment
import train.evaluate
import train.export
import train.predict
import train.promotion
from train.cli import BENCHMARKS, COMMANDS

DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
ROOT = Path(__file__).parent.parent
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
USE = "docs/prediction-and-export.md"
KOREAN = "docs/README.ko.md"
DATA = "docs/data-and-releases.md"
RUN = ("README.md", "docs/training.md", DATA, USE, "docs/benchmarks.md")


def blocks(page: str, kind: str) -> list[str]:
    """The code blocks of one kind, "sh" or "python", on a page."""
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)


SHELL = [
    line.split("#")[0].strip() for page in RUN for block in blocks(page, "sh") for line in block.strip().split("\n")
]
FEWER_STEPS = ["--weights=none", "--backbone=convnext_atto", "--epochs=1", "--data.size=32", "--device=cpu"]


def as_module(words: list[str]) -> list[str]:
    """`chimney inspect DIR` as `python -m dali_pipes DIR`; other commands as they are."""
    if words[:1] != ["chimney"]:
        return words
    return ["python", "-m", COMMANDS[words[1]][0].removesuffix(".__main__"), *words[2:]]


def smaller(argv: list[str]) -> list[str]:
    return [*argv, *FEWER_STEPS]


def fewer_tiles(argv: list[str]) -> list[str]:
    return [{"2000": "24", "300": "8", "80": "6"}.get(argument, argument) for argument in argv]


def unchanged(argv: list[str]) -> list[str]:
    return argv


ONCE = ["--repeats=1", "--size=32"]


def few_samples(argv: list[str]) -> list[str]:
    return [*argv, *ONCE, "--samples=32", "--batch-size=16", "--tiles=32", "--batches=2"]


def few_steps(argv: list[str]) -> list[str]:
    return [*argv, *ONCE, "--backbones=convnext_atto", "--batch-size=2", "--steps=1", "--compile=off"]


def short_epochs(argv: list[str]) -> list[str]:
    return [*argv, *ONCE, "--samples=16", "--batch-size=8"]


def little_growth(argv: list[str]) -> list[str]:
    return [*argv, *ONCE, "--samples=1000", "--ranks=8", "--batch-size=2"]


def few_records(argv: list[str]) -> list[str]:
    return [{"1000000": "1000", "3": "1"}.get(argument, argument) for argument in argv]


def keeps(argv: list[str]) -> None:
    with pytest.raises(SystemExit, match="3"):  # the release of the tests has fewer than ten scenes
        train.promotion.main(argv)


def trains(argv: list[str]) -> None:
    """Train, but skip a command whose run folder an earlier page has made."""
    if "--resume" in argv or not Path("runs/one").exists():
        train.__main__.main(argv)


MAINS: dict[str, tuple[Callable[[list[str]], None], Callable[[list[str]], list[str]]]] = {
    "bench.render": (bench.render.__main__.main, fewer_tiles),
    "dali_pipes": (dali_pipes.__main__.main, unchanged),
    "bench.loader": (bench.loader.main, few_samples),
    "bench.index": (bench.index.main, few_records),
    "bench.step": (bench.step.main, few_steps),
    "bench.epoch": (bench.epoch.main, short_epochs),
    "bench.scale": (bench.scale.main, little_growth),
    "train.environment": (train.environment.main, unchanged),
    "train": (trains, smaller),
    "train.evaluate": (train.evaluate.main, unchanged),
    "train.predict": (train.predict.main, unchanged),
    "train.export": (train.export.main, unchanged),
    "train.promotion": (keeps, unchanged),
    "train.compare": (train.compare.main, unchanged),
}


def test_the_commands_of_the_pages_run_one_after_the_other(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").symlink_to(release)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/release").symlink_to(release)
    with zipfile.ZipFile(release / "VL_KS_LINE.zip") as labels:
        drawn = [json.loads(labels.read(name)) for name in labels.namelist()[:4]]
    Path("VIA.json").write_text(json.dumps({key: image for label in drawn for key, image in label.items()}))
    ran = set()
    for line in SHELL:
        words = as_module(shlex.split(line))
        if words[:2] == ["python", "-m"]:
            main, adapt = MAINS[words[2]]
            if "runs/two" in words and not Path("runs/two").exists():
                shutil.copytree("runs/one", "runs/two")
            main(adapt(words[3:]))
            ran.add(words[2])
    assert ran == set(MAINS)
    for page in ("README.md", USE):
        for block in blocks(page, "python"):
            exec(compile(block, page, "exec"), {})
    assert (tmp_path / "runs/one-again/report.html").exists()


def test_the_loader_runs_in_a_notebook(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").symlink_to(release)
    (block,) = blocks(DATA, "python")
    exec(compile(block, DATA, "exec"), {})


def test_make_demo_ends_with_a_report(tmp_path: Path) -> None:
    assert "make demo" in SHELL
    small = ["RENDER=--train 60 --val 12 --scenes 10", "DEMO=--epochs 1 --data.size 32", f"RUNS={tmp_path}"]
    installed = ["--old-file=.venv/installed", f"BIN={Path(sys.executable).parent}"]
    result = subprocess.run(["make", "demo", *small, *installed], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert f"report: {tmp_path}/demo/report.html" in result.stdout
    assert "linear in length" in result.stdout
    assert (tmp_path / "demo/report.html").stat().st_size > 50_000


def named_commands() -> Iterator[tuple[str, str, list[str]]]:
    """(page, module, arguments) of each `-m MODULE …` and `chimney NAME …` in the code of all pages.

    A name of `chimney` that does not exist is a KeyError.
    """
    for path in PAGES:
        text = path.read_text("utf-8").replace("\\\n", " ")
        inside = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in (*"\n".join(inside).split("\n"), *inline):
            if command := re.search(r"-m ((?:dali_pipes|train|bench|tests)[\w.]*)(.*)", line):
                yield path.name, command[1], shlex.split(command[2], comments=True)
            elif command := re.match(r"(?:\S*/)?chimney (bench \w+|(?!bench|chimney)\w+)(.*)", line.strip()):
                module, _ = {**COMMANDS, **{f"bench {name}": of for name, of in BENCHMARKS.items()}}[command[1]]
                yield path.name, module.removesuffix(".__main__"), shlex.split(command[2], comments=True)


class Parsed(BaseException):
    """Raised where a command would begin its work."""


def test_the_commands_of_every_page_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = tyro.cli

    def stop(*arguments: Any, **options: Any) -> None:
        parse(*arguments, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", stop)
    monkeypatch.setattr(train.__main__, "flags_of_run", lambda run: ["--release=DIR", f"--out={run}", "--resume"])
    commands = list(named_commands())
    assert {page for page, *_ in commands} >= {"README.md", "distributed.md", "prediction-and-export.md"}
    for page, name, arguments in commands:
        try:
            module = importlib.import_module(f"{name}.__main__")
        except ModuleNotFoundError:
            module = importlib.import_module(name)
        if arguments and not {"…", "...", "--help"} & set(arguments):
            with pytest.raises(BaseException) as raised:  # noqa: PT011
                module.main(arguments)
            assert raised.type is Parsed, f"{page}: python -m {name} {shlex.join(arguments)}: {raised.value!r}"


def test_the_korean_page_leads_from_the_data_to_a_report_and_predictions() -> None:
    lines = [line for block in blocks(KOREAN, "sh") for line in block.splitlines()]
    others = [line for line in lines if not line.startswith(("chimney ", "make demo"))]
    assert others == [
        "curl -o aihubshell https://api.aihub.or.kr/api/aihubshell.do",
        "chmod +x aihubshell",
        "./aihubshell -mode l -datasetkey 71805",
        "./aihubshell -mode d -datasetkey 71805 -filekey 11111,22222 -aihubapikey 'API_KEY'",
        "source .venv/bin/activate",
        'pip install ".[cuda13]"',
    ]
    ours = [module for page, module, _ in named_commands() if page == Path(KOREAN).name]
    steps = ["train.environment", "dali_pipes", "train", "train.predict", "train.export"]
    assert [module for module in dict.fromkeys(ours) if module in steps] == steps


def test_the_pages_name_no_other_commands() -> None:
    others = [
        line
        for line in SHELL
        if line and not line.startswith(("chimney ", "python -m bench", "make demo", "make test"))
    ]
    assert others == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.is_file(), f"{link} leads to no file"
            assert not anchor or anchor in anchors(target), f"{link} leads to no heading"


def tree(page: str) -> dict[str, str]:
    """Path → comment of each entry of a page's file tree."""
    (block,) = re.findall(r"^```\n(dali_pipes/.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    folders: list[str] = []
    entries = {}
    for line in block.splitlines():
        indent, name, comment = re.fullmatch(r"( *)(\S+) +(\S.*)", line).groups()  # type: ignore[union-attr]
        folders[len(indent) // 2 :] = [name]
        entries["".join(folders)] = comment
    return entries


@pytest.mark.parametrize("page", ["README.md", "docs/design.md"])
def test_a_file_tree_lists_files_and_folders_that_exist(page: str) -> None:
    assert [path for path in tree(page) if not (ROOT / path).exists()] == []


def test_the_tree_of_the_design_lists_every_module() -> None:
    modules = (path for top in ("dali_pipes", "model", "train", "bench") for path in (ROOT / top).rglob("*.py"))
    names = {path.relative_to(ROOT).as_posix() for path in modules if path.name != "__init__.py"}
    assert names - set(tree("docs/design.md")) == set()


def test_the_walks_of_the_design_name_functions_that_exist() -> None:
    stops = re.findall(
        r"^\d\. `([a-z_/]+\.py)`, `([\w.]+)`:", (ROOT / "docs/design.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(stops) == 24, "three walks of eight stops"
    for file, name in stops:
        scope: ast.AST = ast.parse((ROOT / file).read_text("utf-8"))
        for part in name.split("."):
            inside = {node.name: node for node in ast.iter_child_nodes(scope) if isinstance(node, DEFINITIONS)}
            assert part in inside, f"{file} has no {name}"
            scope = inside[part]
