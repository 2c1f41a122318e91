"""Tasks in processes: their order, their ends, and that none outlives what it was started by."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import wait_for
from task_work import make_worker

from zeronvs.web.task_queue import BUG, TaskQueue, TaskStatus


@pytest.fixture
def reports() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def queue(reports):
    def changed(key: str, status: TaskStatus) -> None:
        reports.append((key, status.state))

    with TaskQueue(make_worker, limit_s=60.0, changed=changed) as queue:
        yield queue


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # A process whose parent was killed stays as a zombie where nobody collects it.
    status = Path(f"/proc/{process}/stat")
    return not (status.exists() and status.read_text(encoding="utf-8").split()[2] == "Z")


def number_in(path: Path) -> int:
    wait_for(lambda: path.exists() and path.read_text(encoding="utf-8"))
    return int(path.read_text(encoding="utf-8"))


def end_of(queue: TaskQueue, key: str) -> TaskStatus:
    wait_for(lambda: queue.status(key).state not in ("waiting", "running"))
    return queue.status(key)


def test_tasks_run_one_after_the_other_each_in_its_own_process(queue, reports, tmp_path: Path):
    for name in "abc":
        queue.put(name, ("write", tmp_path / name))
    assert [queue.status(name).ahead for name in "bc"] == [1, 2]
    assert len(queue) == 3
    assert end_of(queue, "c").state == "done"
    expected = [(name, state) for name in "abc" for state in ("running", "done")]
    wait_for(lambda: reports == expected)
    assert len({number_in(tmp_path / name) for name in "abc"} - {os.getpid()}) == 3
    assert len(queue) == 0


def test_progress_is_seen_while_a_task_runs(queue, tmp_path: Path):
    queue.put("a", ("sleep", tmp_path / "a"))
    wait_for(lambda: queue.status("a").event)
    event = queue.status("a").event
    assert (event.stage, event.step, event.total) == ("sleep", 1, 2)


def test_a_task_that_fails_says_why_and_the_next_one_runs(queue, tmp_path: Path, capfd):
    for word in ("refuse", "break", "die", "write"):
        queue.put(word, (word, tmp_path / word))
    assert end_of(queue, "write").state == "done"
    assert queue.status("refuse").message == "it is no photograph"
    assert queue.status("break").message == BUG
    assert "lack of memory" in queue.status("die").message
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


def test_a_task_that_takes_too_long_is_ended(tmp_path: Path):
    with TaskQueue(make_worker, limit_s=3.0) as queue:
        queue.put("a", ("sleep", tmp_path / "a"))
        process = number_in(tmp_path / "a")
        assert "longer than 0.05 minutes" in end_of(queue, "a").message
        wait_for(lambda: not is_alive(process))


def test_cancelling_ends_the_process_at_once_and_the_name_can_be_used_again(queue, tmp_path):
    queue.put("a", ("sleep", tmp_path / "a"))
    queue.put("b", ("write", tmp_path / "b"))
    process = number_in(tmp_path / "a")
    queue.cancel("b")
    queue.cancel("a")
    assert not is_alive(process)
    assert [queue.status(name).state for name in "ab"] == ["cancelled", "cancelled"]
    queue.put("a", ("write", tmp_path / "again"))
    assert end_of(queue, "a").state == "done"
    assert not (tmp_path / "b").exists()


def test_forgetting_cancels_all_tasks_whose_names_begin_so(queue, tmp_path: Path):
    for name in ("one", "one more", "two"):
        queue.put(name, ("sleep", tmp_path / name))
    queue.forget("one")
    assert [queue.status(name) is None for name in ("one", "one more", "two")] == [
        True,
        True,
        False,
    ]


def test_closing_ends_what_runs_without_a_report(queue, reports, tmp_path: Path):
    queue.put("a", ("sleep", tmp_path / "a"))
    process = number_in(tmp_path / "a")
    queue.__exit__()
    assert not is_alive(process)
    assert reports == [("a", "running")]


def test_no_task_outlives_a_main_process_that_was_killed(tmp_path: Path):
    program = [sys.executable, str(Path(__file__).with_name("task_work.py")), str(tmp_path)]
    main = subprocess.Popen(program)
    process = number_in(tmp_path / "pid")
    main.send_signal(signal.SIGKILL)
    main.wait()
    wait_for(lambda: not is_alive(process), seconds=10)
