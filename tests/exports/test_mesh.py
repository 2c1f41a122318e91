"""Meshes of fields whose surface is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from zeronvs._core.errors import HealthError
from zeronvs._core.progress import ProgressEvent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.exports.mesh import MeshConfig, extract_mesh, write_mesh
from zeronvs.scene.field import FieldConfig, FieldSample
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig

GRID = HashGridConfig(levels=2, log2_table_size=8, base_resolution=4)
SMALL = MeshConfig(resolution=32, half_side=0.8)
RADIUS = 0.4


def ball_scene(strength=2000.0, bias=0.0):
    """A field that is nothing but Magic3D's blob, so strong that it is a ball."""
    config = FieldConfig(
        grid=GRID, hidden_width=4, blob_strength=strength, blob_radius=RADIUS, density_bias=bias
    )
    scene = FieldScene(
        config,
        RenderConfig(near=0.3, far=3.0, proposal_samples=0, final_samples=128),
        ProposalConfig(grid=GRID, hidden_width=4),
    )
    torch.nn.init.zeros_(scene.field.density_head.weights[-1])
    return scene


def cameras_from_all_sides():
    azimuth = torch.arange(6) * (math.pi / 3)
    elevation = torch.tensor([-1.0, 0.2, 1.0, -0.2, -1.0, 1.0])
    return Camera.from_fov(orbit_pose(azimuth, elevation, torch.full((6,), 1.4)), 1.0, (32, 32))


def test_the_mesh_of_a_ball_is_closed_and_has_its_radius():
    mesh = extract_mesh(ball_scene(), cameras_from_all_sides(), SMALL)
    radii = mesh.vertices.norm(dim=-1)
    torch.testing.assert_close(radii, torch.full_like(radii, RADIUS), atol=0.04, rtol=0)
    surface = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert surface.is_watertight
    assert surface.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.1)  # faces outwards


def test_how_dense_a_solid_is_does_not_move_its_surface():
    """The density's level does not matter, only how far one sees."""
    thin, thick = (
        extract_mesh(ball_scene(strength), cameras_from_all_sides(), SMALL)
        for strength in (500.0, 5000.0)
    )
    assert abs(thin.vertices.norm(dim=-1).mean() - thick.vertices.norm(dim=-1).mean()) < 0.03


def test_vertices_have_the_fields_colours():
    scene = ball_scene()
    mesh = extract_mesh(scene, None, SMALL)
    with torch.no_grad():
        torch.testing.assert_close(mesh.colors, scene.field.color(mesh.vertices))


def test_an_empty_box_is_told_with_a_remedy(tmp_path):
    with pytest.raises(HealthError, match="Train longer"):
        write_mesh(tmp_path / "mesh.glb", ball_scene(strength=0.0, bias=-80.0), config=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_small_floating_parts_are_dropped():
    class TwoBalls(torch.nn.Module):
        config = FieldConfig(grid=GRID)

        def density(self, points):
            large = 0.4 - points.norm(dim=-1)
            small = 0.12 - (points - torch.tensor([0.65, 0.0, 0.0])).norm(dim=-1)
            return 500.0 * (torch.maximum(large, small) > 0).float()

        def color(self, points):
            return torch.full_like(points, 0.5)

        def sample(self, points, *, with_gradient=False):
            return FieldSample(self.density(points), self.color(points))

    scene, cameras = ball_scene(), cameras_from_all_sides()
    scene.field = TwoBalls()
    both = extract_mesh(scene, cameras, replace(SMALL, smallest_component=0.0))
    one = extract_mesh(scene, cameras, replace(SMALL, smallest_component=0.5))
    assert both.vertices[:, 0].max() > 0.7
    assert one.vertices[:, 0].max() < 0.5


def test_the_file_stands_upright_in_gltf_with_linear_unlit_colours(tmp_path):
    scene = ball_scene()
    events: list[ProgressEvent] = []
    path = tmp_path / "mesh.glb"
    mesh = write_mesh(path, scene, resolution=28, config=SMALL, progress=events.append)
    assert [event.step for event in events] == list(range(1, 21))  # one for each camera
    (loaded,) = trimesh.load_scene(tmp_path / "mesh.glb").geometry.values()
    assert len(loaded.faces) == len(mesh.faces)
    top_here = mesh.vertices[:, 2].max().item()
    assert loaded.vertices[:, 1].max() == pytest.approx(top_here, abs=1e-5)
    tree = (tmp_path / "mesh.glb").read_bytes()
    assert b"KHR_materials_unlit" in tree
    linear = np.asarray(loaded.visual.vertex_attributes["color"])[:, :3] / 255.0
    back = linear ** (1 / 2.2)
    assert np.abs(back.mean(0) - mesh.colors.mean(0).numpy()).max() < 0.03


def test_the_defaults_are_those_the_numbers_were_measured_with():
    assert MeshConfig() == MeshConfig(
        resolution=128, half_side=None, truncation=0.05, smallest_component=0.02
    )


def test_without_a_given_box_the_box_holds_what_is_seen():
    config = MeshConfig(resolution=32)
    mesh = extract_mesh(ball_scene(), cameras_from_all_sides(), config)
    radii = mesh.vertices.norm(dim=-1)
    torch.testing.assert_close(radii, torch.full_like(radii, RADIUS), atol=0.04, rtol=0)
    steps = mesh.vertices[:, 2].unique().diff()
    box = 2 * 1.1 * RADIUS / 31
    assert float(steps[steps > 1e-4].max()) < 1.3 * box
    given = extract_mesh(ball_scene(), cameras_from_all_sides(), SMALL)
    assert len(mesh.vertices) > 1.8 * len(given.vertices)  # finer, as the box is smaller
