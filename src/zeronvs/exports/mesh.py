"""A coloured triangle mesh of what the field shows, as a .glb file.

Views all around say how far the field is seen through; their depths are fused into one signed
distance (Curless and Levoy 1996) whose zero level marching cubes turns into triangles. The density
itself has no level that is the surface everywhere: thin and thick fog can look equally solid.

The colours hold the photo's light already, so the file asks viewers not to light them again
(KHR_materials_unlit). glTF wants y up: our x, y, z is written as x, z, -y.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from zeronvs._core.errors import HealthError
from zeronvs._core.files import write_bytes
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.rays import camera_rays
from zeronvs.cameras.warp import project
from zeronvs.scene.field_scene import FieldScene

_SLAB_POINTS = 1 << 20
_OUTSIDE = 0.01  # share of what is seen that may lie beyond each side of the box
_MARGIN = 1.1
_SOLID = 0.5  # opacity from which a ray counts as meeting a surface
_REMEDY = "Train longer, look at the renders, or use cameras that face the scene."


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the surface is found."""

    resolution: int = 128
    """Vertices of the distance grid along each side of the box."""
    half_side: float | None = None
    """Half the side of a box around the origin, scene units; None: a box around nearly all that the
    cameras see, within the field's radius, inside of which space is not contracted."""
    truncation: float = 0.05
    """Distances count up to this, scene units; at least three steps of the grid. Larger is smoother
    and closes more holes."""
    smallest_component: float = 0.02
    """Connected parts with fewer faces than this share of the largest part are dropped."""


@dataclass(frozen=True, eq=False)
class SurfaceMesh:
    """Triangles in our world."""

    vertices: Float[Tensor, "v 3"]
    """World coordinates, scene units."""
    faces: Int64[Tensor, "f 3"]
    """Rows of `vertices`, counter-clockwise seen from outside."""
    colors: Float[Tensor, "v 3"]
    """sRGB in [0, 1]."""


def extract_mesh(
    scene: FieldScene,
    cameras: Camera | None = None,
    config: MeshConfig | None = None,
    *,
    progress: Progress = silent,
) -> SurfaceMesh:
    """Return the surface that a scene shows to some cameras.

    Args:
        scene: The scene.
        cameras: A batch from all sides that matter; None: a ring at distance 1, where the photo was
            taken from, and some above.
        config: How the surface is found.
        progress: Called for each camera.

    Raises:
        HealthError: The cameras see no surface inside of the box.
    """
    from skimage.measure import marching_cubes

    config = config or MeshConfig()
    cameras = _sized(cameras or _cameras_around(), config.resolution).to(scene.device)
    depths = []
    for index in range(len(cameras)):
        depths.append(_median_depth(scene, cameras[index]))
        progress(ProgressEvent("look at the surface", index + 1, len(cameras)))
    centre, half_side = _box(scene, cameras, depths, config)
    distance, known = _fused_distance(cameras, depths, centre, half_side, config)
    if not (known & (distance <= 0)).any() or not (known & (distance > 0)).any():
        raise HealthError(f"No surface is seen in the scene's box to make a mesh of. {_REMEDY}")
    step = 2.0 * half_side / (config.resolution - 1)
    vertices, faces, _, _ = marching_cubes(
        -distance.numpy(), 0.0, spacing=(step,) * 3, gradient_direction="ascent", mask=known.numpy()
    )
    vertices, faces = _large_components(vertices, faces, config.smallest_component)
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32))
    points += centre.cpu() - half_side
    with torch.no_grad():
        parts = points.split(_SLAB_POINTS)
        colors = torch.cat([scene.field.color(part.to(scene.device)).cpu() for part in parts])
    return SurfaceMesh(points, torch.from_numpy(faces.astype(np.int64)), colors)


def write_mesh(
    path: Path,
    scene: FieldScene,
    *,
    cameras: Camera | None = None,
    resolution: int | None = None,
    config: MeshConfig | None = None,
    progress: Progress = silent,
) -> SurfaceMesh:
    """Write the surface of a scene as .glb, whole or not at all, and return it.

    Args:
        path: Where to, with suffix .glb.
        scene: The scene.
        cameras: As in `extract_mesh`.
        resolution: Shorthand for `MeshConfig.resolution`.
        config: How the surface is found.
        progress: Called for each camera.

    Raises:
        HealthError: There is no surface.
    """
    config = config or MeshConfig()
    if resolution is not None:
        config = replace(config, resolution=resolution)
    mesh = extract_mesh(scene, cameras, config, progress=progress)
    write_bytes(path, _glb(mesh))
    return mesh


def _cameras_around() -> Camera:
    """Return a ring of 16 cameras at distance 1 that look a little down, and 4 from high above."""
    azimuth = torch.cat([torch.arange(16) / 16, torch.arange(4) / 4]) * (2.0 * math.pi)
    elevation = torch.tensor([0.25] * 16 + [1.0] * 4)
    poses = orbit_pose(azimuth, elevation, torch.ones(20))
    return Camera.from_fov(poses, math.radians(70.0), (64, 64))


