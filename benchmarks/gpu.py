"""Everything about this project that depends on the device, measured on one GPU in two minutes.

Run: python benchmarks/gpu.py [--json gpu.json] [--parts NAME ...]
     python benchmarks/gpu.py --tiny                              (on a CPU: does each part run?)

Released sizes have random weights, which change no time and no memory; nothing is downloaded. A
part that fails, or needs longer than its budget, is reported and the next one begins: in a new
process where the old one died, or the device answers no more, as after an illegal memory access.
Numbers of `--tiny` say nothing but that the part runs.
"""

import argparse
import datetime
import gc
import json
import multiprocessing
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_checks
import gpu_parts
import gpu_training
import gpu_unet
import torch
from gpu_models import peak_mib, reset_peak
from gpu_parts import Bench

PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "device tests": (gpu_checks.device_tests, 25.0),
    "optimisation steps": (gpu_parts.optimisation_steps, 30.0),
    "U-Net": (gpu_unet.unet_forward, 20.0),
    "sampling": (gpu_unet.sampling, 15.0),
    "splats": (gpu_parts.splat_rendering, 15.0),
    "training": (gpu_training.training, 20.0),
    "precision": (gpu_unet.precision, 8.0),
    "preview": (gpu_parts.preview, 60.0),
    "CUDA graph": (gpu_unet.cuda_graph, 8.0),
}
"""Name to function and budget in seconds, the most valuable first."""
LEAST_SECONDS = 3.0
"""A part is not begun with less than this left."""
START_SECONDS = 60.0
"""For a process to start, and to be slow to end."""
TINY_SLACK = 10.0
"""The tiny form says that parts run, not how fast: a busy CPU has so many times the budgets."""


def limited(run: Callable[[], None], seconds: float) -> None:
    """Call a function; where the system can, end it with `TimeoutError` after some seconds."""

    def end(*_: object) -> None:
        raise TimeoutError(f"over its budget of {seconds:.0f} s")

    if not hasattr(signal, "setitimer"):
        run()
        return
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def run_part(bench: Bench, name: str, seconds_left: float) -> dict[str, Any]:
    """Run one part; return its record."""
    run, budget = PARTS[name]
    budget = min(budget * (TINY_SLACK if bench.tiny else 1.0), seconds_left)
    if budget < LEAST_SECONDS:
        return {"status": "skipped", "error": "no time left", "rows": []}
    record: dict[str, Any] = {"status": "ok", "rows": []}
    bench.begin(name, record["rows"], budget)
    reset_peak(bench.device)
    began = time.perf_counter()
    try:
        limited(lambda: run(bench), budget)
    except Exception as error:
        lines = traceback.format_exc().strip().splitlines()[-8:]
        record |= {"status": "failed", "error": f"{type(error).__name__}: {error}", "trace": lines}
        print("\n".join(["FAILED", *lines]), flush=True)
        del error
    record["seconds"] = round(time.perf_counter() - began, 2)
    record["peak_memory_mib"] = round(peak_mib(bench.device), 1)
    gc.collect()
    return record


def machine(device: str) -> dict[str, Any]:
    """Return what the numbers depend on."""
    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if device == "cuda":
        found["device_memory_mib"] = torch.cuda.get_device_properties(0).total_memory // 2**20
    return found


def is_usable(device: str) -> bool:
    """Return whether the device still answers; after some errors none of its memory does."""
    try:
        return bool((torch.ones(2, device=device).sum() == 2).item())
    except RuntimeError:
        return False


def work(device: str, tiny: bool, names: list[str], seconds: float, file: Path) -> None:
    """Run parts and write what is known after each of them; exit where the device is lost."""
    began, bench = time.perf_counter(), Bench(device=device, tiny=tiny)
    result: dict[str, Any] = {"machine": machine(device), "parts": {}}
    for name in names:
        record = run_part(bench, name, seconds - (time.perf_counter() - began))
        result["parts"][name] = record
        taken, peak = record.get("seconds", 0.0), record.get("peak_memory_mib", 0.0)
        print(f"| {name} | **{record['status']}** in {taken} s | {peak} | MiB peak |", flush=True)
        file.write_text(json.dumps(result))
        if record["status"] == "failed" and not is_usable(device):
            sys.exit("the device answers no more")


def run_all(device: str, tiny: bool, names: list[str], seconds: float) -> dict[str, Any]:
    """Run the parts in a process, and those after one that kills it in another."""
    began = time.perf_counter()
    result: dict[str, Any] = {"machine": {}, "parts": {}}
    spawn = multiprocessing.get_context("spawn")
    while left := [name for name in names if name not in result["parts"]]:
        remaining = seconds - (time.perf_counter() - began)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "parts.json"
            process = spawn.Process(target=work, args=(device, tiny, left, remaining, file))
            process.start()
            process.join(max(remaining, 0.0) + START_SECONDS)
            process.kill()  # what does not even answer its alarm
            process.join()
            written = json.loads(file.read_text()) if file.exists() else {"parts": {}}
        result["machine"] |= written.get("machine", {})
        result["parts"] |= written["parts"]
        if process.exitcode != 0 and set(left) - set(written["parts"]):
            _blame(result["parts"], left, process.exitcode)
    return result


def _blame(parts: dict[str, Any], left: list[str], code: int | None) -> None:
    """Record the part in which a process ended, unless it reported its fault itself."""
    finished = [name for name in left if name in parts]
    if finished and parts[finished[-1]]["status"] == "failed":
        return
    running = next(name for name in left if name not in parts)
    error = f"its process ended with code {code}"
    parts[running] = {"status": "failed", "error": error, "rows": []}
    print(f"| {running} | **failed**, {error} | | |", flush=True)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure all parts of the project on one GPU.")
    parser.add_argument("--tiny", action="store_true", help="small sizes; says that parts run")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, help="for all parts together; default: 115")
    arguments = parser.parse_args(words)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu" and not arguments.tiny:
        parser.error("there is no GPU here; --tiny runs every part on a CPU")
    print("| part | what | value | unit |\n|---|---|---|---|", flush=True)
    began = time.perf_counter()
    seconds_in_all = arguments.seconds or 115.0 * (TINY_SLACK if arguments.tiny else 1.0)
    found = run_all(device, arguments.tiny, arguments.parts, seconds_in_all)
    result = found["machine"] | {
        "tiny": arguments.tiny,
        "parts": {name: found["parts"][name] for name in arguments.parts},
        "seconds": round(time.perf_counter() - began, 1),
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1))
    print("\n" + " | ".join(str(v) for v in result.values() if not isinstance(v, dict)))
    return 0 if all(part["status"] == "ok" for part in result["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
