"""The hash grid: fused kernels beside plain torch, on a CPU or a GPU.

Run: python benchmarks/hash_grid.py [--device cuda] [--tiny]      (tiny: does it run?)

Each line is the fastest of some repetitions, both kinds in turn, since other programs disturb.
"""

import argparse
import time
from collections.abc import Callable

import torch
from gpu_models import orbit, synchronize

from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.grid_kernels import GridKernels, PlainKernels
from zeronvs.scene.hash_grid import HashGrid, kernels_for


def fastest(
    runs: dict[str, Callable[[], object]], device: str, repeats: int = 3
) -> dict[str, float]:
    """Return the seconds of the fastest repetition of each function, all in turn."""
    seconds = {name: float("inf") for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            synchronize(device)
            began = time.perf_counter()
            run()
            synchronize(device)
            if repeat > 0:
                seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds


def functions(grid: HashGrid, kernels: GridKernels, count: int) -> dict[str, Callable[[], object]]:
    """Return the four functions on random points."""
    table, layout = grid.table.detach(), grid.layout
    points = torch.rand(count, 3, device=table.device)
    gradient = torch.randn(len(table), grid.config.levels, count, device=table.device)
    direction = torch.randn_like(points)
    return {
        "features": lambda: kernels.features(points, table, layout),
        "gradient of the table": lambda: kernels.table_gradient(points, table, gradient, layout),
        "gradient of the points": lambda: kernels.point_gradient(points, table, gradient, layout),
        "second gradients": lambda: kernels.second_gradients(
            points, table, gradient, direction, layout
        ),
    }


def step(scene: FieldScene, kernels: GridKernels, size_px: int) -> Callable[[], object]:
    """Return the rendering of an image with normals, and its gradient."""
    camera = orbit(1, size_px)

    def run() -> None:
        scene.zero_grad()
        for grid in (scene.field.grid, scene.proposal.grid):
            grid.kernels = kernels
        seen = scene.render(camera, with_normals=True)
        (seen.rgb.square().mean() + seen.orientation_loss + seen.interlevel_loss).backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the hash grid, fused and plain.")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    device = arguments.device
    count, size_px = (2000, 4) if arguments.tiny else (65536, 32)
    if device == "cuda":
        count, size_px = count * 16, size_px * 4
    fused, plain = kernels_for(torch.device(device)), PlainKernels()
    print(f"{type(fused).__name__} beside {type(plain).__name__}, {device}, {count} points")
    print("\n| grid | what | fused, ms | plain, ms | ratio |\n|---|---|---|---|---|")
    for name, scene in (("published", FieldScene()), ("small", FieldScene.small())):
        scene = scene.to(device)
        pairs = {"fused": fused, "plain": plain}
        made = {kind: functions(scene.field.grid, pairs[kind], count) for kind in pairs}
        what = f"image of {size_px}^2 rays with normals, and its gradient"
        for kind, kernels in pairs.items():
            made[kind][what] = step(scene, kernels, size_px)
        for function in made["fused"]:
            found = fastest({kind: made[kind][function] for kind in pairs}, device)
            ratio = found["plain"] / found["fused"]
            row = (name, function, *(f"{1e3 * found[kind]:.0f}" for kind in pairs), f"{ratio:.1f}")
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
