"""Views with metric depth, where programs that are given the folder look for them."""

import json
import math

import numpy as np
import torch
from PIL import Image

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.datasets.sources.nerfstudio import NerfstudioSource
from zeronvs.exports.export import write_view_files
from zeronvs.formats.images import write_depth


def test_our_own_importer_reads_the_folder_with_its_depth(tmp_path):
    azimuth_rad = torch.tensor([0.0, 0.3, 0.6])
    poses = orbit_pose(azimuth_rad, torch.full((3,), 0.2), torch.ones(3))
    cameras = Camera.from_fov(poses, 0.9, (12, 16))
    images = torch.rand(3, 3, 12, 16)
    depths = 0.5 + torch.rand(3, 12, 16)
    depths[0, 0, 0], depths[0, 0, 1] = math.inf, 100.0
    write_view_files(tmp_path, images, depths, cameras)
    for place in (tmp_path, tmp_path / "cameras"):
        source = NerfstudioSource(place)
        (name,) = source.scene_ids()
        frames = source.load(name).frames
        assert len(frames) == 3
        for index, frame in enumerate(frames):
            torch.testing.assert_close(
                frame.camera.camera_to_world, poses[index], atol=1e-5, rtol=1e-5
            )
            read = frame.read()
            np.testing.assert_allclose(read.image, images[index].permute(1, 2, 0) * 255, atol=0.51)
            wanted = torch.where(depths[index] < 65, depths[index], 0.0)
            np.testing.assert_allclose(read.depth_z, wanted, atol=6e-4)
    frame = json.loads((tmp_path / "transforms.json").read_text(encoding="utf-8"))["frames"][1]
    assert (frame["file_path"], frame["depth_file_path"]) == ("views/001.png", "depth/001.png")


def test_depth_that_is_unknown_or_too_large_is_zero(tmp_path):
    depth_z = torch.tensor([[math.nan, math.inf, -1.0], [0.0, 65.5351, 66.0], [1.25, 0.0004, 65.0]])
    write_depth(tmp_path / "depth.png", depth_z, unit=1e-3)
    with Image.open(tmp_path / "depth.png") as image:
        assert image.mode == "I;16"
        assert np.array(image).tolist() == [[0, 0, 0], [0, 65535, 0], [1250, 0, 65000]]
