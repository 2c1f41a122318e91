"""Packing images, and drawing pairs from them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from zeronvs.cameras.view import View
from zeronvs.cameras.warp import project, unproject
from zeronvs.training.pack import PHOTO_SIZE_PX, TrainingPack, pack_images
from zeronvs.training.pairs import Pair, PairConfig, PairStream, collate, mirror

KINDS = {
    "posed": PairConfig(photo_share=0.0, procedural_share=0.0),
    "photo": PairConfig(photo_share=1.0, procedural_share=0.0),
    "procedural": PairConfig(photo_share=0.0, procedural_share=1.0),
}


def same(one: Pair, other: Pair) -> bool:
    return torch.equal(one.input_view.image, other.input_view.image) and torch.equal(
        one.target_view.image, other.target_view.image
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(3))
def test_every_kind_of_pair_is_whole(pack: TrainingPack, kind: str, number: int):
    pair = PairStream(pack, KINDS[kind], seed=1).pair(number)
    for view in (pair.input_view, pair.target_view):
        assert view.image.shape == (3, 32, 32)
        assert bool(((view.image >= 0) & (view.image <= 1)).all())
        rotation = view.camera.camera_to_world[:3, :3]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-4, rtol=0)
        assert float(torch.linalg.det(rotation)) == pytest.approx(1, abs=1e-3)
    depth = pair.input_view.depth_z
    assert float(pair.scene_scale) == pytest.approx(
        float(torch.quantile(depth[depth > 0], 0.2)), rel=1e-2
    )


@pytest.mark.parametrize("kind", ["photo", "procedural"])
def test_the_warped_input_resembles_the_target(pack: TrainingPack, kind: str):
    stream = PairStream(pack, KINDS[kind], seed=2)
    batch = collate([stream.pair(number) for number in range(6)])
    assert batch.warped is not None
    image, validity = batch.warped
    errors = (image - batch.target_view.image).abs().mean(1, keepdim=True)
    copied = (batch.input_view.image - batch.target_view.image).abs().mean(1, keepdim=True)
    warped_error = float((errors * validity).sum() / validity.sum())
    assert warped_error < 0.6 * float((copied * validity).sum() / validity.sum())


def test_pair_k_depends_on_seed_and_k_alone(pack: TrainingPack):
    config = PairConfig()
    stream = PairStream(pack, config, seed=3)
    assert same(stream.pair(5), PairStream(pack, config, seed=3).pair(5))
    assert not same(stream.pair(5), stream.pair(6))
    assert not same(stream.pair(5), PairStream(pack, config, seed=4).pair(5))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_goes_on_where_it_stopped_with_any_number_of_processes(
    pack: TrainingPack, workers: int
):
    config = PairConfig(procedural_share=0.0)
    whole = PairStream(pack, config, seed=5)
    rest = PairStream(pack, config, seed=5, batch=2, first=4)
    loader = iter(DataLoader(rest, 2, num_workers=workers, collate_fn=collate))
    for number in (4, 6, 8):
        expected = collate([whole.pair(number), whole.pair(number + 1)])
        assert same(next(loader), expected)


def test_posed_pairs_stay_inside_a_scene_and_are_never_one_frame(pack: TrainingPack):
    stream = PairStream(pack, KINDS["posed"], seed=6)
    positions = pack.frame_camera_to_world[:, :3, 3]
    for number in range(20):
        pair = stream.pair(number)
        places = [view.camera.position for view in (pair.input_view, pair.target_view)]
        found = []
        for place in places:  # a mirrored pair has x turned around
            distance = torch.minimum(
                (positions - place).norm(dim=1),
                (positions * torch.tensor([-1.0, 1.0, 1.0]) - place).norm(dim=1),
            )
            found.append(int(distance.argmin()))
        assert found[0] != found[1]
        assert pack.frame_scene[found[0]] == pack.frame_scene[found[1]]


def test_mirroring_moves_pixels_and_points_together(pack: TrainingPack):
    stream = PairStream(
        pack, PairConfig(photo_share=0.0, procedural_share=1.0, mirror_share=0.0), seed=7
    )
    view = stream.pair(0).input_view
    turned = mirror(view)
    points = unproject(view).flatten(0, 1) * torch.tensor([-1.0, 1.0, 1.0])
    uv, depth = project(points, turned.camera)
    torch.testing.assert_close(depth, view.depth_z.flatten(), atol=1e-4, rtol=1e-4)
    column = uv[:, 0].reshape(32, 32)
    torch.testing.assert_close(
        column, (31.5 - torch.arange(32.0)).expand(32, 32), atol=1e-2, rtol=0
    )
    twice = mirror(turned)
    torch.testing.assert_close(twice.image, view.image)
    torch.testing.assert_close(twice.camera.camera_to_world, view.camera.camera_to_world)


def test_views_without_depth_mirror_too(pack: TrainingPack):
    view = PairStream(pack, KINDS["posed"], seed=8).pair(0).input_view
    assert mirror(View(view.image, view.camera)).depth_z is None


def test_folders_are_packed_and_read_back(tmp_path: Path):
    scene = tmp_path / "scene"
    scene.mkdir()
    random = np.random.default_rng(0)
    frames = []
    for number in range(2):
        frames.append(
            {"file": f"{number}.jpg", "w": 48, "h": 32, "fx": 40, "fy": 40, "cx": 24, "cy": 16}
            | {"c2w": np.eye(4)[:3].tolist()}
        )
        pixels = random.integers(0, 255, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(scene / f"{number}.jpg")
    depth = np.full((32, 48), 3000, np.uint16)
    Image.fromarray(depth).save(scene / "0_depth.png")  # the other frame has no depth: left out
    content = {"frames": frames, "depth_png_units_per_scene_unit": 1000}
    (scene / "scene.json").write_text(json.dumps(content))
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, mode in (("a.jpg", "RGB"), ("a_teacher.jpg", "L"), ("alone.jpg", "RGB")):
        Image.new(mode, (30, 20), 99).save(photos / name)
    events = []
    packed = pack_images([scene], [photos], size_px=16, progress=events.append)
    assert packed.frame_image.shape == (1, 3, 16, 16)
    assert packed.photo_image.shape == (1, 3, PHOTO_SIZE_PX, PHOTO_SIZE_PX)
    assert float(packed.frame_quantile_depth[0]) == pytest.approx(3.0)
    torch.testing.assert_close(packed.frame_depth_z, torch.ones(1, 16, 16).half())
    assert [event.stage for event in events] == ["pack scenes", "pack photos"]
    packed.save(tmp_path / "pack.safetensors")
    loaded = TrainingPack.load(tmp_path / "pack.safetensors")
    for name, value in vars(packed).items():
        torch.testing.assert_close(getattr(loaded, name), value)


def test_photographs_are_seen_with_a_plausible_field_of_view(pack: TrainingPack):
    stream = PairStream(pack, KINDS["photo"], seed=9)
    for number in range(10):
        fov = float(stream.pair(number).target_view.camera.fov_y_rad)
        assert math.radians(25) < fov < math.radians(76)
