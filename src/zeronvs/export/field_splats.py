"""Gaussian splats that look like a radiance field.

Every pixel of some views of the field becomes a small disc where its ray meets the surface; discs
of one place are merged into one; then their shapes and colours are refined by gradient through our
own rasteriser until the splats' images are the field's.
"""

import math
import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from zeronvs._core.errors import HealthError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.random import seeded_generator
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import quaternion
from zeronvs.cameras.rays import camera_rays
from zeronvs.cameras.warp import project
from zeronvs.scene.rasterizer import rasterize
from zeronvs.scene.scene import Scene
from zeronvs.scene.splats import GaussianSplats

_SPREAD = 0.45  # standard deviation in the surface, in distances between neighbours
_THINNESS = 0.5  # standard deviation across the surface over the one inside of it
_WIDER = 1.15  # how much more than its cameras see is looked at, so that images have whole edges
_IN_FRONT = 0.02  # share of the depth by which a point must lie in front of what a view shows ...
_OFTEN = 0.25  # ... in this share of the views that could see it, to count as floating there
_KEY_PRIMES = (73856093, 19349663, 83492791, 2654435761)


@dataclass(frozen=True, kw_only=True)
class FieldSplatsConfig:
    """How splats are taken from a field."""

    max_splats: int = 40_000
    """Splats at most; above it, places are merged more coarsely."""
    merge_px: float = 1.0
    """Points within a cube whose side is at most this many pixels' footprints become one splat."""
    smallest_opacity: float = 0.1
    """Pixels whose ray absorbs less than this give no splat."""
    refine_steps: int = 150
    """Gradient steps at most, one view each; 0: none."""
    refine_seconds: float = 20.0
    """Wall clock at most for the gradient steps."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one camera sees of the field."""

    camera: Camera
    rgb: Float[Tensor, "3 h w"]
    """Over black."""
    opacity: Float[Tensor, "h w"]
    points: Float[Tensor, "h w 3"]
    """Where half of the absorbed light is absorbed, world coordinates."""
    depth_z: Float[Tensor, "h w"]
    """Depth of these along the optical axis, scene units."""


def splats_from_scene(
    scene: Scene,
    cameras: Camera,
    config: FieldSplatsConfig | None = None,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> GaussianSplats:
    """Return splats that look like the scene's field from `cameras` and between them.

    Args:
        scene: The scene; not changed.
        cameras: A batch of cameras from all sides from which the splats will be looked at; also
            sets the detail.
        config: Numbers and budgets.
        seed: Draws the order of the refinement's views.
        progress: Told of both stages.

    Raises:
        HealthError: No camera sees anything.
    """
    config = config or FieldSplatsConfig()
    seen = []
    for index in range(len(cameras)):
        seen.append(_look(scene, _widened(cameras[index])))
        progress(ProgressEvent("look at the field", index + 1, len(cameras)))
    splats = _without_floaters(_merged_discs(seen, config), seen)
    return _refine(splats, seen, config, seed, progress)


@torch.no_grad()
def splat_psnr(
    splats: GaussianSplats,
    scene: Scene,
    cameras: Camera,
    background: Float[Tensor, "3"] | None = None,
) -> float:
    """Return the mean PSNR in dB between images of splats and of the field (black behind both)."""
    values = []
    for index in range(len(cameras)):
        camera = cameras[index : index + 1]
        drawn = rasterize(splats, camera, background)[0]
        error = (drawn - scene.render(camera, background=background).rgb).square().mean()
        values.append(-10.0 * math.log10(max(error.item(), 1e-10)))
    return sum(values) / len(values)


def _widened(camera: Camera) -> Camera:
    """Return the camera with a wider field of view and as many pixels."""
    intrinsics_px = camera.intrinsics_px.clone()
    intrinsics_px[..., [0, 1], [0, 1]] /= _WIDER
    return replace(camera, intrinsics_px=intrinsics_px)


@torch.no_grad()
def _look(scene: Scene, camera: Camera) -> _Seen:
    """Render one view of the field with the surface points of its pixels."""
    camera = camera.to(scene.device)
    size = camera.image_size_px
    rays = camera_rays(camera)
    seen = scene.render_rays(rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3))
    distance = seen.median_distance.view(size)
    return _Seen(
        camera,
        seen.rgb.T.reshape(3, *size),
        seen.opacity.view(size),
        rays.origins + distance[..., None] * rays.directions,
        distance * rays.z_per_unit_distance,
    )


def _merged_discs(seen: list[_Seen], config: FieldSplatsConfig) -> GaussianSplats:
    """Turn pixels into surface discs, one for each occupied cube of space.

    Cubes are as large as the pixels that look into them, rounded to powers of two, so that near
    things keep their detail and far ones stay few.
    """
    columns = torch.cat([_pixel_columns(view, config.smallest_opacity) for view in seen])
    if columns.shape[0] == 0:
        raise HealthError(
            "No camera sees anything of the scene, so there is nothing to make splats of. "
            "Train longer, or look with cameras that face the scene."
        )
    points, footprint = columns[:, :3], columns[:, 3]
    merge_px = config.merge_px
    while True:
        level = (footprint * merge_px).log2().floor()
        side = 2.0**level
        place = torch.cat([points / side[:, None], level[:, None]], dim=1).floor().long()
        key = (place * torch.tensor(_KEY_PRIMES, device=place.device)).sum(dim=1)
        cubes, cube = key.unique(return_inverse=True)
        if cubes.shape[0] <= config.max_splats:
            break
        merge_px *= max(1.05, math.sqrt(cubes.shape[0] / config.max_splats))
    weighted = torch.cat([columns, side[:, None], torch.ones_like(side)[:, None]], dim=1)
    weighted = weighted * columns[:, 7:8]  # what is more opaque counts more
    sums = weighted.new_zeros(cubes.shape[0], weighted.shape[1]).index_add_(0, cube, weighted)
    mean = sums[:, :-1] / sums[:, -1:]
    spacing = torch.maximum(mean[:, 3], mean[:, -1])
    return GaussianSplats(
        means=mean[:, :3],
        scales=_SPREAD * spacing[:, None] * mean.new_tensor([1.0, 1.0, _THINNESS]),
        rotations=_turn_z_to(functional.normalize(mean[:, 8:11], dim=-1)),
        opacities=(0.9 * mean[:, 7]).clamp(0.02, 0.95),
        colors=mean[:, 4:7].clamp(0.0, 1.0),
    )


