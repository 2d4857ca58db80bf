"""Comparison of runs, and the tracker."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import train.compare
from train.compare import comparison_table, read_run, read_runs
from train.report.figures import rmse_by_epoch
from train.run.tracker import Tracker, open_tracker

HEADER = "tile,scene,group,polyline,length,height_m,mu_m,sigma_m,scene_seen,closed_form_m\n"


def a_run(folder: Path, errors: list[float], tile: str = "a_1.jpg") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"backbone": "convnext_atto", "data": {"select_on": "development"}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"epoch": i, "rmse": 20 / i}) + "\n" for i in (1, 2)))
    rows = [f"{tile},a,validation,1 2;3 {i},0.1,100,{100 + error},5,true,\n" for i, error in enumerate(errors)]
    (folder / "predictions.csv").write_text(HEADER + "".join(rows))
    return folder


def test_the_table_has_the_scores_of_each_run(tmp_path: Path) -> None:
    runs = [read_run(a_run(tmp_path / "one", [3.0, -4.0])), read_run(a_run(tmp_path / "two", [1.0, 1.0]))]
    console = Console(record=True, width=140)
    console.print(comparison_table(runs))
    lines = console.export_text().splitlines()
    assert [word for word in lines[1].split() if word] == [
        *("one", "convnext_atto", "2", "validation", "2", "3.54", "3.50", "-0.50", "2.78"),
    ]
    assert lines[2].split()[:6] == ["two", "convnext_atto", "2", "validation", "2", "1.00"]


def test_groups_with_different_samples_are_marked(tmp_path: Path) -> None:
    runs = [read_run(a_run(tmp_path / "one", [3.0])), read_run(a_run(tmp_path / "two", [3.0], tile="b_1.jpg"))]
    console = Console(record=True, width=140)
    console.print(comparison_table(runs))
    assert console.export_text().count("validation †") == 2


def test_a_table_without_marks_has_no_caption_for_them(tmp_path: Path) -> None:
    runs = read_runs([a_run(tmp_path / "one", [3.0]), a_run(tmp_path / "two", [4.0])])
    console = Console(record=True, width=140)
    console.print(comparison_table(runs))
    assert "†" not in console.export_text()


def test_groups_that_chose_the_epoch_are_marked(tmp_path: Path) -> None:
    settings = {
        "two": {"data": {"select_on": "development"}},
        "three": {"data": {"select_on": "validation"}},
        "four": {},
    }
    for name, config in settings.items():
        (a_run(tmp_path / name, [3.0]) / "config.json").write_text(json.dumps(config))
    console = Console(record=True, width=140)
    console.print(comparison_table(read_runs([tmp_path / name for name in settings])))
    lines = console.export_text().splitlines()
    assert ["‡" in line for line in lines[1:4]] == [False, True, True], "validation by default, as in the reference"
    assert lines[4].startswith("‡ optimistic")


def test_runs_with_the_same_name_show_their_paths_and_each_run_is_shown_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folders = [a_run(tmp_path / "a/one", [3.0]), a_run(tmp_path / "b/one", [4.0]), a_run(tmp_path / "two", [5.0])]
    assert [run.name for run in read_runs([*folders, folders[0]])] == [str(folders[0]), str(folders[1]), "two"]


def test_a_narrow_terminal_cuts_no_score(tmp_path: Path) -> None:
    console = Console(record=True, width=80)
    console.print(comparison_table(read_runs([a_run(tmp_path / ("a_long_name_" * 6), [3.0, -4.0])])))
    printed = console.export_text()
    assert "…" not in printed
    assert all(figure in printed for figure in ("3.54", "3.50", "-0.50", "2.78"))


def test_the_command_writes_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(a_run(tmp_path / name, [3.0])) for name in ("one", "two")]
    train.compare.main([*runs, "--out", str(tmp_path / "comparison.svg")])
    assert "<svg" in (tmp_path / "comparison.svg").read_text()
    assert "figure: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{tmp}/none"], "holds no finished run"),
        ([], "at least one run"),
        (["{tmp}/one", "--out", "figure.txt"], "--out takes a figure"),
        (["{tmp}/one", "--out", "{tmp}/no/figure.svg"], "lies in no folder"),
    ],
)
def test_bad_input_ends_with_one_error_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run(tmp_path / "one", [3.0])
    with pytest.raises(SystemExit) as exit_status:
        train.compare.main([argument.format(tmp=tmp_path) for argument in arguments])
    error = capsys.readouterr().err
    assert exit_status.value.code == 2
    assert sentence in error
    assert error.count("\n") == 1, error


@pytest.mark.parametrize("rmse", [(22.0, 14.0), (22.1, 22.0), (150.0, 2.0)])
def test_the_figure_has_whole_epochs_and_plain_numbers(rmse: tuple[float, float]) -> None:
    figure = rmse_by_epoch({"one": [{"epoch": i, "rmse": value} for i, value in enumerate(rmse, 1)]})
    figure.savefig(io.BytesIO(), format="svg")
    (axes,) = figure.axes
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        places = [place for place in axis.get_majorticklocs() if low <= place <= high]
        shown = axis.get_major_formatter().format_ticks(list(places))
        assert len(places) >= 2
        assert [float(text) for text in shown] == pytest.approx(places), "no powers of ten"
        assert not any(axis.get_minor_formatter().format_ticks(list(axis.get_minorticklocs())))
    assert all(place == round(place) for place in axes.get_xticks())


def test_without_the_extra_the_tracker_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.run.tracker.find_spec", lambda name: None)
    tracker = open_tracker(tmp_path)
    assert type(tracker) is Tracker
    tracker.scalars(1, {"rmse": 3.0})
    tracker.finish({}, {}, lambda: pytest.fail("nothing is drawn"))
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_scalars_settings_and_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = open_tracker(tmp_path)
    for epoch in (1, 2):
        tracker.scalars(epoch, {"epoch": epoch, "rmse": 20.0 / epoch, "about": "words"})
    tracker.finish(
        {"seed": 0, "optimizer": {"learning_rate": 1e-4, "schedule": None}},
        {"validation RMSE": 10.0},
        lambda: rmse_by_epoch({"this run": [{"epoch": 1, "rmse": 20.0}, {"epoch": 2, "rmse": 10.0}]}),
    )
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("RMSE, m")] == [(1, 20.0), (2, 10.0)]
    assert events.Tags()["images"] == ["RMSE by epoch"]
    assert "_hparams_/session_start_info" in events.summary_metadata
