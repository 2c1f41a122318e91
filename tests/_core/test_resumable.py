"""A run folder has one process at a time, and is resumed with the settings it was started with."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from zeronvs._core.errors import InputError
from zeronvs._core.resumable import ResumableRun, checked_step

HOLD = """
import sys, time
from pathlib import Path
from zeronvs._core.resumable import ResumableRun
run = ResumableRun(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(120)
"""


def hold_elsewhere(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    first = hold_elsewhere(tmp_path)
    try:
        with pytest.raises(InputError, match="another process is working in") as refused:
            ResumableRun(tmp_path)
        assert "\n" not in str(refused.value)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(30)
        first.stdout.close()
    ResumableRun(tmp_path).close()


def test_a_folder_is_free_again_after_the_block(tmp_path):
    with ResumableRun(tmp_path), pytest.raises(InputError, match="another process"):
        ResumableRun(tmp_path)
    with ResumableRun(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_hold_the_folder(tmp_path):
    forking = multiprocessing.get_context("fork")
    ready, end = forking.Event(), forking.Event()
    run = ResumableRun(tmp_path)
    child = forking.Process(target=lambda: (ready.set(), end.wait(60)))
    child.start()
    try:
        assert ready.wait(60)
        with pytest.raises(InputError, match="another process"):
            ResumableRun(tmp_path)
        run.close()
        ResumableRun(tmp_path).close()
    finally:
        end.set()
        child.join(60)


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    ResumableRun(tmp_path).close()
    (tmp_path / "views").mkdir()
    left = [".run.0a1b2c3d.part.json", ".tmpX3bQ9z", "views/.000.00ff00ff.part.png"]
    kept = [".tmp", ".tmpfile", ".notes.part", "a.part", ".env", "views/000.png"]
    for name in left + kept:
        (tmp_path / name).write_text("x")
    with ResumableRun(tmp_path):
        assert not any((tmp_path / name).exists() for name in left)
        assert all((tmp_path / name).exists() for name in kept)


def test_a_folder_that_was_never_a_run_is_not_swept(tmp_path):
    (tmp_path / ".tmpX3bQ9z").write_text("of another program")
    with ResumableRun(tmp_path):
        assert (tmp_path / ".tmpX3bQ9z").exists()


def test_a_file_in_place_of_the_folder_is_one_clear_line(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file; a run needs a folder"):
        ResumableRun(tmp_path / "out")


def test_the_same_settings_resume_and_different_ones_are_all_named(tmp_path):
    settings = {"lr": 0.1, "photo": "über.jpg", "model": {"width": 3, "depth": 2}, "mix": (1, 2)}
    with ResumableRun(tmp_path / "new" / "run") as run:
        assert not run.claim(settings)
        assert run.claim(settings)
        changed = settings | {"lr": 0.2, "model": {"width": 4, "depth": 2}, "more": 1}
        with pytest.raises(InputError) as refused:
            run.claim(changed)
        assert "(lr: 0.1, now 0.2; model.width: 3, now 4; more: None, now 1)" in str(refused.value)
        assert run.claim(settings)  # a refused claim changes nothing
        stored = run.settings_path.read_bytes().decode("utf-8")
        assert json.loads(stored)["photo"] == "über.jpg"
        assert "über" in stored


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_settings_that_cannot_be_read_are_one_clear_line(tmp_path, content):
    with ResumableRun(tmp_path) as run:
        run.settings_path.write_bytes(content)
        with pytest.raises(InputError, match=r"settings\.json is not valid JSON"):
            run.claim({"lr": 0.1})


@pytest.mark.parametrize("value", [-1, 1.0, "3", None, True])
def test_a_step_is_a_whole_number_of_at_least_0(tmp_path, value):
    with pytest.raises(InputError, match="not a whole number of at least 0"):
        checked_step(value, tmp_path)
    assert checked_step(0, tmp_path) == 0
