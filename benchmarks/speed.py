"""Seconds and memory of what users wait for, both sides of each comparison in one go.

Run: python benchmarks/speed.py [--skip-preview]      (about 8 minutes on two cores)
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.sds import sds_gradient
from zeronvs.scene.field_scene import FieldScene

PHOTO = Path(__file__).parent.parent / "examples" / "coffee.png"


def best_seconds(run: Callable[[], object], repeats: int = 3) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def row(what: str, value: str, against: str = "") -> None:
    print(f"| {what} | {value} | {against} |", flush=True)


def command_seconds(words: list[str]) -> float:
    return best_seconds(lambda: subprocess.run(words, check=True, capture_output=True), 5)


def start_up() -> None:
    empty = command_seconds([sys.executable, "-c", "pass"])
    ours = command_seconds([sys.executable, "-m", "zeronvs.cli", "--help"])
    row("`zeronvs --help`", f"{ours:.2f} s", f"{ours / empty:.1f}x an empty Python ({empty:.2f} s)")


def release_size_unet(device: str) -> None:
    settings = {
        "sample_size": 32,
        "in_channels": 8,
        "out_channels": 4,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    }
    with torch.device("meta"):
        unet = UNet2DConditionModel(**settings)
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        unet = unet.to_empty(device=device).to(dtype)
        with torch.no_grad():
            for parameter in unet.parameters():
                parameter.normal_(0, 0.02)
            latent = torch.randn(2, 8, 32, 32, dtype=dtype, device=device)
            tokens = torch.randn(2, 1, 768, dtype=dtype, device=device)
            step = partial(unet, latent, 500, encoder_hidden_states=tokens)
            seconds[dtype] = best_seconds(step, 2)
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    row("U-Net step, release size, with guidance, float32", f"{seconds[torch.float32]:.2f} s")
    row("the same in bfloat16", f"{seconds[torch.bfloat16]:.2f} s", f"{ratio:.1f}x faster")


def renders(device: str) -> None:
    poses = orbit_pose(torch.zeros(1), torch.full((1,), 0.3), torch.ones(1))
    camera = Camera.from_fov(poses, 0.9, (128, 128))
    small, published = FieldScene.small().to(device), FieldScene().to(device)
    with torch.no_grad():
        quick = best_seconds(lambda: small.render(camera))
        slow = best_seconds(lambda: published.render(camera))
    row("render 128x128, published field", f"{slow:.2f} s")
    row("render 128x128, preview field", f"{quick:.2f} s", f"{slow / quick:.1f}x faster")


def sds_step(device: str) -> None:
    pipe = ZeroNVSPipeline.from_pretrained("builtin").to(device)
    pose = orbit_pose(torch.zeros(1), torch.full((1,), 0.3), torch.ones(1))
    camera = Camera.from_fov(pose, 0.9, (128, 128))
    condition = pipe.encode(View(torch.rand(1, 3, 128, 128), camera), 0.7)
    target = Camera.from_fov(
        orbit_pose(torch.full((1,), 0.5), torch.full((1,), 0.3), torch.ones(1)), 0.9, (128, 128)
    )
    latent = pipe.to_latent(torch.rand(1, 3, 128, 128, device=device))
    noise = torch.randn_like(latent)
    timestep = torch.tensor([400], device=device)

    def step() -> None:
        conditioning = pipe.prepare(condition, target)
        sds_gradient(pipe, latent, timestep, noise, conditioning, 3.0)

    with torch.no_grad():
        row("one SDS gradient, built-in model, one view", f"{best_seconds(step):.2f} s")
        sample = best_seconds(lambda: pipe.sample(condition, target, [0]), 1)
    row("one sampled view, built-in model, its own settings", f"{sample:.2f} s")


def preview(device: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began = time.perf_counter()
        verb = [sys.executable, "-m", "zeronvs.cli", "scene", str(PHOTO), "-o", str(out)]
        subprocess.run([*verb, "--device", device], check=True, capture_output=True)
        seconds = time.perf_counter() - began
        record = json.loads((out / "run.json").read_text())
        metrics = json.loads((out / "metrics.json").read_text())
    memory = record["peak_memory_mib"]["process"]
    row("`zeronvs scene`, preview preset, start to end", f"{seconds:.0f} s", f"{memory:.0f} MiB")
    for name, value in record["seconds"].items():
        row(f"... {name}", f"{value:.0f} s")
    for name, value in metrics.items():
        row(f"... {name}", f"{value:.1f}")


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}: {where}\n")
    print("| what | measured | against |\n|---|---|---|")
    start_up()
    renders(device)
    sds_step(device)
    release_size_unet(device)
    if "--skip-preview" not in sys.argv:
        preview(device)


if __name__ == "__main__":
    main()
