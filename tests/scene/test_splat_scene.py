"""Splats on disk: what is loaded is what was saved, and what is no scene is refused."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.scene.lift import LiftConfig
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.scene.surface_splats import surface_splats
from zeronvs.splats import GaussianSplats


def some_splats(count: int = 7) -> GaussianSplats:
    generator = torch.Generator().manual_seed(0)
    values = {
        "means": torch.randn(count, 3, generator=generator),
        "scales": 0.1 + torch.rand(count, 3, generator=generator),
        "rotations": torch.randn(count, 4, generator=generator),
        "opacities": torch.rand(count, generator=generator),
        "colors": torch.rand(count, 3, generator=generator),
    }
    return GaussianSplats(**{item.name: values[item.name] for item in fields(GaussianSplats)})


def test_positions_come_back_exactly_and_the_rest_to_half_precision(tmp_path: Path):
    splats = some_splats()
    SplatScene(splats).save(tmp_path / "scene.safetensors")
    loaded = SplatScene.load(tmp_path / "scene.safetensors").splats
    assert torch.equal(loaded.means, splats.means)
    for item in fields(GaussianSplats):
        value = getattr(loaded, item.name)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, getattr(splats, item.name), rtol=1e-3, atol=1e-3)


def test_a_scene_is_saved_to_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        SplatScene(some_splats()).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_loaded_scene_renders_what_the_saved_one_did(tmp_path: Path):
    scene = SplatScene(some_splats())
    scene.save(tmp_path / "scene.safetensors")
    pose = orbit_pose(*(torch.tensor(value) for value in (0.3, 0.2, 4.0)))
    camera = Camera.from_fov(pose, 0.9, (24, 32))
    loaded = SplatScene.load(tmp_path / "scene.safetensors")
    assert float(loaded.render(camera).opacity.amax()) > 0.1
    difference = loaded.render(camera).rgb - scene.render(camera).rgb
    assert float(difference.abs().amax()) < 0.01


def test_a_larger_image_than_the_photograph_shows_no_grid_of_dots(tmp_path: Path):
    """A splat for each pixel, as lifted: white before black, all of it at twice the size."""
    pose = orbit_pose(*(torch.tensor(value) for value in (0.0, 0.0, 1.0)))
    camera = Camera.from_fov(pose, 0.9, (24, 24))
    view = View(torch.ones(3, 24, 24), camera, torch.ones(24, 24))
    everywhere = torch.ones(24, 24, dtype=torch.bool)
    splats = surface_splats(view, everywhere, LiftConfig().splat_sigma_px)
    focal_px = float(camera.intrinsics_px[1, 1])
    SplatScene(splats, focal_px).save(tmp_path / "scene.safetensors")
    loaded = SplatScene.load(tmp_path / "scene.safetensors")
    assert loaded.focal_px == focal_px

    def darkest(scene: SplatScene, side_px: int) -> float:
        inside = slice(side_px // 4, -side_px // 4)
        return float(scene.render(camera.resized(side_px, side_px)).rgb[0, :, inside, inside].min())

    assert darkest(SplatScene(splats), 72) < 0.93  # the dots
    assert darkest(loaded, 72) > 0.97
    unlike = loaded.render(camera).rgb - SplatScene(splats).render(camera).rgb
    assert float(unlike.abs().max()) < 1e-5  # at the photograph's own size nothing changes


def without(name: str):
    return lambda tensors: {k: value for k, value in tensors.items() if k != name}


def with_nan(tensors: dict) -> dict:
    return tensors | {"opacities": torch.full_like(tensors["opacities"], torch.nan)}


def changed(name: str, change):
    return lambda tensors: tensors | {name: change(tensors[name]).contiguous()}


DAMAGES = {
    "missing": without("colors"),
    "not finite": with_nan,
    "fewer": changed("colors", lambda part: part[:-1]),
    "two numbers": changed("scales", lambda part: part[:, :2]),
    "five numbers": changed("rotations", lambda part: torch.cat([part, part[:, :1]], dim=1)),
    "one more axis": changed("opacities", lambda part: part[:, None]),
    "no axis": changed("means", lambda part: part[0, 0]),
}


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
def test_splats_that_do_not_belong_together_are_refused(tmp_path: Path, change):
    path = tmp_path / "scene.safetensors"
    SplatScene(some_splats()).save(path)
    save_file(change(load_file(path)), path, {"format": "zeronvs-splats-1"})
    with pytest.raises(InputError, match=r"scene\.safetensors"):
        SplatScene.load(path)


def test_another_format_and_a_damaged_file_are_refused(tmp_path: Path):
    path = tmp_path / "scene.safetensors"
    save_file({"weights": torch.zeros(3)}, path, {"format": "other"})
    with pytest.raises(InputError, match="'other'"):
        SplatScene.load(path)
    path.write_bytes(b"not a scene")
    with pytest.raises(InputError, match="cannot be read"):
        SplatScene.load(path)


def test_the_background_shows_where_nothing_is():
    pose = orbit_pose(*(torch.tensor(value) for value in (0.0, 0.0, 4.0)))
    far = replace(some_splats(), means=torch.full((7, 3), 100.0))
    background = torch.tensor([0.1, 0.5, 0.9])
    image = SplatScene(far).render(Camera.from_fov(pose, 0.4, (8, 8)), background=background)
    torch.testing.assert_close(image.rgb[0], background[:, None, None].expand(3, 8, 8))


def test_the_same_splats_give_the_same_bytes(tmp_path: Path):
    for run in range(12):  # several entries of metadata would be in one order once in 2,000
        SplatScene(some_splats(), 3.5).save(tmp_path / f"{run}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("number", [torch.tensor(-1.0), torch.tensor(torch.nan), torch.ones(2)])
def test_a_focal_length_that_cannot_be_is_none(tmp_path: Path, number: torch.Tensor):
    path = tmp_path / "scene.safetensors"
    SplatScene(some_splats(), 3.5).save(path)
    save_file(load_file(path) | {"focal_px": number}, path, {"format": "zeronvs-splats-1"})
    assert SplatScene.load(path).focal_px is None
