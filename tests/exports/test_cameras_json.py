"""Cameras as a file that other tools read."""

import json
from pathlib import Path

import pytest
import torch

from zeronvs.cameras.camera import Camera
from zeronvs.exports.cameras_json import write_transforms


def some_cameras(count: int = 3) -> Camera:
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, :3, 3] = torch.arange(3.0 * count).reshape(count, 3)
    return Camera.from_fov(poses, 0.9, (40, 60))


def test_the_file_says_everything_about_each_camera(tmp_path: Path):
    cameras = some_cameras()
    images = [tmp_path / "views" / f"{index:03d}.png" for index in range(3)]
    write_transforms(tmp_path / "cameras" / "transforms.json", cameras, images)
    content = json.loads((tmp_path / "cameras" / "transforms.json").read_text())
    assert (content["w"], content["h"]) == (60, 40)
    assert content["fl_x"] == pytest.approx(float(cameras.intrinsics_px[0, 0, 0]))
    for index, frame in enumerate(content["frames"]):
        assert frame["file_path"] == f"../views/{index:03d}.png"
        assert frame["cx"] == 30
        torch.testing.assert_close(
            torch.tensor(frame["transform_matrix"]), cameras.camera_to_world[index]
        )


def test_a_missing_image_is_an_error_and_leaves_no_file(tmp_path: Path):
    with pytest.raises(ValueError, match="3 cameras, but 1 images"):
        write_transforms(tmp_path / "transforms.json", some_cameras(), [tmp_path / "0.png"])
    assert list(tmp_path.iterdir()) == []
