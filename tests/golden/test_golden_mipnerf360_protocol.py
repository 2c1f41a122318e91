"""What the published code made of the cameras of a capture: `mipnerf360_protocol.npz`."""

import math

import numpy as np
import torch

from zeronvs.cameras.poses import look_at, orbit_pose, rotation_angle_rad
from zeronvs.evaluation.protocols.mipnerf360 import input_index
from zeronvs.evaluation.protocols.protocol import pca_normalized, placed_beside


def test_captures_are_normalised_as_by_the_published_code(golden_dir):
    with np.load(golden_dir / "mipnerf360_protocol.npz") as arrays:
        published = {name: torch.from_numpy(arrays[name]).double() for name in arrays.files}
    sets = sorted({name.split("_", 1)[0] for name in published})
    assert sets
    for name in sets:
        given = {key.split("_", 1)[1]: v for key, v in published.items() if key.startswith(name)}
        poses, unit = pca_normalized(given["cam2world"])
        expected = given["out_cam2world"]
        # The signs of the principal axes are arbitrary: half a turn about z may lie between.
        turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
        error = min((each - expected).abs().max() for each in (poses, turn @ poses))
        assert error < 1e-5
        # The published depth counts in the largest coordinate about the cameras' mean.
        position = expected[:, :3, 3] - expected[:, :3, 3].mean(0)
        largest = float(position.abs().max())
        torch.testing.assert_close(largest, float(given["out_unit_depth"]), atol=1e-5, rtol=1e-5)
        gaps = (given["cam2world"][:, :3, 3] - given["cam2world"][0, :3, 3]).norm(dim=-1)
        new_gaps = (expected[:, :3, 3] - expected[0, :3, 3]).norm(dim=-1)
        torch.testing.assert_close(gaps, new_gaps * unit, atol=1e-5, rtol=1e-5)
        angle = rotation_angle_rad(poses, look_at(poses[:, :3, 3]))
        torch.testing.assert_close(angle, given["out_angles_rad"], atol=1e-5, rtol=1e-5)
        index = input_index(poses, int(given["input_rank"]))
        assert index == int(given["out_input_index"])
        position = poses[index, :3, 3]
        elevation_rad = torch.atan2(position[2], position[:2].norm())
        expected_rad = math.radians(float(given["out_elevation_deg"]))
        torch.testing.assert_close(float(elevation_rad), expected_rad, atol=1e-5, rtol=1e-5)
        canonical = orbit_pose(
            torch.tensor(0.0).double(), elevation_rad, torch.tensor(1.0).double()
        )
        torch.testing.assert_close(
            canonical, given["out_canonical_cam2world"], atol=1e-5, rtol=1e-5
        )
        placed = placed_beside(poses, poses[index], canonical, float(given["gt_to_pred_scale"]))
        torch.testing.assert_close(placed, given["out_aligned_cam2world"], atol=1e-5, rtol=1e-5)
