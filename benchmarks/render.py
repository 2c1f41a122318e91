"""CPU seconds of the field, the volume renderer and the splat rasteriser, one thread.

Run: python benchmarks/render.py
"""

import time
from collections.abc import Callable

import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.rasterizer import RasterConfig, rasterize
from zeronvs.scene.renderer import RenderConfig
from zeronvs.splats import GaussianSplats

RAYS = 4096


def report(name: str, work: Callable[[], object], repeats: int = 3) -> None:
    """Print the least CPU time of some repeats, after one to warm up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    print(f"{name:<52} {best * 1e3:9.1f} ms")


def measure_scene(name: str, scene: FieldScene) -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(RAYS, 3, generator=generator)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    origins = -directions + 0.1 * torch.randn(RAYS, 3, generator=generator)

    def look() -> None:
        with torch.no_grad():
            scene.render_rays(origins, directions)

    def learn(with_normals: bool = False) -> None:
        seen = scene.render_rays(
            origins, directions, generator=generator, with_normals=with_normals
        )
        loss = seen.rgb.square().mean() + seen.interlevel_loss.mean()
        if seen.normal is not None:
            loss = loss + seen.normal.square().mean() + seen.mean_orientation_loss
        loss.backward()

    samples = f"{scene.render_config.proposal_samples}+{scene.render_config.final_samples}"
    report(f"{name}: {RAYS} rays x {samples}, look", look)
    report(f"{name}: {RAYS} rays x {samples}, learn", learn)
    report(f"{name}: {RAYS} rays x {samples}, learn with normals", lambda: learn(True))


def measure_splats(count: int, tile_px: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(count // 2, 3, generator=generator), dim=-1)
    floor = (torch.rand(count - count // 2, 3, generator=generator) - 0.5) * 4.0
    floor[:, 2] = -0.4
    means = torch.cat([0.4 * ball, floor]).requires_grad_(True)
    splats = GaussianSplats(
        means,
        torch.full((count, 3), 0.008),
        torch.randn(count, 4, generator=generator),
        torch.full((count,), 0.8),
        torch.rand(count, 3, generator=generator),
    )
    pose = orbit_pose(torch.tensor([0.3]), torch.tensor([0.3]), torch.tensor([1.3]))
    camera, config = Camera.from_fov(pose, 0.9, (128, 128)), RasterConfig(tile_px=tile_px)

    def look() -> None:
        with torch.no_grad():
            rasterize(splats, camera, None, config)

    name = f"{count} splats at 128x128, tiles of {tile_px}"
    report(f"{name}, look", look)
    report(f"{name}, learn", lambda: rasterize(splats, camera, None, config)[0].sum().backward())


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    measure_scene("small", FieldScene.small(generator=generator))
    measure_scene("published field", FieldScene(render_config=RenderConfig(), generator=generator))
    for tile_px in (6, 8, 16):
        measure_splats(50_000, tile_px)


if __name__ == "__main__":
    main()
