"""Folders of posed photographs, written by the tests themselves."""

import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs.datasets.sources.posed import (
    align_disparity,
    crop_square,
    open_posed_scene,
    resize_area,
)

WIDTH, HEIGHT = 48, 32


def frame(number: int, **changes) -> dict:
    pose = np.eye(4)[:3]
    pose[0, 3] = 0.1 * number
    content = {
        "file": f"{number:04d}.jpg",
        "w": WIDTH,
        "h": HEIGHT,
        "fx": 40.0,
        "fy": 41.0,
        "cx": 24.5,
        "cy": 15.5,
        "c2w": pose.tolist(),
    }
    return content | changes


def write_scene(folder: Path, frames: list[dict], **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scene.json").write_text(json.dumps({"frames": frames} | changes))
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    pixels = np.stack([column * 5, row * 7, np.full_like(row, 90)], -1).astype(np.uint8)
    for content in frames:
        name = Path(str(content.get("file", "0000.jpg"))).name
        Image.fromarray(pixels).save(folder / name, quality=98)
    return folder


def test_a_frame_comes_with_its_image_and_an_opengl_camera(tmp_path: Path):
    scene = open_posed_scene(write_scene(tmp_path, [frame(0), frame(3)]))
    assert len(scene) == 2
    view = scene.view(1)
    assert view.image.shape == (3, HEIGHT, WIDTH)
    assert float(view.image[2].mean()) == pytest.approx(90 / 255, abs=0.02)
    expected = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))  # OpenCV identity, in OpenGL axes
    expected[0, 3] = 0.3
    torch.testing.assert_close(view.camera.camera_to_world, expected)
    assert float(view.camera.intrinsics_px[1, 2]) == 15.5
    assert view.camera.image_size_px == (HEIGHT, WIDTH)
    assert not bool(view.depth_z.any())


def test_depth_images_are_read_in_scene_units(tmp_path: Path):
    folder = write_scene(tmp_path, [frame(0)], depth_png_units_per_scene_unit=1000)
    values = np.full((HEIGHT, WIDTH), 2500, np.uint16)
    values[:, :10] = 0
    Image.fromarray(values).save(folder / "0000_depth.png")
    depth = open_posed_scene(folder).view(0).depth_z
    assert not bool(depth[:, :10].any())
    torch.testing.assert_close(depth[:, 10:], torch.full((HEIGHT, WIDTH - 10), 2.5))


def test_a_disparity_is_aligned_to_triangulated_points(tmp_path: Path):
    folder = write_scene(tmp_path, [frame(0), frame(1)])
    wanted = 1 / (0.2 + 0.6 * np.arange(WIDTH) / WIDTH)  # depth along a row, scene units
    disparity = np.tile((40 + 160 * np.arange(WIDTH) / WIDTH).astype(np.uint8), (HEIGHT, 1))
    Image.fromarray(disparity).save(folder / "0001_teacher.jpg", quality=100)
    random = np.random.default_rng(0)
    uv = np.stack([random.integers(0, WIDTH, 60), random.integers(0, HEIGHT, 60)], -1)
    depth = wanted[uv[:, 0]]
    depth[:10] *= 3  # wrong matches
    np.savez(folder / "sparse.npz", frame=np.ones(60, int), uv=uv + 0.5, depth_z=depth)
    scene = open_posed_scene(folder)
    dense = scene.view(1).depth_z
    torch.testing.assert_close(
        dense, torch.tensor(wanted, dtype=torch.float32).expand(HEIGHT, -1), rtol=0.05, atol=0
    )
    assert not bool(scene.view(0).depth_z.any())  # the other frame has no disparity


def test_few_points_align_nothing(tmp_path: Path):
    folder = write_scene(tmp_path, [frame(0)])
    Image.fromarray(np.full((8, 12), 99, np.uint8)).save(folder / "0000_teacher.jpg")
    np.savez(folder / "sparse.npz", frame=np.zeros(3, int), uv=np.ones((3, 2)), depth_z=np.ones(3))
    assert not bool(open_posed_scene(folder).view(0).depth_z.any())


def test_alignment_recovers_scale_and_shift_with_a_fifth_of_the_points_wrong():
    generator = torch.Generator().manual_seed(0)
    disparity = torch.rand(40, 40, generator=generator)
    truth = 1 / (0.7 * disparity + 0.15)
    row, column = (torch.randint(40, (200,), generator=generator) for _ in range(2))
    known = truth[row, column].clone()
    known[:40] *= 0.3 + 3 * torch.rand(40, generator=generator)
    aligned = align_disparity(disparity, row, column, known)
    torch.testing.assert_close(aligned, truth, rtol=0.03, atol=0)


