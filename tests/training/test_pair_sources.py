"""Packing images, and drawing pairs from them by sources with shares."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import project, unproject
from zeronvs.training.pack import PHOTO_SIZE_PX, TrainingPack, open_pack, pack_images
from zeronvs.training.pair_sources import (
    Pair,
    PairShares,
    PairStream,
    Photographs,
    PosedFrames,
    ProceduralScenes,
    collate,
    mirror,
)
from zeronvs.training.view_pairs import ViewPairs

KINDS = {"posed": PosedFrames, "photo": Photographs, "procedural": ProceduralScenes}


def same(one: Pair | ViewPairs, other: Pair | ViewPairs) -> bool:
    return torch.equal(one.input_view.image, other.input_view.image) and torch.equal(
        one.target_view.image, other.target_view.image
    )


def one_kind(pack: TrainingPack, kind: str, seed: int, **settings) -> PairStream:
    return PairStream([(KINDS[kind](pack), 1.0)], seed=seed, batch=1, **settings)


def mixed(pack: TrainingPack, seed: int, batch: int = 1, **settings) -> PairStream:
    return PairStream(PairShares().sources(pack), seed=seed, batch=batch, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(3))
def test_every_kind_of_pair_is_whole(pack: TrainingPack, kind: str, number: int):
    pair = one_kind(pack, kind, seed=1).pair(number)
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
    stream = one_kind(pack, kind, seed=2)
    batch = collate([stream.pair(number) for number in range(6)])
    assert batch.warped is not None
    image, validity = batch.warped
    errors = (image - batch.target_view.image).abs().mean(1, keepdim=True)
    copied = (batch.input_view.image - batch.target_view.image).abs().mean(1, keepdim=True)
    warped_error = float((errors * validity).sum() / validity.sum())
    assert warped_error < 0.6 * float((copied * validity).sum() / validity.sum())


def test_pair_k_depends_on_seed_and_k_alone(pack: TrainingPack):
    stream = mixed(pack, seed=3)
    assert same(stream.pair(5), mixed(pack, seed=3).pair(5))
    assert not same(stream.pair(5), stream.pair(6))
    assert not same(stream.pair(5), mixed(pack, seed=4).pair(5))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_resumes_where_it_stopped_with_any_number_of_workers(
    pack: TrainingPack, workers: int
):
    whole = PairStream([(PosedFrames(pack), 1.0)], seed=5, batch=2)
    rest = PairStream([(PosedFrames(pack), 1.0)], seed=5, batch=2, workers=workers)
    rest.load_state_dict({"taken": 2})
    for number, batch in zip((4, 6, 8), rest, strict=False):
        assert same(batch, collate([whole.pair(number), whole.pair(number + 1)]))
    assert rest.state_dict() == {"taken": 5} or rest.state_dict() == {"taken": 6}


def test_processes_take_the_batches_of_one_stream_in_turn(pack: TrainingPack):
    alone = PairStream([(PosedFrames(pack), 1.0)], seed=5, batch=2)
    for rank in range(2):
        part = PairStream([(PosedFrames(pack), 1.0)], seed=5, batch=2, rank=rank, processes=2)
        for index in range(2):
            assert same(part.read(index), alone.read(2 * index + rank))


def test_sources_are_drawn_by_their_shares_and_a_share_is_mirrored(pack: TrainingPack):
    class Marked:
        def __init__(self, value: float) -> None:
            self.value = value

        def draw(self, generator: torch.Generator) -> Pair:
            image = torch.linspace(0, self.value, 32).expand(3, 32, 32)
            view = replace(PosedFrames(pack).draw(generator).input_view, image=image)
            return Pair(view, view, torch.tensor(1.0))

    stream = PairStream([(Marked(0.25), 0.7), (Marked(1.0), 0.3)], seed=0, batch=1, mirrored=0.2)
    rows = torch.stack([stream.pair(number).target_view.image[0, 0] for number in range(500)])
    assert float((rows.amax(1) > 0.5).float().mean()) == pytest.approx(0.3, abs=0.06)
    assert float((rows[:, 0] > rows[:, -1]).float().mean()) == pytest.approx(0.2, abs=0.06)
    shares = PairShares(photographs=0.4, procedural=0.05).sources(pack)
    assert [type(source) for source, _ in shares] == [Photographs, ProceduralScenes, PosedFrames]
    assert [share for _, share in shares] == pytest.approx([0.4, 0.05, 0.55])


def test_posed_pairs_stay_inside_a_scene_and_are_never_one_frame(pack: TrainingPack):
    stream = one_kind(pack, "posed", seed=6)
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
    view = one_kind(pack, "procedural", seed=7, mirrored=0.0).pair(0).input_view
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
    view = one_kind(pack, "posed", seed=8).pair(0).input_view
    assert mirror(View(view.image, view.camera)).depth_z is None


def write_data(folder: Path) -> Path:
    """Write a scene of two frames, one with depth, and two photographs, one with a disparity."""
    scene = folder / "posed" / "train" / "scene"
    scene.mkdir(parents=True)
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
    photos = folder / "photos" / "kind"
    photos.mkdir(parents=True)
    for name, mode in (("a.png", "RGB"), ("a_teacher.jpg", "L"), ("alone.jpg", "RGB")):
        Image.new(mode, (30, 20), 99).save(photos / name)
    return folder


def test_folders_are_packed_and_read_back(tmp_path: Path):
    data = write_data(tmp_path / "data")
    folders = [data / "posed" / "train" / "scene"], [data / "photos" / "kind"]
    events = []
    packed = pack_images(*folders, size_px=16, progress=events.append)
    assert packed.frame_image.shape == (1, 3, 16, 16)
    assert packed.photo_image.shape == (1, 3, PHOTO_SIZE_PX, PHOTO_SIZE_PX)
    assert float(packed.frame_quantile_depth[0]) == pytest.approx(3.0)
    torch.testing.assert_close(packed.frame_depth_z, torch.ones(1, 16, 16).half())
    assert [event.stage for event in events] == ["pack scenes", "pack photos"]
    path = tmp_path / "pack.safetensors"
    for _ in range(2):  # packed, then read
        loaded = open_pack(data, path, 16)
        for name, value in vars(packed).items():
            torch.testing.assert_close(getattr(loaded, name), value)


def test_a_folder_without_data_and_a_damaged_pack_are_one_clear_line(tmp_path: Path):
    with pytest.raises(InputError, match="has 0 posed scenes"):
        open_pack(tmp_path, tmp_path / "pack.safetensors", 16)
    (tmp_path / "pack.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="Remove it to pack anew"):
        open_pack(tmp_path, tmp_path / "pack.safetensors", 16)
    data = write_data(tmp_path / "data")
    (data / "photos" / "kind" / "a.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"a\.png cannot be read"):
        open_pack(data, tmp_path / "other.safetensors", 16)


def test_photographs_have_a_plausible_field_of_view(pack: TrainingPack):
    stream = one_kind(pack, "photo", seed=9)
    for number in range(10):
        fov = float(stream.pair(number).target_view.camera.fov_y_rad)
        assert math.radians(25) < fov < math.radians(76)
