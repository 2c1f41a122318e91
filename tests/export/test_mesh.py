"""Meshes of fields whose surface is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from zeronvs._core.errors import HealthError
from zeronvs.export.mesh import MeshConfig, extract_mesh, write_mesh
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.scene import Scene

GRID = HashGridConfig(levels=2, log2_table_size=8, base_resolution=4)
SMALL = MeshConfig(resolution=40, half_side=1.0)


def blob_scene(strength=60.0, radius=0.5, bias=0.0):
    """A field that is nothing but Magic3D's blob: density 20 at |x| = radius (1 - 20/strength)."""
    config = FieldConfig(
        grid=GRID, hidden_width=4, blob_strength=strength, blob_radius=radius, density_bias=bias
    )
    scene = Scene(config, proposal_config=ProposalConfig(grid=GRID, hidden_width=4))
    torch.nn.init.zeros_(scene.field.density_head.weights[-1])
    return scene


def test_the_mesh_of_a_blob_is_a_closed_ball_of_the_known_radius():
    mesh = extract_mesh(blob_scene(), SMALL)
    radius = 0.5 * (1 - 20.0 / 60.0)
    torch.testing.assert_close(
        mesh.vertices.norm(dim=-1), torch.full((len(mesh.vertices),), radius), atol=0.01, rtol=0
    )
    surface = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert surface.is_watertight
    assert surface.volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.05)  # faces outwards


def test_vertices_have_the_fields_colours():
    scene = blob_scene()
    mesh = extract_mesh(scene, SMALL)
    with torch.no_grad():
        torch.testing.assert_close(mesh.colors, scene.field.color(mesh.vertices))


def test_a_faint_surface_gets_a_lower_threshold():
    mesh = extract_mesh(blob_scene(strength=6.0), SMALL)
    assert 0.5 < mesh.threshold < 6.0
    assert len(mesh.faces) > 50


@pytest.mark.parametrize("bias", [-80.0, 300.0])
def test_boxes_without_a_surface_are_told_with_a_remedy(tmp_path, bias):
    with pytest.raises(HealthError, match="no surface"):
        write_mesh(tmp_path / "mesh.glb", blob_scene(strength=0.0, bias=bias), config=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_small_floating_parts_are_dropped():
    class TwoBalls(torch.nn.Module):
        config = FieldConfig(grid=GRID)

        def density(self, points):
            large = 0.5 - points.norm(dim=-1)
            small = 0.12 - (points - torch.tensor([0.8, 0.0, 0.0])).norm(dim=-1)
            return 20.0 + 100.0 * torch.maximum(large, small)

        def color(self, points):
            return torch.full_like(points, 0.5)

    scene = blob_scene()
    scene.field = TwoBalls()
    both = extract_mesh(scene, replace(SMALL, smallest_component=0.0))
    one = extract_mesh(scene, replace(SMALL, smallest_component=0.2))
    assert both.vertices[:, 0].max() > 0.85
    assert one.vertices[:, 0].max() < 0.55


def test_the_file_stands_upright_in_gltf_with_linear_unlit_colours(tmp_path):
    scene = blob_scene()
    mesh = write_mesh(tmp_path / "mesh.glb", scene, resolution=24, config=SMALL)
    (loaded,) = trimesh.load_scene(tmp_path / "mesh.glb").geometry.values()
    assert len(loaded.faces) == len(mesh.faces)
    top_here = mesh.vertices[:, 2].max().item()
    assert loaded.vertices[:, 1].max() == pytest.approx(top_here, abs=1e-5)
    tree = (tmp_path / "mesh.glb").read_bytes()
    assert b"KHR_materials_unlit" in tree
    linear = np.asarray(loaded.visual.vertex_attributes["color"])[:, :3] / 255.0
    back = linear ** (1 / 2.2)
    assert np.abs(back.mean(0) - mesh.colors.mean(0).numpy()).max() < 0.03


def test_the_resolution_falls_when_time_is_short():
    mesh = extract_mesh(blob_scene(), replace(SMALL, max_seconds=1e-9))
    fine = extract_mesh(blob_scene(), SMALL)
    assert len(mesh.faces) < len(fine.faces)
