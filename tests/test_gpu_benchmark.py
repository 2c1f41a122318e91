"""The benchmarks of one GPU run in their tiny form, on a CPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

PARTS = (
    "device tests",
    "optimisation steps",
    "U-Net",
    "sampling",
    "splats",
    "training",
    "precision",
    "preview",
    "CUDA graph",
)


def test_every_part_of_the_benchmark_reports_a_result(repository: Path, tmp_path: Path):
    file = tmp_path / "gpu.json"
    script = repository / "benchmarks" / "gpu.py"
    words = [sys.executable, str(script), "--tiny", "--device", "cpu", "--json", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads(file.read_text())
    assert tuple(result["parts"]) == PARTS
    assert {"device", "torch", "date", "seconds"} <= result.keys()
    for name, part in result["parts"].items():
        assert part["status"] == "ok", name
        assert {"seconds", "peak_memory_mib"} <= part.keys()
        assert part["rows"], name
        assert not [row for row in part["rows"] if "FAILED" in row["what"]], name
        assert f"| {name} | **ok**" in done.stdout


def test_what_a_step_keeps_in_memory_is_known_without_a_gpu(repository: Path):
    script = repository / "benchmarks" / "memory.py"
    words = [sys.executable, str(script), "--tiny"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    numbers = {
        what: [float(number) for number in re.findall(r"[0-9.]+", values)]
        for _, what, values, _ in (line.split("|") for line in done.stdout.splitlines())
    }
    kept, plain, again = numbers[
        " a ray with normals; without; rendered again in the backward pass "
    ]
    assert 90 < kept < 110  # KiB of the published field
    assert 60 < plain < 75
    assert again < 0.1


def test_the_hash_grid_is_measured_fused_and_plain(repository: Path):
    script = repository / "benchmarks" / "hash_grid.py"
    words = [sys.executable, str(script), "--tiny"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("| published |") == done.stdout.count("| small |") == 5


def test_the_agreement_of_views_sampled_around_is_measured_for_each_switch(repository: Path):
    script = repository / "benchmarks" / "around.py"
    words = [sys.executable, str(script), "--tiny"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(" of 2 |") == 10


def test_a_part_that_fails_hangs_or_dies_does_not_stop_the_next(repository: Path, tmp_path: Path):
    """The next part runs in a process of its own where the one before took the device along."""
    file, script = tmp_path / "gpu.json", tmp_path / "broken.py"
    # All but the last lines is run by each process that the benchmark starts.
    script.write_text(
        "import os, sys, time\nimport gpu, torch\n"
        "def full(bench):\n    raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "def hangs(bench):\n    time.sleep(600)\n"
        "def dies(bench):\n    os._exit(139)\n"  # as a kernel that writes where it must not
        "def loses_the_device(bench):\n"
        "    gpu.is_usable = lambda device: False\n"
        "    raise RuntimeError('illegal memory access')\n"
        "def sound(bench):\n    bench.row('process', float(os.getpid()), '')\n"
        "parts = [full, hangs, sound, dies, sound, loses_the_device, sound]\n"
        "gpu.PARTS = {f'{k}': (part, .5) for k, part in enumerate(parts)}\n"
        "gpu.LEAST_SECONDS = .1\n"
        "if __name__ == '__main__':\n"
        f"    sys.exit(gpu.main(['--tiny', '--device', 'cpu', '--json', {str(file)!r}]))\n"
    )
    path = os.pathsep.join([str(repository / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    words, env = [sys.executable, str(script)], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1, done.stderr[-2000:]
    parts = json.loads(file.read_text())["parts"]
    assert list(parts) == [str(k) for k in range(7)]
    errors = {name: part["error"] for name, part in parts.items() if part["status"] == "failed"}
    for name, says in (("0", "CUDA out of memory"), ("1", "over its budget")):
        assert says in errors.pop(name)
    assert errors.pop("3") == "its process ended with code 139"
    assert "illegal memory access" in errors.pop("5")
    assert not errors
    assert len({parts[name]["rows"][0]["value"] for name in ("2", "4", "6")}) == 3
