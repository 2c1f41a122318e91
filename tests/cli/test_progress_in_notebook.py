"""What a notebook shows of a command's progress, from a kernel or a terminal like a kernel's."""

import os
import pty
import subprocess
import sys
import termios

import pytest

from zeronvs._core.progress import ProgressEvent, ProgressLine
from zeronvs.cli.report import StageBars, progress_bar

SHOW = """
from zeronvs._core.progress import ProgressEvent
from zeronvs.cli.report import progress_bar
with progress_bar() as progress:
    for step in range(4):
        progress(ProgressEvent("lift", step, 3))
    progress(ProgressEvent("render", 1, 2, {"loss": 0.5}))
"""


def run_in_terminal(environment: dict[str, str]) -> str:
    """Return what the program prints in a pseudo-terminal, which kernels give to commands."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # as kernels do
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        check=False,
        env=environment,
        stdout=theirs,
        stderr=theirs,
        timeout=60,
    )
    os.close(theirs)
    printed = b""
    while True:
        try:
            received = os.read(ours, 1 << 16)
        except OSError:  # Linux: everything is read
            break
        if not received:
            break
        printed += received
    os.close(ours)
    assert done.returncode == 0, printed
    return printed.decode()


@pytest.mark.parametrize("mark", [{"JPY_PARENT_PID": "7"}, {"MPLBACKEND": "module://inline"}])
def test_a_command_of_a_notebook_never_moves_the_cursor_up(mark: dict[str, str]):
    clean = {k: v for k, v in os.environ.items() if k not in ("JPY_PARENT_PID", "MPLBACKEND")}
    clean |= {"TERM": "xterm-color"}
    assert "\x1b[1A" in run_in_terminal(clean)
    printed = run_in_terminal(clean | mark)
    assert "\x1b[1A" not in printed.replace("\x1b[A", "\x1b[1A")
    assert "lift: 100%" in printed
    assert "3/3" in printed
    assert "render:  50%" in printed
    assert "loss=0.5" in printed
    assert printed.count("\n") == 2  # one line for each stage


def test_each_stage_has_a_line_with_its_last_step(capsys: pytest.CaptureFixture[str]):
    line = ProgressLine()
    for step in (0, 1, 2):
        line(ProgressEvent("sample", step, 2))
    line(ProgressEvent("distill", 5))  # no total is known
    line(ProgressEvent("export", 1, 1))
    rows = [row.split("\r")[-1] for row in capsys.readouterr().err.split("\n")]
    assert rows[0].startswith("sample: 100%")
    assert "2/2" in rows[0]
    assert rows[1].startswith("distill: 5it")
    assert rows[2].startswith("export: 100%")


def test_a_log_in_a_notebook_is_a_log(monkeypatch, capsys):
    monkeypatch.setenv("JPY_PARENT_PID", "7")
    with progress_bar() as progress:  # captured: no terminal
        progress(ProgressEvent("lift", 1, 3))
    assert not isinstance(progress, StageBars | ProgressLine)
    assert capsys.readouterr().err.startswith("lift 1/3")
