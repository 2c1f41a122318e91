"""Mutation testing: change one operator, constant, argument or statement, and see a test fail.

    python benchmarks/mutants.py --count 60 --workers 2

Mutants are drawn by a seed from the packages of `ROOMS`. Each runs the tests of its room in a copy
of the tree, the mirrored test file first, until a test fails. Results go to a JSON-lines log: a
second run with the same log continues, `--retry` repeats the mutants that survived. What cannot
change a result is not mutated: docstrings, strings, annotations, decorators, errors.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import queue
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from mutant_sites import REPOSITORY, Mutant, mutant_at, sites_of

ROOMS = {
    "recipes": ("tests/recipes", "tests/cli/test_scene_verb.py", "tests/cli/test_views_verb.py"),
    "distillation": ("tests/distillation", "tests/recipes"),
    "exports": ("tests/exports", "tests/formats", "tests/recipes"),
    "photo": ("tests/photo", "tests/recipes"),
    "scene": ("tests/scene", "tests/recipes/test_far_path.py"),
}
"""Package -> where its tests are."""
MODULES = {
    "scene": (
        "lift",
        "depth_edges",
        "matting",
        "matting_loops",
        "surface_splats",
        "continuation",
        "surround",
        "rasterizer_cpu",
        "splat_scene",
    ),
}
"""Package -> the modules that are changed, where it is not all: the rest of `scene` (the radiance
field) has twins and goldens, and its tests would take most of the time."""
UNRELATED = ("test_field", "test_field_scene", "test_hash_grid", "test_proposal", "test_renderer")
"""Tests of `scene` that none of its modules above can fail."""
PRELOADED = (
    "torch",
    "numpy",
    "PIL.Image",
    "av",
    "trimesh",
    "skimage.measure",
    "safetensors.torch",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.schedulers.scheduling_ddim",
    "transformers.models.clip.modeling_clip",
    "diffusers.pipelines.pipeline_utils",
)
"""Imported once; the processes of the mutants are forked from there."""
PLUGIN_WARNING = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a mutant."""

    key: str
    room: str
    path: str
    line: int
    kind: str
    before: str
    after: str
    outcome: str
    """killed, survived or timeout."""
    seconds: float
    killer: str = ""
    """The first failing test."""


def drawn_mutants(
    count: int, seed: int, only: tuple[str, ...] = (), skip: tuple[str, ...] = ()
) -> list[Mutant]:
    """Draw mutants of all rooms; a larger count with the same seed adds to a smaller one.

    Args:
        count: How many.
        seed: Of the draw.
        only: Modules whose path holds one of these; all if empty.
        skip: But none whose path holds one of these.
    """
    places = [
        (path, room, number)
        for room in ROOMS
        for path in sorted((REPOSITORY / "src/zeronvs" / room).rglob("*.py"))
        if path.stem in MODULES.get(room, (path.stem,))
        if not only or any(part in str(path) for part in only)
        if not any(part in str(path) for part in skip)
        for number in range(len(sites_of(path)[1]))
    ]
    random.Random(seed).shuffle(places)
    drawn = (mutant_at(*place) for place in places)
    telling = (m for m in drawn if (m.kind, m.before) != ("dropped keyword", "strict"))
    return list(itertools.islice(telling, count))


def ordered_tests(folder: Path, room: str, path: str) -> list[str]:
    """Return the test files of a room, those that are likeliest to fail for a module first."""
    module = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
    found = []
    for name in ROOMS[room]:
        place = folder / name
        found += [place] if place.is_file() else sorted(place.rglob("test_*.py"))
    if room == "scene":
        found = [test for test in found if test.stem not in UNRELATED]

    def rank(test: Path) -> int:
        if not path or test.stem == f"test_{Path(path).stem}":
            return 0
        return 1 if f"from {module} import" in test.read_text(encoding="utf-8") else 2

    return [str(test.relative_to(folder)) for test in sorted(found, key=rank)]


def _pytest(folder: Path, tests: list[str], output: Path) -> None:
    """Run tests in this process, a fresh fork, and exit with pytest's code."""
    os.setsid()
    with output.open("w") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    os.chdir(folder)
    sys.path[:0] = [str(folder / "src")]
    os.environ |= {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    import pytest

    options = ["-x", "-q", "-rfE", "-p", "no:cacheprovider", "-W", PLUGIN_WARNING]
    sys.exit(int(pytest.main([*options, *tests])))


class Worker:
    """A copy of the tree in which one mutant after the other is tested."""

    def __init__(self, context: ForkServerContext, folder: Path) -> None:
        self.context, self.folder, self.written = context, folder, 0
        self.process: ForkServerProcess | None = None
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "out")
        shutil.copytree(REPOSITORY, folder, ignore=ignored, symlinks=True)

    def run(self, room: str, timeout: float, path: str = "") -> tuple[str, float, str]:
        """Run the tests of a room; return the outcome, the seconds and the first failing test."""
        tests = ordered_tests(self.folder, room, path)
        output = self.folder / "output.txt"
        output.write_text("")
        process = self.context.Process(target=_pytest, args=(self.folder, tests, output))
        began, self.process = time.monotonic(), process
        process.start()
        process.join(timeout)
        seconds = round(time.monotonic() - began, 1)
        if process.is_alive():
            _kill(process)
            process.join()
            return "timeout", seconds, ""
        text = output.read_text(errors="replace")
        failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
        killer = failed[0].split(" - ")[0] if failed else text[-200:] or f"{process.exitcode}"
        return ("survived", seconds, "") if process.exitcode == 0 else ("killed", seconds, killer)

    def test(self, mutant: Mutant, timeout: float) -> Result:
        """Write the mutant into the copy, test it, and restore the module."""
        path = self.folder / mutant.path
        original, times = path.read_bytes(), path.stat()
        path.write_text(mutant.source, encoding="utf-8")
        # Bytecode is recognized by the whole second in which its source was written.
        self.written += 10
        os.utime(path, (times.st_atime, times.st_mtime - self.written))
        try:
            outcome, seconds, killer = self.run(mutant.room, timeout, mutant.path)
        finally:
            path.write_bytes(original)
            os.utime(path, (times.st_atime, times.st_mtime))
        values = {name: v for name, v in asdict(mutant).items() if name != "source"}
        return Result(key=mutant.key, outcome=outcome, seconds=seconds, killer=killer, **values)


