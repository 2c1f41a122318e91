"""What other programs read has our handedness, axes and scale: a mirror or a swap must fail."""

import json
from pathlib import Path

import numpy as np
import torch
import trimesh
from axis_world import CENTRES, COLORS, RADIUS, axis_scene, cameras_around, centres_by_color
from mesh_render import render_glb
from PIL import Image
from splat_ply_reader import read_splats

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.exports.export import export
from zeronvs.exports.field_splats import FieldSplatsConfig, splats_from_scene
from zeronvs.exports.mesh import scene_meshes, write_mesh
from zeronvs.formats.glb import TexturedMesh
from zeronvs.formats.ply import write_splat_ply


def test_the_mesh_has_each_ball_on_its_own_axis():
    meshes = scene_meshes(axis_scene(), cameras_around(size_px=48), resolution=96)
    vertices = torch.cat([mesh.vertices for mesh in meshes])
    colors = torch.cat([colors_at_vertices(mesh) for mesh in meshes])
    balls = colors.amax(-1) > 0.6  # the rest are pixels that a ball shares with the darkness
    centres = centres_by_color(vertices[balls], colors[balls])
    torch.testing.assert_close(centres, CENTRES, atol=0.03, rtol=0)


def colors_at_vertices(mesh: TexturedMesh) -> torch.Tensor:
    height, width = mesh.texture.shape[1:]
    column, row = (mesh.uv * torch.tensor([width, height])).floor().long().unbind(-1)
    return mesh.texture[:, row, column].T


def test_the_mesh_file_has_y_up_and_is_not_mirrored(tmp_path: Path):
    path = tmp_path / "mesh.glb"
    write_mesh(path, axis_scene(), cameras_around(size_px=48), resolution=96)
    parts = trimesh.load_scene(path).geometry.values()
    vertices = np.concatenate([part.vertices for part in parts])
    colors = np.concatenate([part.visual.to_color().vertex_colors[:, :3] / 255 for part in parts])
    balls = torch.tensor(colors.max(-1) > 0.6)
    vertices, colors = torch.tensor(vertices).float()[balls], torch.tensor(colors).float()[balls]
    # glTF: x right, y up, z towards the viewer. Our x, y (back), z (up) is x, z, -y there.
    x, y, z = CENTRES.unbind(-1)
    expected = torch.stack([x, z, -y], dim=-1)
    torch.testing.assert_close(centres_by_color(vertices, colors), expected, atol=0.03, rtol=0)


def test_the_mesh_file_looks_like_the_field_from_a_camera_between(tmp_path: Path):
    scene, cameras = axis_scene(), cameras_around(size_px=64)
    write_mesh(tmp_path / "mesh.glb", scene, cameras, resolution=128)
    between = Camera.from_fov(
        orbit_pose(torch.tensor(0.35), torch.tensor(0.2), torch.tensor(1.6)), 0.9, (48, 48)
    )
    image, depth = render_glb(tmp_path / "mesh.glb", between)
    with torch.no_grad():
        truth = scene.render(between)
    seen = truth.opacity[0] > 0.5
    assert float((depth.isfinite() == seen).float().mean()) > 0.97
    both = seen & depth.isfinite()
    assert float((depth - truth.depth_z[0])[both].abs().median()) < 0.02
    assert float((image - truth.rgb[0]).abs().mean()) < 0.02
    assert float((image.flip(-1) - truth.rgb[0]).abs().mean()) > 0.05


def test_splats_in_a_file_for_viewers_have_y_down_and_are_not_mirrored(tmp_path: Path):
    config = FieldSplatsConfig(max_splats=2000, refine_steps=2)
    splats = splats_from_scene(axis_scene(), cameras_around(), config)
    write_splat_ply(tmp_path / "scene.ply", splats)
    header, body = (tmp_path / "scene.ply").read_bytes().split(b"end_header\n", 1)
    names = [line.split()[-1] for line in header.decode().splitlines() if "property" in line]
    values = np.frombuffer(body, "<f4").reshape(-1, len(names))
    column = {name: torch.tensor(values[:, k]) for k, name in enumerate(names)}
    points = torch.stack([column[name] for name in "xyz"], dim=-1)
    colors = 0.5 + 0.28209479 * torch.stack([column[f"f_dc_{k}"] for k in range(3)], dim=-1)
    x, y, z = CENTRES.unbind(-1)
    expected = torch.stack([x, -z, y], dim=-1)
    torch.testing.assert_close(centres_by_color(points, colors), expected, atol=0.04, rtol=0)
    again = read_splats(tmp_path / "scene.ply")
    found = centres_by_color(again.means, again.colors)
    torch.testing.assert_close(found, CENTRES, atol=0.04, rtol=0)
    assert float(again.scales.max()) < RADIUS


def test_exported_images_show_each_ball_where_the_exported_camera_sees_it(tmp_path: Path):
    cameras = cameras_around(4, 48)
    (path,) = export(axis_scene(), cameras, ["nerfstudio"], tmp_path)
    frames = json.loads(path.read_text())["frames"]
    assert len(frames) == 4
    seen = 0
    for frame in frames:
        pixels = np.asarray(Image.open(path.parent / frame["file_path"])) / 255
        world_to_camera = np.linalg.inv(np.array(frame["transform_matrix"]))
        for index in range(3):
            # nerfstudio: OpenGL axes, looking along -z; pixel rows run down.
            x, y, z, _ = world_to_camera @ np.append(CENTRES[index].numpy(), 1.0)
            column = frame["cx"] + frame["fl_x"] * x / -z
            row = frame["cy"] - frame["fl_y"] * y / -z
            color = pixels[int(row), int(column)]
            hidden = np.abs(color - COLORS[index].numpy()).max() > 0.02
            seen += not hidden
            others = [c for k, c in enumerate(COLORS.numpy()) if k != index]
            # A ball may hide another; nothing else can be there.
            assert not hidden or min(np.abs(color - c).max() for c in others) < 0.02
    assert seen >= 10