def _pixel_columns(view: _Seen, smallest_opacity: float) -> Tensor:
    """Return a row for each pixel: point 3, footprint, colour 3, opacity, normal 3."""
    along = torch.gradient(view.points, dim=(0, 1))
    normal = functional.normalize(torch.linalg.cross(along[0], along[1]), dim=-1)
    towards = view.camera.position - view.points
    facing = (normal * towards).sum(dim=-1, keepdim=True)
    normal = torch.where(facing < 0, -normal, normal)
    footprint = (view.depth_z / view.camera.intrinsics_px[1, 1])[..., None]
    color = (view.rgb / view.opacity.clamp(min=1e-6)).permute(1, 2, 0)
    parts = [view.points, footprint, color, view.opacity[..., None], normal]
    return torch.cat(parts, dim=-1)[view.opacity >= smallest_opacity]


@torch.no_grad()
def _without_floaters(splats: GaussianSplats, seen: list[_Seen]) -> GaussianSplats:
    """Leave out splats that float in front of what other views show.

    Where the field is a thin fog, a ray along it ends in it and rays across it pass; a splat there
    would hide from all sides what only one view does not see.
    """
    in_front = torch.zeros_like(splats.opacities)
    visible = torch.zeros_like(splats.opacities)
    for view in seen:
        uv_px, depth_z = project(splats.means, view.camera)
        height_px, width_px = view.depth_z.shape
        column, row = uv_px.floor().long().unbind(-1)
        inside = (depth_z > 0) & (column >= 0) & (column < width_px)
        inside &= (row >= 0) & (row < height_px)
        pixel = (row.clamp(0, height_px - 1), column.clamp(0, width_px - 1))
        nearest = -functional.max_pool2d(-view.depth_z[None], 3, stride=1, padding=1)[0]
        before = depth_z < nearest[pixel] * (1.0 - _IN_FRONT)
        behind = depth_z > view.depth_z[pixel] * (1.0 + _IN_FRONT)
        in_front += inside & before
        visible += inside & ~behind
    return splats[in_front <= _OFTEN * visible]


def _turn_z_to(normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
    """Return quaternions that turn the z axis to `normals` (Duff et al. 2017, a smooth basis)."""
    x, y, z = normals.unbind(-1)
    sign = torch.where(z < 0, -1.0, 1.0)
    a = -1.0 / (sign + z)
    b = x * y * a
    first = torch.stack([1.0 + sign * x * x * a, sign * b, -sign * x], dim=-1)
    second = torch.stack([b, sign + y * y * a, -y], dim=-1)
    return quaternion(torch.stack([first, second, normals], dim=-1))


def _refine(
    splats: GaussianSplats,
    seen: list[_Seen],
    config: FieldSplatsConfig,
    seed: int,
    progress: Progress,
) -> GaussianSplats:
    """Move the splats' images towards the field's, over random backgrounds."""
    if config.refine_steps == 0 or config.refine_seconds <= 0:
        return splats
    spacing = splats.scales[:, :1] / _SPREAD
    leaves = {
        "means": torch.zeros_like(splats.means),
        "scales": splats.scales.log(),
        "rotations": splats.rotations.clone(),
        "opacities": splats.opacities.clamp(0.01, 0.99).logit(),
        "colors": splats.colors.clamp(0.01, 0.99).logit(),
    }
    rates = {"means": 0.03, "scales": 0.03, "rotations": 0.02, "opacities": 0.1, "colors": 0.05}
    for leaf in leaves.values():
        leaf.requires_grad_(True)
    groups = [{"params": [leaf], "lr": rates[name]} for name, leaf in leaves.items()]
    optimizer = torch.optim.Adam(groups, eps=1e-15)

    def current() -> GaussianSplats:
        return GaussianSplats(
            means=splats.means + spacing * leaves["means"],
            scales=leaves["scales"].exp(),
            rotations=leaves["rotations"],
            opacities=leaves["opacities"].sigmoid(),
            colors=leaves["colors"].sigmoid(),
        )

    generator, start = seeded_generator(seed), time.monotonic()
    order: list[int] = []
    for step in range(config.refine_steps):
        order = order or torch.randperm(len(seen), generator=generator).tolist()
        view = seen[order.pop()]
        background = torch.rand(3, generator=generator).to(splats.means.device)
        wanted = view.rgb + (1.0 - view.opacity) * background[:, None, None]
        drawn = rasterize(current(), view.camera, background)[0][0]
        loss = (drawn - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values = {"psnr": -10.0 * math.log10(max(loss.item(), 1e-10))}
        progress(ProgressEvent("refine splats", step + 1, config.refine_steps, values))
        if time.monotonic() - start > config.refine_seconds:
            break
    with torch.no_grad():
        refined = current()
    return replace(refined, rotations=functional.normalize(refined.rotations, dim=-1)).detach()
