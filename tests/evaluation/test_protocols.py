"""Protocols as data, and data sets read from folders laid out as they are published."""

import dataclasses
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_trees import DTU_DISTANCE, dtu_cameras, write_capture, write_dtu_scan
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs.cameras.poses import relative_pose
from zeronvs.evaluation.protocols.dtu import find_scans, read_scan
from zeronvs.evaluation.protocols.mipnerf360 import find_captures, read_capture
from zeronvs.evaluation.protocols.protocol import METRICS, load_protocol

DTU = dataclasses.replace(load_protocol("dtu"), image_size_px=(30, 40))
UNIT = 1.5 * 2.02
"""Units of the room per unit of the published frame: scale_mat, then the published divisor."""


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rs_dtu_4")
    write_dtu_scan(root / "DTU" / "scan8", 1)
    return root


@pytest.mark.parametrize("name", ["dtu", "mipnerf360"])
def test_published_scenes_average_to_the_published_table(name, repository: Path):
    with (repository / "benchmarks" / "expected.toml").open("rb") as file:
        expected = tomllib.load(file)["published"][name]
    protocol = load_protocol(name)
    for metric in METRICS:
        mean = protocol.published(list(protocol.scenes), metric)
        # The paper rounds PSNR of Table 2 to one digit.
        tolerance = {"LPIPS": 6e-4, "SSIM": 6e-4, "PSNR": 0.05}[metric]
        assert mean == pytest.approx(expected[metric], abs=tolerance)
        for table in protocol.tables.values():
            assert table["ZeroNVS"][metric] == expected[metric]
    assert protocol.scale_grid[0] == 0.3
    assert len(protocol.scale_grid) == 13
    assert all(scene["scale"] in protocol.scale_grid for scene in protocol.scenes.values())


def test_a_scan_has_the_published_input_and_33_targets(scan: Path):
    assert len(DTU.scenes) == 15
    folders = find_scans(scan)
    assert list(folders) == ["scan8"]
    found = read_scan(folders["scan8"], "scan8", DTU)
    assert len(found.targets) == 33
    numbers = [int(Path(name).stem) for name in found.target_names]
    assert 25 not in numbers
    assert not set(numbers) & {3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 36, 37, 38, 39}
    assert math.degrees(found.elevation_rad) == pytest.approx(20)
    assert (found.content_scale, found.published_scale) == (0.7, 1.2)
    with Image.open(scan / "DTU/scan8/image/000025.png") as image:
        pixels = np.array(image)
    torch.testing.assert_close(
        found.input_view.image.permute(1, 2, 0) * 255, torch.tensor(pixels).float()
    )


