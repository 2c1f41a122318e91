"""The device against the CPU: the same weights, inputs and seeds, in float32 without TF32.

Every row is the largest absolute difference, and the relative one in the Euclidean norm. What
depends on comparisons (a splat's tile, a warp's holes) may differ at a few pixels; the norm
decides.
"""

import copy
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from gpu_models import builtin_model, made_splats, orbit, photo_views, released_model
from gpu_parts import Bench
from torch import Tensor

from zeronvs.cameras.warp import forward_warp
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.sds import sds_gradient, sds_loss
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.grid_kernels import PlainKernels
from zeronvs.scene.hash_grid import HashGrid, HashGridConfig
from zeronvs.scene.rasterizer import rasterize

SMOOTH, WITH_COMPARISONS = 1e-3, 2e-2
"""Largest relative difference, of what is smooth in its inputs, and of what is not."""

Values = dict[str, Tensor]


@contextmanager
def exact_float32() -> Iterator[None]:
    """Multiply in full float32 inside the block."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def device_tests(bench: Bench) -> None:
    """Compare everything that is computed on the device with its twin on the CPU."""
    checks: dict[str, tuple[Callable[[str], Values], float]] = {
        "splats": (lambda device: _splats(device, bench.tiny), WITH_COMPARISONS),
        "hash grid": (_hash_grid, SMOOTH),
        "field": (_field, WITH_COMPARISONS),
        "warp": (_warp, WITH_COMPARISONS),
        "released SDS": (_released_sds, SMOOTH),
        "sampled view, released kind": (_released_sample, SMOOTH),
        "built-in model": (lambda device: _builtin(device, bench.tiny), WITH_COMPARISONS),
    }
    wrong = []
    for name, (compute, tolerance) in checks.items():
        try:
            with exact_float32():
                ours, twin = compute(bench.device), compute("cpu")
        except Exception as error:  # the other checks still say something
            wrong.append(name)
            where = traceback.format_exc().strip().splitlines()[-3:-1]
            bench.row(f"{name}: FAILED", f"{type(error).__name__}: {error} {where}", "")
            continue
        for key, value in ours.items():
            truth = twin[key].detach().double()
            difference = value.detach().cpu().double() - truth
            relative = float(difference.norm() / truth.norm().clamp(min=1e-12))
            verdict = "ok" if relative <= tolerance else "WRONG"
            wrong += [f"{name}, {key}"] if verdict == "WRONG" else []
            bench.row(f"{name}, {key}: largest error", float(difference.abs().max()), "")
            bench.row(f"{name}, {key}: relative error ({verdict})", relative, "")
    if wrong:
        raise AssertionError(f"the device and the CPU disagree: {'; '.join(wrong)}")


def _splats(device: str, tiny: bool) -> Values:
    splats = made_splats(500 if tiny else 20_000).to(device)
    camera = orbit(2, 32 if tiny else 128)
    rgb, opacity, depth_z = rasterize(splats, camera)
    means = splats.means.requires_grad_(True)
    learnt = rasterize(splats, camera[[0]])[0]
    weight = torch.linspace(0.5, 1.5, learnt.shape[-1], device=device)
    (gradient,) = torch.autograd.grad((learnt * weight).sum(), means)
    return {"image": rgb, "opacity": opacity, "depth": depth_z, "gradient": gradient}


def _hash_grid(device: str) -> Values:
    generator = torch.Generator().manual_seed(0)
    grid = HashGrid(HashGridConfig(levels=8, log2_table_size=14), generator).to(device)
    if device == "cpu":  # the twin of the fused kernels
        grid.kernels = PlainKernels()
    with torch.no_grad():
        grid.table.mul_(1e4)
    points = torch.rand(20_000, 3, generator=generator).to(device)
    weight = torch.rand(grid.feature_count, 1, generator=generator).to(device)
    features = grid(points)
    (by_table,) = torch.autograd.grad((features * weight).sum(), grid.table, retain_graph=True)
    slope = grid.spatial_gradient(points, weight.expand_as(features).contiguous())
    (second,) = torch.autograd.grad(slope.square().mean(), grid.table)
    return {
        "features": features,
        "gradient of the table": by_table,
        "spatial gradient": slope,
        "its gradient": second,
    }


def _field(device: str) -> Values:
    generator = torch.Generator().manual_seed(0)
    scene = FieldScene.small(generator=generator)
    with torch.no_grad():
        scene.field.grid.table.mul_(3e3)
    scene = scene.to(device)
    seen = scene.render(orbit(1, 24), generator=torch.Generator().manual_seed(1), with_normals=True)
    loss = seen.rgb.square().mean() + seen.orientation_loss + seen.interlevel_loss
    loss.backward()
    gradient = scene.field.grid.table.grad
    assert gradient is not None
    return {"image": seen.rgb, "depth": seen.depth_z, "table's gradient": gradient}


def _warp(device: str) -> Values:
    view = photo_views(1, 64).to(device)
    image, validity = forward_warp(view, orbit(2, 64, 0.3)[[1]].to(device))
    return {"image": image, "validity": validity}


def _gradient_of_sds(pipe: ZeroNVSPipeline, device: str, guidance: float) -> Tensor:
    size = pipe.image_size_px
    condition = pipe.encode(photo_views(1, size)[[0]], 0.7)
    rendered = photo_views(2, size).image.to(device).requires_grad_(True)
    latent = pipe.to_latent(rendered, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(latent.shape, generator=generator).to(device)
    timestep = torch.tensor([200, 600], device=device)
    conditioning = pipe.prepare(condition, orbit(2, size))
    gradient = sds_gradient(pipe, latent, timestep, noise, conditioning, guidance)
    sds_loss(latent, gradient).backward()
    assert rendered.grad is not None
    return rendered.grad


def _moved(pipe: ZeroNVSPipeline, device: str) -> ZeroNVSPipeline:
    return copy.deepcopy(pipe).to(device)


def _released_sds(device: str) -> Values:
    pipe = _moved(released_model("cpu", tiny=True), device)
    return {"gradient of the render": _gradient_of_sds(pipe, device, 9.5)}


def _released_sample(device: str) -> Values:
    pipe = _moved(released_model("cpu", tiny=True), device)
    size = pipe.image_size_px
    condition = pipe.encode(photo_views(1, size), 0.7)
    images = pipe.sample(condition, orbit(2, size), [7, 8], num_inference_steps=4)
    return {"images": images}


def _builtin(device: str, tiny: bool) -> Values:
    pipe = _moved(builtin_model("cpu", tiny=tiny), device)
    size = pipe.image_size_px
    condition = pipe.encode(photo_views(1, size), 0.7)
    image = pipe.sample(condition, orbit(2, size, 0.4)[[1]], [7])
    return {"sampled view": image, "SDS gradient": _gradient_of_sds(pipe, device, 1.0)}
