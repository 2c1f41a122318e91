"""What the published code read from DTU's projection matrices: `dtu_cameras.npz`."""

import numpy as np
import torch

from zeronvs.cameras.conventions import camera_from_dtu


def test_dtu_cameras_match_published_code(golden_dir):
    with np.load(golden_dir / "dtu_cameras.npz") as arrays:
        published = {name: torch.from_numpy(arrays[name]).double() for name in arrays.files}
    indices = sorted(int(name.rsplit("_", 1)[1]) for name in published if "world_mat_" in name)
    assert indices
    for index in indices:
        camera = camera_from_dtu(
            published[f"world_mat_{index}"], published[f"scale_mat_{index}"], (1200, 1600)
        )
        pose = published[f"out_cam2world_{index}"]
        error = (camera.camera_to_world - pose).abs().max() / pose.abs().max()
        assert error < 1e-5
        # As the published code reads the field of view: from twice the principal point.
        centre_px = camera.intrinsics_px[:2, 2]
        focal_px = camera.intrinsics_px[[0, 1], [0, 1]]
        fov_deg = torch.rad2deg(2 * torch.atan2(centre_px, focal_px))
        torch.testing.assert_close(fov_deg, published[f"out_fov_deg_{index}"], rtol=1e-5, atol=0)