def test_cameras_of_a_scan_keep_their_places_in_the_published_unit(scan: Path):
    found = read_scan(scan / "DTU/scan8", "scan8", DTU)
    true = dtu_cameras(49, (30, 40)).camera_to_world
    numbers = [int(Path(name).stem) for name in found.target_names]
    expected = relative_pose(true[numbers], true[25])
    expected[:, :3, 3] /= UNIT
    poses = found.targets.camera.camera_to_world
    own = relative_pose(poses, found.input_view.camera.camera_to_world)
    torch.testing.assert_close(own, expected, atol=2e-4, rtol=0)
    assert found.focus_distance == pytest.approx(DTU_DISTANCE / UNIT, rel=1e-3)
    fov_y_rad = float(found.input_view.camera.fov_y_rad)
    assert fov_y_rad == pytest.approx(2 * math.atan(619 / 2883), rel=1e-4)
    # In the method's frame the input is canonical, and translations are divided by g.
    cameras = found.target_cameras(1.25)
    placed = relative_pose(cameras.camera_to_world, found.canonical_camera.camera_to_world)
    torch.testing.assert_close(placed[:, :3, 3] * 1.25, own[:, :3, 3], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(placed[:, :3, :3], own[:, :3, :3], atol=1e-5, rtol=0)
    assert float(found.canonical_camera.position.norm()) == pytest.approx(1.0)


def test_cameras_may_be_calibrated_for_larger_images_and_scans_may_have_more_views(
    scan: Path, tmp_path: Path
):
    write_dtu_scan(tmp_path / "dtu_scan8", 1, count=51, calibrated=4)
    assert list(find_scans(tmp_path)) == ["scan8"]
    small = read_scan(scan / "DTU/scan8", "scan8", DTU)
    large = read_scan(tmp_path / "dtu_scan8", "scan8", DTU)
    assert large.target_names == small.target_names
    torch.testing.assert_close(
        large.targets.camera.intrinsics_px, small.targets.camera.intrinsics_px, atol=0.02, rtol=1e-3
    )


def test_a_limit_spreads_over_the_targets(scan: Path):
    found = read_scan(scan / "DTU/scan8", "scan8", DTU, limit=3)
    assert [int(Path(name).stem) for name in found.target_names] == [0, 22, 34]


def test_rectified_images_of_one_light_are_read(scan: Path, tmp_path: Path):
    folder = tmp_path / "scan8"
    folder.mkdir()
    (folder / "cameras.npz").write_bytes((scan / "DTU/scan8/cameras.npz").read_bytes())
    for path in (scan / "DTU/scan8/image").iterdir():
        for light in (2, 3):
            name = f"rect_{int(path.stem) + 1:03d}_{light}_r5000.png"
            (folder / name).write_bytes(path.read_bytes() if light == 3 else b"dark")
    found = read_scan(folder, "scan8", DTU, limit=2)
    whole = read_scan(scan / "DTU/scan8", "scan8", DTU, limit=2)
    torch.testing.assert_close(found.targets.image, whole.targets.image)


def test_damaged_scans_are_refused_in_one_line(scan: Path, tmp_path: Path):
    folder = tmp_path / "scan8"
    (folder / "image").mkdir(parents=True)
    (folder / "cameras.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="has no images"):
        read_scan(folder, "scan8", DTU)
    for path in (scan / "DTU/scan8/image").iterdir():
        (folder / "image" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="has no camera 0") as caught:
        read_scan(folder, "scan8", DTU)
    assert "\n" not in str(caught.value)
    harmful = np.array([print], dtype=object)
    np.savez(folder / "cameras.npz", world_mat_0=harmful, scale_mat_0=harmful)
    with pytest.raises(InputError, match="has no camera 0"):
        read_scan(folder, "scan8", DTU)
    with np.load(scan / "DTU/scan8/cameras.npz") as arrays:
        crops = dict(arrays)
    for name, value in crops.items():
        if "world" in name:
            value[:2] *= 1.6
    np.savez(folder / "cameras.npz", **crops)
    with pytest.raises(InputError, match="crops of DTU"):
        read_scan(folder, "scan8", DTU)
    (folder / "image" / "000040.png").unlink()
    for number in range(20):
        (folder / "image" / f"{number:06d}.png").unlink()
        (folder / "image" / f"{number + 25:06d}.png").unlink(missing_ok=True)
    with pytest.raises(InputError, match="the input is view 25"):
        read_scan(folder, "scan8", DTU)
    with pytest.raises(InputError, match="there is no scene in it"):
        find_scans(tmp_path / "scan8" / "image")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("360_v2")
    write_capture(root / "garden", 2)
    return root


def test_a_capture_is_measured_at_256_pixels_on_all_other_views(capture: Path):
    protocol = load_protocol("mipnerf360")
    assert len(protocol.scenes) == 7
    folders = find_captures(capture)
    assert list(folders) == ["garden"]
    found = read_capture(folders["garden"], "garden", protocol)
    assert found.targets.image.shape == (8, 3, 256, 256)
    every = torch.cat(
        [found.input_view.camera.camera_to_world[None], found.targets.camera.camera_to_world]
    )
    # The mean distance to the focus point, which is the origin, is 1; z is up.
    assert float(every[:, :3, 3].norm(dim=-1).mean()) == pytest.approx(1.0, abs=1e-4)
    assert float(every[:, 2, 1].mean()) > 0.5
    assert 0.2 < found.elevation_rad < 0.8
    assert found.focus_distance == pytest.approx(float(every[0, :3, 3].norm()))
    assert any("the paper's table names image 63" in note for note in found.notes)
    assert float(found.input_view.camera.fov_y_rad) == pytest.approx(0.9, abs=1e-3)


def test_the_points_of_a_capture_are_depth_in_its_new_unit(capture: Path):
    protocol = load_protocol("mipnerf360")
    found = read_capture(capture / "garden", "garden", protocol)
    known = found.known_depth_z > 0
    assert int(known.sum()) > 12
    # The cameras are about 1.3 rooms from the origin, which is 1 in the new unit.
    assert 0.5 < float(found.known_depth_z[known].median()) < 4
    limited = read_capture(capture / "garden", "garden", protocol, limit=2)
    assert len(limited.targets) == 2
    same = found.target_names.index(limited.target_names[1])
    torch.testing.assert_close(limited.targets.image[1], found.targets.image[same])
    torch.testing.assert_close(
        limited.targets.camera.camera_to_world[1], found.targets.camera.camera_to_world[same]
    )


def test_a_capture_without_its_input_is_refused(tmp_path: Path):
    write_capture(tmp_path / "stump", 2, count=5)
    with pytest.raises(InputError, match="5 usable images; the input has rank 11"):
        read_capture(tmp_path / "stump", "stump", load_protocol("mipnerf360"))
