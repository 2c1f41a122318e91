"""Progress and tables as they are printed."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TextColumn

from zeronvs._core.progress import ProgressEvent
from zeronvs.cli.report import PlainLines, StageBars, print_settings, print_table


def test_a_log_gets_a_line_when_a_stage_begins_and_ends(capsys: pytest.CaptureFixture[str]):
    lines = PlainLines()
    for step in range(101):
        lines(ProgressEvent("distill", step, 100, {"loss": 0.123456}))
    lines(ProgressEvent("export", 1))
    printed = capsys.readouterr().err.splitlines()
    assert printed[0].startswith("distill 0/100")
    assert printed[1].startswith("distill 100/100")
    assert "loss 0.123" in printed[1]
    assert printed[2].startswith("export")
    assert len(printed) == 3


def test_a_terminal_gets_one_bar_for_each_stage():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Bars(TextColumn("{task.description} {task.fields[values]}"), console=console) as bars:
        show = StageBars(bars)
        for step in range(3):
            show(ProgressEvent("sample anchors", step, 2))
        show(ProgressEvent("distill", 1, None, {"loss": 1.0}))
        assert [task.description for task in bars.tasks] == ["sample anchors", "distill"]
        assert bars.tasks[0].finished


def test_settings_are_printed_with_their_source_and_their_flag(capsys: pytest.CaptureFixture[str]):
    print_settings([("fov_y_rad", 0.872665, "default"), ("preset", "preview", "no GPU here")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["fov_deg", "50.0", "default", "--fov-deg"]
    assert lines[2].split() == ["preset", "preview", "no", "GPU", "here", "--preset"]


def test_a_long_line_of_a_table_is_not_broken(capsys: pytest.CaptureFixture[str]):
    print_table([("a", "x" * 300), ("bb", "y")])
    assert capsys.readouterr().out == f"a   {'x' * 300}\nbb  y\n"