def _sized(cameras: Camera, resolution: int) -> Camera:
    """Return the cameras with images about as fine as the grid."""
    height_px, width_px = cameras.image_size_px
    factor = max(64, resolution // 2) / max(height_px, width_px)
    return cameras.resized(max(1, round(height_px * factor)), max(1, round(width_px * factor)))


def _box(
    scene: FieldScene, cameras: Camera, depths: list[Tensor], config: MeshConfig
) -> tuple[Float[Tensor, "3"], float]:
    """Return centre and half side of the cube to look for the surface in."""
    centre, radius = (
        torch.zeros(3, device=cameras.camera_to_world.device),
        scene.field.config.radius,
    )
    if config.half_side is not None:
        return centre, config.half_side
    seen = []
    for index, depth_z in enumerate(depths):
        rays = camera_rays(cameras[index])
        along = depth_z / rays.z_per_unit_distance
        points = rays.origins + along[..., None] * rays.directions
        seen.append(points[(points.norm(dim=-1) < radius) & depth_z.isfinite()])
    points = torch.cat(seen)
    if len(points) == 0:
        return centre, radius
    ordered = points.sort(dim=0).values
    outside = round(_OUTSIDE * (len(points) - 1))
    low, high = ordered[outside], ordered[len(points) - 1 - outside]
    return (low + high) / 2, _MARGIN * float((high - low).max()) / 2


@torch.no_grad()
def _fused_distance(
    cameras: Camera,
    depths: list[Tensor],
    centre: Float[Tensor, "3"],
    half_side: float,
    config: MeshConfig,
) -> tuple[Float[Tensor, "x y z"], Tensor]:
    """Return on a grid the mean distance to what cameras see, and which cubes are known whole.

    A grid point is positive in front of surfaces and negative behind them, in truncation lengths
    within [-1, 1]; cameras from which it lies far behind a surface say nothing of it, and where
    none says anything it is taken as solid.
    """
    resolution = config.resolution
    along = torch.linspace(-half_side, half_side, resolution, device=cameras.camera_to_world.device)
    truncation = max(config.truncation, 6.0 * half_side / (resolution - 1))
    distances, known = [], []
    for slab in along.split(max(1, _SLAB_POINTS // resolution**2)):
        points = torch.cartesian_prod(slab, along, along) + centre
        total, count = torch.zeros_like(points[:, 0]), torch.zeros_like(points[:, 0])
        for index, depth in enumerate(depths):
            distance, says = _distance_of_view(points, cameras[index], depth, truncation)
            total += distance * says
            count += says
        shape = (slab.shape[0], resolution, resolution)
        mean = torch.where(count > 0, total / count.clamp(min=1.0), -1.0)
        distances.append(mean.view(shape).cpu())
        known.append((count > 0).view(shape).cpu())
    return torch.cat(distances), _whole_cubes(torch.cat(known))


def _whole_cubes(known: Tensor) -> Tensor:
    """Return at the far corner of each cube of the grid whether its eight corners are known."""
    for axis in range(3):
        before = torch.zeros_like(known.narrow(axis, 0, 1))
        before = torch.cat([before, known.narrow(axis, 0, known.shape[axis] - 1)], dim=axis)
        known = known & before
    return known


@torch.no_grad()
def _median_depth(scene: FieldScene, camera: Camera) -> Float[Tensor, "h w"]:
    """Return how deep one camera sees; infinite where it sees through."""
    rays = camera_rays(camera)
    seen = scene.render_rays(rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3))
    distance = seen.quantile_distance.masked_fill(seen.opacity < _SOLID, math.inf)
    return distance.view(camera.image_size_px) * rays.z_per_unit_distance


def _distance_of_view(
    points: Float[Tensor, "n 3"], camera: Camera, depth: Float[Tensor, "h w"], truncation: float
) -> tuple[Float[Tensor, " n"], Tensor]:
    """Return how far `points` lie in front of what one view sees, and where it says anything."""
    uv_px, depth_z = project(points, camera)
    height_px, width_px = depth.shape
    column, row = uv_px.floor().long().unbind(-1)
    inside = (depth_z > 0) & (column >= 0) & (column < width_px) & (row >= 0) & (row < height_px)
    surface = depth[row.clamp(0, height_px - 1), column.clamp(0, width_px - 1)]
    distance = (surface - depth_z) / truncation
    return distance.clamp(-1.0, 1.0), inside & (distance > -1.0)


def _large_components(
    vertices: np.ndarray, faces: np.ndarray, smallest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Drop connected parts that are small beside the largest, and vertices that no face uses."""
    from trimesh.graph import connected_component_labels

    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    label = connected_component_labels(edges, node_count=len(vertices))[faces[:, 0]]
    size = np.bincount(label)
    faces = faces[size[label] >= smallest * size.max()]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)


def _glb(mesh: SurfaceMesh) -> bytes:
    """Return the mesh as binary glTF: y up, linear vertex colours, not to be lit."""
    import trimesh
    from trimesh.exchange.gltf import export_glb

    x, y, z = mesh.vertices.unbind(-1)
    srgb = mesh.colors.clamp(0.0, 1.0)
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    rgba = torch.cat([linear, torch.ones_like(linear[:, :1])], dim=1)
    surface = trimesh.Trimesh(
        vertices=torch.stack([x, z, -y], dim=-1).numpy(),
        faces=mesh.faces.numpy(),
        vertex_colors=(rgba * 255.0).round().to(torch.uint8).numpy(),
        process=False,
    )
    return export_glb(trimesh.Scene(surface), tree_postprocessor=_leave_unlit)


def _leave_unlit(tree: dict[str, Any]) -> None:
    """Give all meshes of a glTF tree a material that shows vertex colours as they are."""
    tree["materials"] = [
        {
            "name": "unlit",
            "doubleSided": True,
            "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
            "extensions": {"KHR_materials_unlit": {}},
        }
    ]
    tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", []), "KHR_materials_unlit"})
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0
