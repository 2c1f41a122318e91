"""Files of a scene of splats, read back, show what the scene shows at the cameras beside them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from axis_world import CENTRES, COLORS, RADIUS, cameras_around
from mesh_render import render_glb
from PIL import Image
from splat_ply_reader import read_splats

from zeronvs.cameras.camera import Camera
from zeronvs.exports.export import export
from zeronvs.formats.transforms_json import read_camera_path
from zeronvs.protocols import Rendering
from zeronvs.scene.depth_edges import grown
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.splats import GaussianSplats

COUNT = 2500
CHECKED = [0, 3]
"""Cameras that are compared."""
PIXEL = 0.025
"""Side of a pixel on a ball, scene units."""


def axis_splats() -> SplatScene:
    """Return one ball on each axis, each of its own colour and at its own distance."""
    index = torch.arange(COUNT) + 0.5
    height, turn = 1 - 2 * index / COUNT, index * math.pi * (1 + 5**0.5)
    ring = (1 - height.square()).sqrt()
    sphere = torch.stack([ring * turn.cos(), ring * turn.sin(), height], dim=-1)
    count = 3 * COUNT
    return SplatScene(
        GaussianSplats(
            means=(CENTRES[:, None] + RADIUS * sphere).reshape(count, 3),
            scales=torch.full((count, 3), 0.006),
            rotations=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
            opacities=torch.full((count,), 0.99),
            colors=COLORS.repeat_interleave(COUNT, 0),
        )
    )


def within(rendering: Rendering) -> torch.Tensor:
    """Return the pixels that lie on a ball with all their neighbours."""
    return torch.stack([~grown(opacity < 0.9, 1) for opacity in rendering.opacity])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Camera, Rendering]:
    """Return a folder, the cameras that its files name, and what the scene shows to them."""
    folder, scene = tmp_path_factory.mktemp("files"), axis_splats()
    files = export(scene, cameras_around(8, 64), ["ply", "glb", "nerfstudio"], folder)
    names = [path.relative_to(folder).as_posix() for path in files]
    assert names == ["scene/scene.ply", "scene/mesh.glb", "cameras/transforms.json"]
    cameras = read_camera_path(folder / "transforms.json", image_size_px=(64, 64))
    return folder, cameras, scene.render(cameras, background=torch.full((3,), 0.5))


def test_the_ply_is_the_scene_without_a_fit(exported):
    folder, cameras, truth = exported
    read = SplatScene(read_splats(folder / "scene" / "scene.ply"))
    assert len(read.splats.means) == 3 * COUNT
    rendered = read.render(cameras, background=torch.full((3,), 0.5))
    assert float((rendered.rgb - truth.rgb).abs().max()) < 0.02
    solid = within(truth)
    torch.testing.assert_close(rendered.depth_z[solid], truth.depth_z[solid], atol=1e-3, rtol=0)


@pytest.mark.parametrize("index", CHECKED)
def test_the_mesh_is_where_the_scene_is_and_not_mirrored(exported, index: int):
    folder, cameras, truth = exported
    image, depth = render_glb(folder / "scene" / "mesh.glb", cameras[index])
    solid = within(truth)[index]
    assert float(depth.isfinite()[solid].float().mean()) > 0.97
    assert float((depth.isfinite() & (truth.opacity[index] < 0.02)).float().mean()) < 0.01
    both = solid & depth.isfinite()
    assert float((depth - truth.depth_z[index])[both].abs().median()) < PIXEL
    error, mirrored = (
        float((one - truth.rgb[index])[:, both].abs().mean()) for one in (image, image.flip(-1))
    )
    assert error < 0.05
    assert mirrored > 3 * error


@pytest.mark.parametrize("index", CHECKED)
def test_images_and_depth_are_what_their_cameras_see(exported, index: int):
    folder, _, truth = exported
    frame = json.loads((folder / "transforms.json").read_text())["frames"][index]
    with Image.open(folder / frame["file_path"]) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert float((pixels - truth.rgb[index]).abs().max()) < 0.01
    with Image.open(folder / frame["depth_file_path"]) as image:
        assert image.mode == "I;16"
        depth_z = torch.from_numpy(np.array(image).astype("f4")) * frame["depth_unit_scale_factor"]
    solid = within(truth)[index]
    error = (depth_z - truth.depth_z[index])[solid].abs()
    assert float(error.max()) < frame["depth_unit_scale_factor"]


def test_depth_points_lie_on_the_balls_in_the_world(exported):
    """A depth image and its camera alone give points on the balls, each of its ball's colour."""
    folder, _, truth = exported
    for index in CHECKED:
        frame = json.loads((folder / "transforms.json").read_text())["frames"][index]
        with Image.open(folder / frame["depth_file_path"]) as image:
            depth_z = np.array(image).astype("f8") * frame["depth_unit_scale_factor"]
        row, column = np.nonzero(within(truth)[index].numpy())
        z = depth_z[row, column]
        x = (column + 0.5 - frame["cx"]) / frame["fl_x"] * z
        y = (row + 0.5 - frame["cy"]) / frame["fl_y"] * z
        points = np.stack([x, -y, -z, np.ones_like(z)]).T @ np.array(frame["transform_matrix"]).T
        distance = np.linalg.norm(points[:, None, :3] - CENTRES.numpy(), axis=-1)
        assert np.median(np.abs(distance.min(1) - RADIUS)) < PIXEL
        nearest = torch.from_numpy(distance.argmin(1))
        shown = truth.rgb[index][:, row, column].argmax(0)
        assert float((shown == nearest).float().mean()) > 0.97
