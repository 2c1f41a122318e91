"""Everything about this project that depends on the device, measured on one GPU in two minutes.

Run: python benchmarks/gpu.py [--json gpu.json] [--parts NAME ...]
     python benchmarks/gpu.py --tiny                              (on a CPU: does each part run?)

Released sizes have random weights, which change no time and no memory; nothing is downloaded. A
part that fails, or needs longer than its budget, is reported and the next one begins. Numbers of
`--tiny` say nothing but that the part runs.
"""

import argparse
import datetime
import gc
import json
import platform
import signal
import sys
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
    began, result = time.perf_counter(), machine(device) | {"tiny": arguments.tiny, "parts": {}}
    print(" | ".join(str(value) for value in result.values() if not isinstance(value, dict)))
    print("\n| part | what | value | unit |\n|---|---|---|---|", flush=True)
    bench = Bench(device=device, tiny=arguments.tiny)
    seconds_in_all = arguments.seconds or 115.0 * (TINY_SLACK if arguments.tiny else 1.0)
    for name in arguments.parts:
        record = run_part(bench, name, seconds_in_all - (time.perf_counter() - began))
        result["parts"][name] = record
        seconds, peak = record.get("seconds", 0.0), record.get("peak_memory_mib", 0.0)
        print(f"| {name} | **{record['status']}** in {seconds} s | {peak} | MiB peak |", flush=True)
        result["seconds"] = round(time.perf_counter() - began, 1)
        if arguments.json is not None:  # after every part: a killed run keeps what it measured
            arguments.json.write_text(json.dumps(result, indent=1))
    print(f"\n{result['seconds']} s in all")
    return 0 if all(part["status"] == "ok" for part in result["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
