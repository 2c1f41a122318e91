"""Meshes of scenes whose surface is known."""

import json
import math
import struct
from pathlib import Path

import pytest
import torch
import trimesh
from mesh_render import render_glb
from sphere_world import BALL_RADIUS, SPHERE_RADIUS, ring_cameras, sphere_views

from zeronvs._core.errors import HealthError
from zeronvs._core.progress import ProgressEvent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import unproject_depth
from zeronvs.exports.export import export
from zeronvs.exports.mesh import scene_meshes, write_mesh
from zeronvs.protocols import Rendering
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.scene.surface_splats import surface_splats
from zeronvs.splats import GaussianSplats

SIZE_PX = 64
RING = [0.0, 0.5, -0.5, 1.5, 3.0, -1.5]


class Known:
    """A scene that is given by what cameras see."""

    device = torch.device("cpu")

    def __init__(self, look) -> None:
        self.look = look

    def render(self, camera: Camera, *, background=None) -> Rendering:
        view = self.look(camera.batched())
        return Rendering(
            rgb=view.image, opacity=(view.depth_z > 0).float(), depth_z=view.depth_z.nan_to_num()
        )

    def save(self, path: Path) -> None:
        raise NotImplementedError


def wall(bumps: float):
    """A camera sees a wall, the right half of it rough."""

    def look(camera: Camera) -> View:
        height, width = camera.image_size_px
        depth = torch.full((1, height, width), 2.0)
        generator = torch.Generator().manual_seed(0)
        rough = bumps * torch.rand(1, height, width - width // 2, generator=generator)
        depth[..., width // 2 :] += rough
        return View(torch.full((1, 3, height, width), 0.5), camera, depth)

    return Known(look)


@pytest.fixture(scope="module")
def splat_scene() -> SplatScene:
    views = sphere_views(ring_cameras(RING, 2 * SIZE_PX))
    everywhere = torch.ones(2 * SIZE_PX, 2 * SIZE_PX, dtype=torch.bool)
    parts = [surface_splats(views[k], everywhere, 0.6) for k in range(len(RING))]
    return SplatScene(GaussianSplats.cat(parts))


@pytest.fixture(scope="module")
def photo() -> View:
    return sphere_views(ring_cameras([0.0], 2 * SIZE_PX))[0]


@pytest.fixture(scope="module")
def folder(splat_scene: SplatScene, photo: View, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mesh")
    (path,) = export(
        splat_scene,
        ring_cameras(RING, SIZE_PX),
        ["glb"],
        folder,
        photo=photo,
        mesh_resolution=SIZE_PX,
    )
    assert path == folder / "scene" / "mesh.glb"
    return folder


@pytest.mark.parametrize("azimuth_rad", [0.2, -0.25])
def test_splats_and_their_mesh_look_alike_from_between(splat_scene, folder: Path, azimuth_rad):
    camera = ring_cameras([azimuth_rad], 48)
    image, depth = render_glb(folder / "scene" / "mesh.glb", camera[0])
    drawn = splat_scene.render(camera)
    seen = drawn.opacity[0] > 0.9
    assert float(depth.isfinite()[seen].float().mean()) > 0.93
    both = seen & depth.isfinite()
    error, mirrored = (
        float((one - drawn.rgb[0])[:, both].abs().mean()) for one in (image, image.flip(-1))
    )
    assert error < 0.035
    assert mirrored > 3 * error
    assert float((depth / drawn.depth_z[0] - 1)[both].abs().median()) < 0.01


def test_the_photograph_is_seen_from_its_own_camera(photo: View, folder: Path):
    image, _ = render_glb(folder / "scene" / "mesh.glb", photo.camera)
    error = (image - photo.image).abs().mean(0)[2:-2, 2:-2]
    assert float(error.median()) < 0.01
    assert float((error > 0.1).float().mean()) < 0.02


def test_the_photographs_own_pixels_are_the_texture():
    view = sphere_views(ring_cameras([0.0], SIZE_PX))[0]
    other = View(1 - view.image, view.camera)
    meshes = scene_meshes(Known(sphere_views), ring_cameras([0.5], SIZE_PX), photo=other)
    torch.testing.assert_close(meshes[0].texture, other.image)


def test_no_triangle_spans_the_sphere_and_what_lies_behind_it():
    meshes = scene_meshes(Known(sphere_views), ring_cameras(RING, SIZE_PX), resolution=128)
    for mesh in meshes:
        radius = mesh.vertices.norm(dim=-1)
        assert float((radius - SPHERE_RADIUS).abs().minimum((radius - BALL_RADIUS).abs()).max()) < 1
        of_faces = radius[mesh.faces] < 0.5 * BALL_RADIUS
        assert bool((of_faces.all(-1) | ~of_faces.any(-1)).all())


def test_a_ball_has_its_radius_and_faces_look_at_who_saw_them():
    cameras = ring_cameras(RING, SIZE_PX)
    meshes = scene_meshes(Known(sphere_views), cameras, resolution=128)
    corners = torch.cat([mesh.vertices[mesh.faces] for mesh in meshes])
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(
        dim=-1
    )
    radius = corners.mean(1).norm(dim=-1)
    near = radius < 0.5 * BALL_RADIUS
    error = (radius - SPHERE_RADIUS).abs() * area
    assert float(error[near].sum() / area[near].sum()) < 0.01
    assert float(area[near].sum() / 2) > 0.7 * 4 * math.pi * SPHERE_RADIUS**2
    first = meshes[0]
    a, b, c = first.vertices[first.faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    assert bool(((normal * (cameras[0].position - a)).sum(-1) > 0).all())


def test_what_was_shown_is_left_out():
    cameras = ring_cameras([0.0, 0.0, 0.1, 3.0], SIZE_PX)
    meshes = scene_meshes(Known(sphere_views), cameras, resolution=128)
    assert len(meshes) == 3  # the second camera sees nothing new
    first, near, opposite = (len(mesh.faces) for mesh in meshes)
    assert near < 0.5 * first
    assert opposite > 0.6 * first


def test_flat_parts_have_few_triangles_and_no_cracks():
    camera = ring_cameras([0.0], 65)
    (flat,) = scene_meshes(wall(0.0), camera, resolution=130)
    assert len(flat.faces) == 4 * 8 * 8
    (mesh,) = scene_meshes(wall(0.02), camera, resolution=130)
    assert 32 * 64 * 2 < len(mesh.faces) < 0.6 * 64 * 64 * 2
    surface = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    edges, count = torch.unique(
        torch.as_tensor(surface.edges_sorted.copy()), dim=0, return_counts=True
    )
    place = mesh.uv * 65 - 0.5
    border = ((place < 0.01) | (place > 63.99))[edges[count == 1]]
    assert bool((border.all(1).any(-1)).all())  # an edge of one face lies on the image's border


def test_a_texture_shows_each_point_where_its_camera_sees_it():
    camera = ring_cameras([0.0], 60)  # every second pixel has a point
    scene = wall(0.02)
    (mesh,) = scene_meshes(scene, camera, resolution=60)
    view = scene.look(camera)
    points = unproject_depth(view.depth_z, view.camera)[0]
    column, row = (mesh.uv * 60 - 0.5).round().long().unbind(-1)
    same = (points[row, column] - mesh.vertices).norm(dim=-1)
    assert float(same.max()) < 1e-4
    assert int(column.max()) == int(row.max()) == 58


def test_the_file_is_not_to_be_lit_and_holds_its_textures(folder: Path):
    content = (folder / "scene" / "mesh.glb").read_bytes()
    magic, version, length, tree_bytes = struct.unpack("<4sIII", content[:16])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    tree = json.loads(content[20 : 20 + tree_bytes])
    assert tree["extensionsUsed"] == ["KHR_materials_unlit"]
    assert all(material["doubleSided"] for material in tree["materials"])
    assert {image["mimeType"] for image in tree["images"]} == {"image/jpeg"}
    assert len(tree["images"]) == len(tree["materials"]) == len(tree["meshes"][0]["primitives"])


def test_where_no_surface_is_seen_a_remedy_is_told_and_nothing_written(tmp_path: Path):
    def nothing(camera: Camera) -> View:
        shape = (len(camera), *camera.image_size_px)
        return View(torch.zeros(shape[0], 3, *shape[1:]), camera, torch.zeros(shape))

    with pytest.raises(HealthError, match="Train longer"):
        write_mesh(tmp_path / "mesh.glb", Known(nothing), ring_cameras([0.0], 16))
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_the_cameras(photo: View, tmp_path: Path):
    events: list[ProgressEvent] = []
    cameras = ring_cameras([0.0, 1.0], 16)
    scene = Known(sphere_views)
    write_mesh(tmp_path / "m.glb", scene, cameras, photo=photo, progress=events.append)
    assert [(event.step, event.total) for event in events] == [(k, 4) for k in range(1, 5)]