def test_a_disparity_that_disagrees_becomes_one_depth():
    generator = torch.Generator().manual_seed(0)
    disparity = torch.rand(20, 20, generator=generator)
    row, column = (torch.randint(20, (50,), generator=generator) for _ in range(2))
    aligned = align_disparity(disparity, row, column, 1 + 2 * disparity[row, column])
    assert float(aligned.max() - aligned.min()) < 1e-4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not a posed scene"),
        ("[]", "is not a posed scene"),
        ('{"frames": 3}', "is not a posed scene"),
        ('{"frames": [{"file": "a.jpg"}]}', "KeyError"),
        (json.dumps({"frames": [frame(0, c2w=[[1, 2], [3, 4]])]}), "is not a posed scene"),
        (json.dumps({"frames": [frame(0, fx=math.nan)]}), "NaN is not a number"),
        (json.dumps({"frames": [frame(0, fy=-3)]}), "no camera's"),
        (json.dumps({"frames": [frame(0, cx=1e300)]}), "no camera's"),
        (json.dumps({"frames": [frame(0, w=0)]}), "no image's"),
        (json.dumps({"frames": [], "depth_png_units_per_scene_unit": 0}), "not above 0"),
    ],
)
def test_a_broken_scene_file_is_refused_in_one_line(tmp_path: Path, content: str, says: str):
    (tmp_path / "scene.json").write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        open_posed_scene(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"not a zip",
        {"frame": np.zeros(3, np.int64)},
        {"frame": np.zeros(2), "uv": np.zeros((3, 2)), "depth_z": np.ones(2)},
        {"frame": np.zeros((2, 2)), "uv": np.zeros((2, 2)), "depth_z": np.ones(2)},
    ],
)
def test_broken_sparse_points_are_refused_by_name(tmp_path: Path, content):
    write_scene(tmp_path, [frame(0)])
    if isinstance(content, bytes):
        (tmp_path / "sparse.npz").write_bytes(content)
    else:
        np.savez(tmp_path / "sparse.npz", **content)
    with pytest.raises(InputError, match=r"sparse\.npz") as caught:
        open_posed_scene(tmp_path)
    assert "\n" not in str(caught.value)


def test_points_without_a_finite_depth_are_left_out(tmp_path: Path):
    write_scene(tmp_path, [frame(0)])
    uv = np.array([[3.0, 4.0], [np.nan, 1.0], [1e30, 1.0], [5.0, 6.0], [7.0, 8.0]])
    depth_z = np.array([2.0, 2.0, 2.0, np.nan, -1.0])
    np.savez(tmp_path / "sparse.npz", frame=np.zeros(5, np.int64), uv=uv, depth_z=depth_z)
    row, column, known = open_posed_scene(tmp_path).sparse_points(0)
    assert (row.tolist(), column.tolist(), known.tolist()) == ([4], [3], [2.0])


def test_a_pose_that_is_scaled_is_refused_with_its_scale(tmp_path: Path):
    scaled = (0.33 * np.eye(4)[:3]).tolist()
    scene = open_posed_scene(write_scene(tmp_path, [frame(0, c2w=scaled)]))
    with pytest.raises(InputError, match=r"scaled by 0\.33"):
        scene.view(0)


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path):
    scene = open_posed_scene(write_scene(tmp_path, [frame(0)]))
    # The header of a PNG of 20,000 x 20,000 pixels; nothing follows it.
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    png += struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT" + bytes(4)
    (tmp_path / "0000.jpg").write_bytes(png)
    with pytest.raises(InputError, match=r"megapixels|DecompressionBomb"):
        scene.view(0)


def test_a_missing_scene_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="is not a posed scene"):
        open_posed_scene(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "sub/0000.jpg", "..", ""])
def test_a_scene_reads_nothing_outside_its_folder(tmp_path: Path, name: str):
    (tmp_path / "scene.json").write_text(json.dumps({"frames": [frame(0, file=name)]}))
    with pytest.raises(InputError, match="outside its folder"):
        open_posed_scene(tmp_path)


def test_a_missing_or_broken_image_is_refused_by_name(tmp_path: Path):
    scene = open_posed_scene(write_scene(tmp_path, [frame(0)]))
    (tmp_path / "0000.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0000\.jpg"):
        scene.view(0)
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(tmp_path / "0000.jpg")
    with pytest.raises(InputError, match="7x5 px"):
        scene.view(0)
    (tmp_path / "0000.jpg").unlink()
    with pytest.raises(InputError, match=r"0000\.jpg"):
        scene.view(0)


def test_the_centre_square_keeps_pixels_and_camera_together(tmp_path: Path):
    view = crop_square(open_posed_scene(write_scene(tmp_path, [frame(0)])).view(0), 16)
    assert view.image.shape == (3, 16, 16)
    assert view.camera.image_size_px == (16, 16)
    # 8 columns are cut off at the left, then everything shrinks to half.
    assert float(view.camera.intrinsics_px[0, 2]) == pytest.approx((24.5 - 8) / 2)
    assert float(view.camera.intrinsics_px[1, 1]) == pytest.approx(41 / 2)
    assert float(view.image[0, 8, 0]) == pytest.approx((8 + 9) / 2 * 5 / 255, abs=0.02)


def test_shrinking_takes_the_mean_of_what_a_pixel_covers():
    image = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    expected = image.reshape(3, 4, 3, 4, 3).mean((2, 4))
    torch.testing.assert_close(resize_area(image, 4), expected)
    assert resize_area(image, 20).shape == (3, 20, 20)


def test_field_of_view_survives_the_crop(tmp_path: Path):
    view = open_posed_scene(write_scene(tmp_path, [frame(0)])).view(0)
    fov = 2 * math.atan(HEIGHT / 2 / 41)
    assert float(crop_square(view, 20).camera.fov_y_rad) == pytest.approx(fov, rel=1e-5)