def _kill(process: ForkServerProcess) -> None:
    """End a process and what it has started."""
    if process.pid is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not started its own group yet
            process.kill()


def run_all(
    mutants: list[Mutant], log: Path, workers: int, timeout: float, *, check: bool = True
) -> None:
    """Test mutants in parallel, each result a line of the log.

    Args:
        mutants: Which.
        log: Results are appended.
        workers: Processes at a time.
        timeout: Seconds for the tests of one mutant.
        check: Whether the unchanged tests of each room must pass first.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    waiting: queue.Queue[Mutant] = queue.Queue()
    for mutant in mutants:
        waiting.put(mutant)
    lock, done, folders = threading.Lock(), Counter(), Path(tempfile.mkdtemp(prefix="mutants-"))
    started: list[Worker] = []
    checked: dict[str, threading.Event] = {}

    def work(number: int) -> None:
        worker = Worker(context, folders / str(number))
        started.append(worker)
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            with lock:
                first = mutant.room not in checked
                event = checked.setdefault(mutant.room, threading.Event())
            if first and not check:
                event.set()
            elif first:  # the tests must pass as they are
                outcome, seconds, killer = worker.run(mutant.room, timeout)
                print(f"{mutant.room}: unchanged, {outcome} in {seconds} s {killer}", flush=True)
                if outcome != "survived":
                    os._exit(1)
                event.set()
            event.wait()
            result = worker.test(mutant, timeout)
            with lock, log.open("a") as handle:
                handle.write(json.dumps(asdict(result)) + "\n")
                done[result.outcome] += 1
                print(
                    f"{sum(done.values())}/{len(mutants)} {result.outcome} {result.path}:"
                    f"{result.line} {result.kind}: {result.before} -> {result.after}",
                    flush=True,
                )

    threads = [
        threading.Thread(target=work, args=(number,), daemon=True) for number in range(workers)
    ]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except (KeyboardInterrupt, SystemExit):
        lock.acquire()  # what is ended now is no result
        for worker in started:
            if worker.process is not None and worker.process.is_alive():
                _kill(worker.process)
        shutil.rmtree(folders, ignore_errors=True)
        os._exit(130)
    shutil.rmtree(folders, ignore_errors=True)


def read_log(log: Path) -> dict[str, Result]:
    """Return the last result of each mutant in a log."""
    results = {}
    for line in log.read_text().splitlines() if log.is_file() else []:
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError):  # the line that a killed run was writing
            continue
        results[result.key] = result
    return results


def print_table(results: list[Result]) -> None:
    """Print counts by room, and the mutants that survived."""
    print(f"\n{'room':<14}{'killed':>8}{'survived':>10}{'timeout':>9}{'score':>8}")
    counts = Counter((result.room, result.outcome) for result in results)
    for room in [*ROOMS, "all"]:
        rooms = list(ROOMS) if room == "all" else [room]
        killed, survived, late = (
            sum(counts[name, outcome] for name in rooms)
            for outcome in ("killed", "survived", "timeout")
        )
        total = killed + survived + late
        score = f"{(killed + late) / total:.0%}" if total else "-"
        print(f"{room:<14}{killed:>8}{survived:>10}{late:>9}{score:>8}")
    for result in results:
        if result.outcome == "survived":
            print(f"{result.path}:{result.line} {result.kind}: {result.before} -> {result.after}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Change the code at random and see a test fail.")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=400.0, help="seconds a mutant")
    parser.add_argument("--only", nargs="*", default=[], help="parts of paths to keep to")
    parser.add_argument("--skip", nargs="*", default=[], help="parts of paths to leave out")
    parser.add_argument("--log", type=Path, default=REPOSITORY / "out" / "mutants.jsonl")
    parser.add_argument("--retry", action="store_true", help="repeat what survived")
    parser.add_argument("--unchecked", action="store_true", help="do not run unchanged tests first")
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    options = parser.parse_args()
    mutants = drawn_mutants(options.count, options.seed, tuple(options.only), tuple(options.skip))
    if options.list:
        for mutant in mutants:
            print(f"{mutant.path}:{mutant.line} {mutant.kind}: {mutant.before} -> {mutant.after}")
        return
    options.log.parent.mkdir(parents=True, exist_ok=True)
    known = read_log(options.log)
    repeated = ("survived",) if options.retry else ()
    left = [m for m in mutants if m.key not in known or known[m.key].outcome in repeated]
    if left:
        run_all(left, options.log, options.workers, options.timeout, check=not options.unchecked)
    known = read_log(options.log)
    print_table([known[m.key] for m in mutants if m.key in known])


if __name__ == "__main__":
    main()
