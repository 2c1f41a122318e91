"""A training that is killed at any moment resumes with the losses of an uninterrupted one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from train_process import train

import zeronvs

STEPS, KILLED_AFTER, PATIENCE_S = 11, 7, 120
SCRIPT = Path(__file__).with_name("train_process.py")


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def steps_done(out: Path) -> int:
    log = out / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def start_processes(out: Path, steps: int, batch: int, count: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    package = Path(zeronvs.__file__).parents[1]
    paths = [str(package), str(SCRIPT.parent), str(SCRIPT.parent.parent)]
    settings = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(count):
        launched = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
        }
        launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        more = {name: str(value) for name, value in launched.items()} if count > 1 else {}
        words = [sys.executable, str(SCRIPT), str(out), str(steps), str(batch)]
        started.append(subprocess.Popen(words, env=settings | more))
    return started


def kill_in_the_middle(processes: list[subprocess.Popen], out: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while steps_done(out) < KILLED_AFTER and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        assert process.wait(PATIENCE_S) == -signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training of one process that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    train(out, STEPS, batch=4)
    return out


def test_one_process_killed_resumes_with_the_same_losses(uninterrupted: Path, tmp_path: Path):
    kill_in_the_middle(start_processes(tmp_path, 10_000, 4, count=1), tmp_path)
    assert steps_done(tmp_path) >= KILLED_AFTER
    train(tmp_path, STEPS, batch=4)
    assert losses(tmp_path) == losses(uninterrupted)
    whole, resumed = (load_file(out / "state.safetensors") for out in (uninterrupted, tmp_path))
    assert all(tensor.equal(resumed[name]) for name, tensor in whole.items())


def test_two_processes_killed_resume_as_one_with_twice_the_batch(
    uninterrupted: Path, tmp_path: Path
):
    kill_in_the_middle(start_processes(tmp_path, 10_000, 2, count=2), tmp_path)
    before = losses_kept(tmp_path)
    resumed = start_processes(tmp_path, STEPS, 2, count=2)
    assert [process.wait(PATIENCE_S) for process in resumed] == [0, 0]
    # The same numbers where they were kept; the sum over processes is rounded in another order.
    assert losses(tmp_path)[: len(before)] == before
    assert losses(tmp_path) == pytest.approx(losses(uninterrupted), rel=1e-4)


def losses_kept(out: Path) -> list[float]:
    return losses(out)[:KILLED_AFTER]
