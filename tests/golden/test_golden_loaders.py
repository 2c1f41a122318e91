"""What the published loader reads from two small shards: `co3d_loader.npz`, `re10k_loader.npz`."""

import shutil

import numpy as np
import pytest
import torch

from zeronvs.cameras.embedding import Representation
from zeronvs.shards.index import open_index
from zeronvs.shards.loader import PUBLISHED_LOADER, PairLoader, PairLoaderConfig
from zeronvs.shards.statistics import aggregate_scale, camera_radius, depth_statistics
from zeronvs.shards.writer import read_shard

SETS = ("co3d", "re10k")


def published(golden_dir, name):
    with np.load(golden_dir / f"{name}_loader.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def scenes_of(arrays):
    return sorted({int(key.split("_")[0].removeprefix("scene")) for key in arrays})


def shards_of(golden_dir, name):
    return sorted(golden_dir.glob(f"{name}-*.tar"))


def near_of(scene):
    depths = [scene.depth_z(index) for index in range(len(scene))]
    near = [depth_statistics(z.numpy()).aggregate_near for z in depths if z is not None]
    return aggregate_scale(np.array(near))


DERIVED = ("center", "focus_point", "scene_radius_focus_point", "elevation_deg")
"""What the published loader computes of the poses, and neither training nor we use."""


def read(scene):
    """Return what the published loader reads of a scene, under its names."""
    depth = scene.depth_z(0)
    assert depth is not None
    return {
        "fov_deg": np.rad2deg(scene.published_fov_rad),
        "cam2world": scene.camera_to_world,
        "scene_radius": camera_radius(scene.camera_to_world),
        "scale_adjustment": scene.scale_adjustment,
        "nearplane_quantile": near_of(scene),
        "image0": scene.image(0).permute(1, 2, 0).numpy(),
        "depth0": depth.numpy()[..., None],
    }


@pytest.mark.parametrize("name", SETS)
def test_every_array_of_the_published_loader_is_read(name, golden_dir):
    theirs = published(golden_dir, name)
    ours = [scene for path in shards_of(golden_dir, name) for scene in read_shard(path)]
    assert len(ours) >= len(scenes_of(theirs)) > 0
    by_uid = {scene.scene_id.replace("/", "_"): scene for scene in ours}
    for number in scenes_of(theirs):
        expected = {
            key.split("_", 1)[1]: value
            for key, value in theirs.items()
            if key.startswith(f"scene{number}_") and not key.endswith(DERIVED)
        }
        found = read(by_uid[str(expected.pop("uid"))])
        for key, value in expected.items():
            actual = np.asarray(found[key])
            assert actual.shape == value.shape, key
            if value.dtype == np.uint8:
                assert np.array_equal(actual, value), key
                continue
            size = np.abs(value).max()
            assert np.abs(actual - value).max() <= 1e-5 * size, key


@pytest.mark.parametrize("name", SETS)
def test_the_index_agrees_with_the_scenes(name, golden_dir, tmp_path):
    for original in shards_of(golden_dir, name):
        shutil.copy(original, tmp_path)
        index = open_index(tmp_path / original.name, with_depth=True)
        scenes = list(read_shard(tmp_path / original.name))
        assert (tmp_path / f"{original.name}.index").is_file()
        assert index.scene_ids == tuple(scene.scene_id for scene in scenes)
        for number, scene in enumerate(scenes):
            rows = slice(index.scene_start[number], index.scene_start[number + 1])
            assert np.array_equal(index.camera_to_world[rows], scene.camera_to_world)
            assert index.radius[number] == camera_radius(scene.camera_to_world)
            assert index.scale_adjustment[number] == scene.scale_adjustment
            assert index.aggregate_scale[number] == pytest.approx(near_of(scene), rel=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_the_loader_gives_the_published_numbers_to_training(name, golden_dir, tmp_path):
    theirs = published(golden_dir, name)
    numbers = {str(theirs[f"scene{n}_uid"]): n for n in scenes_of(theirs)}
    for original in shards_of(golden_dir, name):
        shutil.copy(original, tmp_path)
    config = PairLoaderConfig(
        shuffle_buffer=4,
        fov=PUBLISHED_LOADER.fov,
        representations=(Representation.SIX_DOF_AGG, Representation.SIX_DOF_VIEWER),
        input_depth=True,
    )
    batch = next(iter(PairLoader([(tmp_path, 1.0)], config, batch=8)))
    checked = 0
    scenes = {s.scene_id: s for p in sorted(tmp_path.glob("*.tar")) for s in read_shard(p)}
    for row, key in enumerate(batch.keys):
        scene_id, seen, shown = key.split(" ")
        uid = scene_id.replace("/", "_")
        if uid not in numbers:
            continue
        checked += 1
        prefix = f"scene{numbers[uid]}"
        names = [frame.name for frame in scenes[scene_id].frames]
        i, j = (names.index(f"frame{int(number):06d}") for number in (seen, shown))
        poses = torch.from_numpy(theirs[f"{prefix}_cam2world"]).float()
        torch.testing.assert_close(batch.input_to_world[row], poses[i])
        torch.testing.assert_close(batch.target_to_world[row], poses[j])
        fov_rad = np.deg2rad(float(theirs[f"{prefix}_fov_deg"]))
        assert float(batch.fov_y_rad[row]) == pytest.approx(fov_rad, rel=1e-5)
        radius = float(theirs[f"{prefix}_scene_radius"])
        assert float(batch.scene_scale[Representation.SIX_DOF_NORM][row]) == pytest.approx(
            radius, rel=1e-5
        )
        if f"{prefix}_nearplane_quantile" in theirs:
            near = float(theirs[f"{prefix}_nearplane_quantile"])
            scale = float(batch.scene_scale[Representation.SIX_DOF_AGG][row])
            assert scale == pytest.approx(near, rel=1e-5)
        assert torch.equal(batch.input_image[row], scenes[scene_id].image(i))
        assert torch.equal(batch.target_image[row], scenes[scene_id].image(j))
        assert batch.input_depth_z is not None
        assert torch.equal(batch.input_depth_z[row], scenes[scene_id].depth_z(i))
    assert checked
