"""The splat file: its bytes, and what viewers read from them."""

import math

import pytest
import torch
from splat_ply_reader import ply_columns, read_splats

from zeronvs._core.errors import HealthError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at
from zeronvs.formats.ply import write_splat_ply
from zeronvs.scene.rasterizer import rasterize
from zeronvs.splats import GaussianSplats


def random_splats(count=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return GaussianSplats(
        means=torch.randn(count, 3, generator=generator),
        scales=torch.rand(count, 3, generator=generator) * 0.3 + 0.01,
        rotations=torch.randn(count, 4, generator=generator),
        opacities=torch.rand(count, generator=generator) * 0.9 + 0.05,
        colors=torch.rand(count, 3, generator=generator),
    )


def test_what_is_written_is_read_back(tmp_path):
    splats, path = random_splats(), tmp_path / "scene.ply"
    assert write_splat_ply(path, splats) == len(splats)
    again = read_splats(path)
    for name in ("means", "scales", "opacities", "colors", "covariances"):
        torch.testing.assert_close(
            getattr(again, name), getattr(splats, name), atol=1e-5, rtol=1e-4
        )


def test_the_properties_are_those_of_the_published_layout_in_order(tmp_path):
    write_splat_ply(tmp_path / "scene.ply", random_splats())
    _, names = ply_columns(tmp_path / "scene.ply")
    expected = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    expected += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == expected  # without f_rest_*, which would all be zero


def test_values_are_stored_as_viewers_decode_them(tmp_path):
    splats = GaussianSplats(
        means=torch.tensor([[1.0, 2.0, 3.0]]),
        scales=torch.tensor([[0.1, 0.2, 0.3]]),
        rotations=torch.tensor([[2.0, 0.0, 0.0, 0.0]]),
        opacities=torch.tensor([0.75]),
        colors=torch.tensor([[1.0, 0.5, 0.0]]),
    )
    write_splat_ply(tmp_path / "scene.ply", splats)
    values, _ = ply_columns(tmp_path / "scene.ply")
    at = {name: float(column[0]) for name, column in values.items()}
    assert [at[name] for name in "xyz"] == [1.0, -3.0, 2.0]
    assert 1 / (1 + math.exp(-at["opacity"])) == pytest.approx(0.75)
    assert math.exp(at["scale_1"]) == pytest.approx(0.2)
    assert 0.5 + 0.28209479177387814 * at["f_dc_0"] == pytest.approx(1.0)
    assert at["f_dc_1"] == pytest.approx(0.0)
    assert [at[f"rot_{k}"] for k in range(4)] == pytest.approx([0.5**0.5, 0.5**0.5, 0.0, 0.0])


def test_up_in_our_world_is_minus_y_in_the_file(tmp_path):
    splats = random_splats(1)
    up_there = GaussianSplats(
        torch.tensor([[0.0, 0.0, 5.0]]),
        splats.scales,
        splats.rotations,
        splats.opacities,
        splats.colors,
    )
    write_splat_ply(tmp_path / "scene.ply", up_there)
    values, _ = ply_columns(tmp_path / "scene.ply")
    assert [float(values[name][0]) for name in "xyz"] == pytest.approx([0.0, -5.0, 0.0], abs=1e-6)


def test_a_viewer_with_y_down_sees_the_same_image(tmp_path):
    """Splats as stored, seen by the camera turned along, look as ours do."""
    splats, path = random_splats(), tmp_path / "scene.ply"
    write_splat_ply(path, splats)
    stored = read_splats(path, up="z")  # as it stands in the file
    pose = look_at(torch.tensor([[4.0, 1.0, 1.0]]))
    to_file = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    ours = rasterize(splats, Camera.from_fov(pose, 0.8, (24, 24)))[0]
    theirs = rasterize(stored, Camera.from_fov(to_file @ pose, 0.8, (24, 24)))[0]
    torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=0)


def test_splats_that_cannot_be_drawn_are_left_out(tmp_path):
    splats = random_splats(4)
    splats.means[0, 1] = math.nan
    splats.opacities[1] = 0.003
    splats.scales[2, 0] = math.inf
    assert write_splat_ply(tmp_path / "scene.ply", splats) == 1
    again = read_splats(tmp_path / "scene.ply")
    torch.testing.assert_close(again.means, splats.means[3:], atol=1e-5, rtol=1e-5)
    with pytest.raises(HealthError, match="Train longer"):
        write_splat_ply(tmp_path / "none.ply", splats[:3])
    assert not (tmp_path / "none.ply").exists()


def test_fully_opaque_and_flat_splats_stay_finite(tmp_path):
    splats = random_splats(2)
    splats.opacities[:] = 1.0
    splats.scales[:, 2] = 0.0
    write_splat_ply(tmp_path / "scene.ply", splats)
    values, _ = ply_columns(tmp_path / "scene.ply")
    assert all(bool(column.isfinite().all()) for column in values.values())
