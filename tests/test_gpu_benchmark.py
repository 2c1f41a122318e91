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


def test_a_part_that_fails_does_not_stop_the_next(repository: Path, tmp_path: Path):
    file = tmp_path / "gpu.json"
    code = (
        "import sys, gpu\n"
        "def broken(bench):\n"
        "    raise ValueError('broken on purpose')\n"
        "gpu.PARTS['splats'] = (broken, 5.0)\n"
        f"words = ['--tiny', '--device', 'cpu', '--json', {str(file)!r}]\n"
        "sys.exit(gpu.main([*words, '--parts', 'splats', 'precision']))\n"
    )
    folder = str(repository / "benchmarks")
    path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    words, env = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    parts = json.loads(file.read_text())["parts"]
    assert done.returncode == 1
    assert parts["splats"]["status"] == "failed"
    assert "broken on purpose" in parts["splats"]["error"]
    assert parts["precision"]["status"] == "ok"
