"""Splats of surfaces: they lie in the surface, and are as large as their pixels appear."""

import math

import pytest
import torch
from torch.nn import functional as F

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.scene.rasterizer import rasterize
from zeronvs.scene.surface_splats import LEAST_COSINE, surface_splats
from zeronvs.splats import GaussianSplats

SIZE, FOV_Y_RAD = 48, 0.8


def plane(tilt_rad: float) -> tuple[View, torch.Tensor]:
    """Return a view of a plane tilted about the vertical, and its normal in the world."""
    pose = orbit_pose(*(torch.tensor(value) for value in (0.0, 0.0, 1.0)))
    camera = Camera.from_fov(pose, FOV_Y_RAD, (SIZE, SIZE))
    focal_px = float(camera.intrinsics_px[0, 0])
    x = (torch.arange(SIZE) + 0.5 - 0.5 * SIZE) / focal_px
    # Points (x z, y z, -z) of the plane n.p = -1 with n = (-sin t, 0, cos t) in the camera.
    depth_z = (1 / (math.cos(tilt_rad) + math.sin(tilt_rad) * x)).expand(SIZE, SIZE)
    normal = pose[:3, :3] @ torch.tensor([-math.sin(tilt_rad), 0.0, math.cos(tilt_rad)])
    return View(torch.full((3, SIZE, SIZE), 0.5), camera, depth_z.clone()), normal


def axes(splats: GaussianSplats) -> torch.Tensor:
    """Return the splats' own axes as columns of rotations."""
    w, x, y, z = F.normalize(splats.rotations, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, dim=-2)


@pytest.mark.parametrize("tilt_deg", [0.0, 30.0, -45.0])
def test_splats_lie_in_the_surface_and_look_round_from_the_camera(tilt_deg: float):
    view, normal = plane(math.radians(tilt_deg))
    sigma_px = 0.4
    splats = surface_splats(view, torch.ones(SIZE, SIZE, dtype=torch.bool), sigma_px)
    assert len(splats) == SIZE * SIZE
    assert float(splats.scales.amin()) > 0
    thin = axes(splats)[..., 2]
    torch.testing.assert_close(thin, normal.expand_as(thin), atol=1e-3, rtol=0)
    # Projected to the image, the standard deviation is sigma_px in every direction.
    away = F.normalize(splats.means - view.camera.position, dim=-1)
    distance = (splats.means - view.camera.position).norm(dim=-1)
    focal_px = float(view.camera.intrinsics_px[0, 0])
    footprint = sigma_px * distance / focal_px
    flat = torch.eye(3) - away[:, :, None] * away[:, None, :]
    spread = flat @ splats.covariances @ flat
    seen = torch.linalg.eigvalsh(spread)[:, 1:].sqrt() / footprint[:, None]
    torch.testing.assert_close(seen, torch.ones_like(seen), atol=0.02, rtol=0)


def test_a_surface_seen_too_steeply_is_turned_towards_the_camera():
    view, _ = plane(math.radians(84.0))
    right = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    right[:, SIZE // 2 :] = True  # where the plane is in front of the camera
    splats = surface_splats(view, right, 0.4)
    assert bool(torch.isfinite(splats.scales).all())
    assert float(splats.scales.amin()) > 0
    away = F.normalize(splats.means - view.camera.position, dim=-1)
    cosine = -(axes(splats)[..., 2] * away).sum(-1)
    assert float(cosine.amin()) == pytest.approx(LEAST_COSINE, abs=1e-3)
    elongation = splats.scales[:, 1] / splats.scales[:, 0]
    torch.testing.assert_close(elongation, 1 / cosine, rtol=1e-3, atol=0)


def test_a_rolled_camera_sees_the_same_through_the_compiled_twin():
    # Level cameras leave one number of the rotation zero.
    view, _ = plane(math.radians(30.0))
    splats = surface_splats(view, torch.ones(SIZE, SIZE, dtype=torch.bool), 0.6)
    colors = torch.rand(len(splats), 3, generator=torch.Generator().manual_seed(0))
    splats = GaussianSplats(splats.means, splats.scales, splats.rotations, splats.opacities, colors)
    roll = torch.eye(4)
    roll[:2, :2] = torch.tensor([[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]])
    pose = orbit_pose(*(torch.tensor(value) for value in (0.3, 0.25, 1.2))) @ roll
    camera = Camera.from_fov(pose, FOV_Y_RAD, (40, 56))
    assert float(pose[:3, :3].abs().amin()) > 0.01
    with torch.no_grad():
        compiled = rasterize(splats, camera)
    colors.requires_grad_(True)
    plain = rasterize(splats, camera)
    assert plain[0].requires_grad
    for ours, twin in zip(compiled, plain, strict=True):
        torch.testing.assert_close(ours, twin.detach(), atol=5e-3, rtol=1e-2)
