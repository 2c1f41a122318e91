"""Gaussian splats that look like a radiance field.

On the ray of every pixel of some views, a point is drawn where the ray's light is absorbed, so that
points gather where the field is seen: thinly on hard surfaces, through the depth of soft ones. The
points of a small cube of space become one splat that absorbs what the cube does. Then shapes and
colours are refined by gradient through our own rasteriser until the splats' images are the field's.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from zeronvs._core.errors import HealthError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.random import seeded_generator
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.rays import camera_rays
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.rasterizer import rasterize
from zeronvs.splats import GaussianSplats

_SPREAD = 0.4  # standard deviation of a splat, in sides of its cube
_WIDER = 1.15  # how much more than its cameras see is looked at, so that images have whole edges
_KEY_PRIMES = (73856093, 19349663, 83492791, 2654435761)


@dataclass(frozen=True, kw_only=True)
class FieldSplatsConfig:
    """How splats are taken from a field."""

    max_splats: int = 60_000
    """Splats at most; where there would be more, cubes are larger."""
    cube_px: float = 1.0
    """Cubes measure at most this many pixels at their depth (at least half of it)."""
    smallest_opacity: float = 0.1
    """Pixels whose ray absorbs less than this give no point."""
    refine_steps: int = 150
    """Gradient steps, one view each; 0: none."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one camera sees of the field."""

    camera: Camera
    rgb: Float[Tensor, "3 h w"]
    """Over black."""
    opacity: Float[Tensor, "h w"]
    points: Float[Tensor, "n 3"]
    """One on the ray of each pixel that sees something, world coordinates."""
    footprint: Float[Tensor, " n"]
    """Side of a pixel at the point's depth, scene units."""


def splats_from_scene(
    scene: FieldScene,
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
        seed: Draws the points, and the order and backgrounds of the refinement.
        progress: Called during both stages.

    Raises:
        HealthError: No camera sees anything.
    """
    config = config or FieldSplatsConfig()
    generator, seen = seeded_generator(seed), []
    for index in range(len(cameras)):
        seen.append(_look(scene, _widened(cameras[index]), config, generator))
        progress(ProgressEvent("look at the field", index + 1, len(cameras)))
    splats = _merged_cubes(scene, seen, config)
    return _refine(splats, seen, config, generator, progress)


@torch.no_grad()
def splat_psnr(
    splats: GaussianSplats,
    scene: FieldScene,
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
    return camera.with_intrinsics(intrinsics_px)


@torch.no_grad()
def _look(
    scene: FieldScene, camera: Camera, config: FieldSplatsConfig, generator: torch.Generator
) -> _Seen:
    """Render one view of the field and draw a point on each of its rays."""
    camera = camera.to(scene.device)
    height_px, width_px = size = camera.image_size_px
    rays = camera_rays(camera)
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
    quantile = torch.rand(height_px * width_px, 1, generator=generator).to(scene.device)
    seen = scene.render_rays(origins, directions, quantile=quantile)
    distance = seen.quantile_distance
    assert distance is not None  # a quantile was given
    footprint = distance * rays.z_per_unit_distance.reshape(-1) / camera.intrinsics_px[1, 1]
    solid = seen.opacity >= config.smallest_opacity
    return _Seen(
        camera,
        seen.rgb.T.reshape(3, *size),
        seen.opacity.view(size),
        (origins + distance[:, None] * directions)[solid],
        footprint[solid],
    )


@torch.no_grad()
def _merged_cubes(
    scene: FieldScene, seen: list[_Seen], config: FieldSplatsConfig
) -> GaussianSplats:
    """Turn points into round splats, one for each cube of space that holds any.

    Cubes are as large as the pixels that look into them, rounded to powers of two, so that near
    things keep their detail and far ones stay few. A cube of side s and density d has the optical
    depth d s over the area s^2; a Gaussian of deviation a s spreads it over 2 pi (a s)^2.
    """
    points = torch.cat([view.points for view in seen])
    footprint = torch.cat([view.footprint for view in seen])
    if points.shape[0] == 0:
        raise HealthError(
            "No camera sees anything of the scene, so there is nothing to make splats of. "
            "Train longer, or look with cameras that face the scene."
        )
    cube_px = config.cube_px
    while True:
        level = (footprint * cube_px).log2().floor()
        side = 2.0**level
        place = torch.cat([points / side[:, None], level[:, None]], dim=1).floor().long()
        key = (place * torch.tensor(_KEY_PRIMES, device=place.device)).sum(dim=1)
        cubes, cube = key.unique(return_inverse=True)
        if cubes.shape[0] <= config.max_splats:
            break
        cube_px *= max(1.05, math.sqrt(cubes.shape[0] / config.max_splats))
    sample = scene.field.sample(points)
    columns = torch.cat([points, side[:, None], sample.density[:, None], sample.color], dim=1)
    mean = columns.new_zeros(cubes.shape[0], 8).index_add_(0, cube, columns)
    mean /= torch.bincount(cube)[:, None]
    side, density = mean[:, 3:4], mean[:, 4]
    optical_depth = density * side[:, 0] / (2.0 * math.pi * _SPREAD**2)
    return GaussianSplats(
        means=mean[:, :3],
        scales=(_SPREAD * side).expand(-1, 3),
        rotations=mean.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(cubes.shape[0], 4),
        opacities=(1.0 - torch.exp(-optical_depth)).clamp(0.01, 0.97),
        colors=mean[:, 5:].clamp(0.0, 1.0),
    )


def _refine(
    splats: GaussianSplats,
    seen: list[_Seen],
    config: FieldSplatsConfig,
    generator: torch.Generator,
    progress: Progress,
) -> GaussianSplats:
    """Move the splats' images towards the field's, over random backgrounds."""
    if config.refine_steps == 0:
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
    optimizer = torch.optim.Adam(groups, betas=(0.8, 0.95), eps=1e-15)

    def current() -> GaussianSplats:
        return GaussianSplats(
            means=splats.means + spacing * leaves["means"],
            scales=leaves["scales"].exp(),
            rotations=leaves["rotations"],
            opacities=leaves["opacities"].sigmoid(),
            colors=leaves["colors"].sigmoid(),
        )

    order: list[int] = []
    for step in range(config.refine_steps):
        order = order or torch.randperm(len(seen), generator=generator).tolist()
        view = seen[order.pop()]
        background = torch.rand(3, generator=generator).to(splats.means.device)
        wanted = view.rgb + (1.0 - view.opacity) * background[:, None, None]
        drawn = rasterize(current(), view.camera, background)[0][0]
        loss = (drawn - wanted).square().mean()
        if loss.requires_grad:  # a view may see none of the splats
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        values = {"psnr": -10.0 * math.log10(max(loss.item(), 1e-10))}
        progress(ProgressEvent("refine splats", step + 1, config.refine_steps, values))
    with torch.no_grad():
        refined = current()
    return replace(refined, rotations=functional.normalize(refined.rotations, dim=-1)).detach()
