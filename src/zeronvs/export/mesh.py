"""A coloured triangle mesh of the field's surface, as a .glb file.

Marching cubes on the density inside the box that the contraction leaves as it is. The colours hold
the photo's light already, so the file asks viewers not to light them again (KHR_materials_unlit).
glTF wants y up: our x, y, z is written as x, z, -y.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from zeronvs._core.errors import HealthError
from zeronvs._core.files import write_bytes
from zeronvs.scene.scene import Scene

_CHUNK_POINTS = 1 << 17
_CLEAR_DENSITY = 0.1  # a box whose density stays below this, per box half side, holds nothing
_REMEDY = "Train longer, look at the renders, or pass another threshold."


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the surface is found."""

    resolution: int = 192
    """Vertices of the density grid along each side of the box."""
    half_side: float | None = None
    """Half the side of the box around the origin, scene units; None: the field's radius."""
    threshold: float = 20.0
    """Density at the surface, per scene unit; 20 absorbs half of the light within 0.035. Where no
    surface has it, a threshold between the densities that do occur is taken."""
    smallest_component: float = 0.02
    """Connected parts with fewer faces than this share of the largest part are dropped."""
    max_seconds: float = 120.0
    """The resolution is lowered if asking for the density would take longer than this."""


@dataclass(frozen=True, eq=False)
class SurfaceMesh:
    """Triangles in our world."""

    vertices: Float[Tensor, "v 3"]
    """World coordinates, scene units."""
    faces: Int64[Tensor, "f 3"]
    """Rows of `vertices`, counter-clockwise seen from outside."""
    colors: Float[Tensor, "v 3"]
    """sRGB in [0, 1]."""
    threshold: float
    """Density at the surface."""


def extract_mesh(scene: Scene, config: MeshConfig | None = None) -> SurfaceMesh:
    """Return the surface of a scene's field.

    Raises:
        HealthError: The box is empty or full: there is no surface in it.
    """
    from skimage.measure import marching_cubes

    config = config or MeshConfig()
    half_side = config.half_side or scene.field.config.radius
    resolution = _affordable_resolution(scene, half_side, config)
    density = _density_grid(scene, half_side, resolution)
    threshold = _surface_threshold(density, half_side, config.threshold)
    step = 2.0 * half_side / (resolution - 1)
    vertices, faces, _, _ = marching_cubes(
        density, threshold, spacing=(step, step, step), gradient_direction="ascent"
    )
    vertices, faces = _large_components(vertices - half_side, faces, config.smallest_component)
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32))
    colors = _in_chunks(scene, points, "color")
    return SurfaceMesh(points, torch.from_numpy(faces.astype(np.int64)), colors, threshold)


def write_mesh(
    path: Path, scene: Scene, *, resolution: int | None = None, config: MeshConfig | None = None
) -> SurfaceMesh:
    """Write the surface of a scene as .glb, whole or not at all, and return it.

    Args:
        path: Where to, with suffix .glb.
        scene: The scene.
        resolution: Shorthand for `MeshConfig.resolution`.
        config: How the surface is found.

    Raises:
        HealthError: There is no surface.
    """
    config = config or MeshConfig()
    if resolution is not None:
        config = replace(config, resolution=resolution)
    mesh = extract_mesh(scene, config)
    write_bytes(path, _glb(mesh))
    return mesh


def _affordable_resolution(scene: Scene, half_side: float, config: MeshConfig) -> int:
    """Lower the resolution until all densities can be had in time, by timing some."""
    points = torch.rand(16384, 3, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    start = time.monotonic()
    _in_chunks(scene, points * half_side, "density")
    per_second = points.shape[0] / max(time.monotonic() - start, 1e-6)
    return max(16, min(config.resolution, int((per_second * config.max_seconds) ** (1 / 3))))


def _density_grid(scene: Scene, half_side: float, resolution: int) -> np.ndarray:
    """Return the density on a grid over the box, axes x, y, z."""
    along = torch.linspace(-half_side, half_side, resolution)
    slabs = []
    for x in along:
        plane = torch.cartesian_prod(x[None], along, along)
        slabs.append(_in_chunks(scene, plane, "density").view(resolution, resolution))
    return torch.stack(slabs).numpy()


@torch.no_grad()
def _in_chunks(scene: Scene, points: Tensor, what: str) -> Tensor:
    """Ask the field for density or colour at any number of points; the answer is on the CPU."""
    ask = scene.field.density if what == "density" else scene.field.color
    return torch.cat([ask(part.to(scene.device)).cpu() for part in points.split(_CHUNK_POINTS)])


def _surface_threshold(density: np.ndarray, half_side: float, wanted: float) -> float:
    """Return the wanted threshold, or one between the densities that occur."""
    if not np.isfinite(density).all():
        raise HealthError(f"The density is not finite, so there is no surface. {_REMEDY}")
    low, high = float(density.min()), float(density.max())
    if low < wanted < high:
        return wanted
    if high * half_side < _CLEAR_DENSITY or high - low < 1e-3 * high:
        kind = "empty" if high * half_side < _CLEAR_DENSITY else "filled evenly"
        raise HealthError(
            f"The scene's box is {kind} (density {low:.3g} to {high:.3g}), so there is no surface "
            f"to make a mesh of. {_REMEDY}"
        )
    return 0.5 * (float(np.quantile(density, 0.5)) + high)


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
