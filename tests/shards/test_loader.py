"""The loader of training pairs: the same pairs whatever happens, each where it belongs."""

import itertools
import json
from dataclasses import replace

import made_shards as made
import numpy as np
import pytest
import torch

from zeronvs._core.errors import HealthError, InputError
from zeronvs.cameras.embedding import Representation
from zeronvs.shards.index import open_index
from zeronvs.shards.loader import PUBLISHED_LOADER, PairLoader, PairLoaderConfig
from zeronvs.shards.overlap import predict_overlap, source_table
from zeronvs.shards.sampler import PairSampler, PairSamplingConfig
from zeronvs.shards.writer import ShardDamage, ShardScene, read_shard

CONFIG = PairLoaderConfig(shuffle_buffer=6, size_px=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six scenes of four frames in three shards."""
    folder = tmp_path_factory.mktemp("shards")
    made.simple_shards(folder, 6)
    return folder


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    made.write_shards(folder, [made.made_scene("hall/long", 9), made.made_scene("hall/short", 2)])
    return folder


def loader(*folders, config=CONFIG, batch=4, **options):
    return PairLoader([(folder, 1.0) for folder in folders], config, batch=batch, **options)


def batches(loader, count):
    return list(itertools.islice(loader, count))


def keys(found):
    return [batch.keys for batch in found]


def assert_same(ours, theirs):
    assert keys(ours) == keys(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for name in ("input_image", "target_image", "input_to_world", "target_to_world"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert all(torch.equal(one.scene_scale[k], v) for k, v in other.scene_scale.items())


def test_a_batch_agrees_with_its_shard(folder):
    config = replace(CONFIG, size_px=256, input_depth=True)
    scenes = {s.scene_id: s for path in sorted(folder.glob("*.tar")) for s in read_shard(path)}
    (batch,) = batches(loader(folder, config=config), 1)
    assert len(batch) == 4
    assert batch.input_image.shape == (4, 3, 256, 256)
    assert batch.input_image.dtype == torch.uint8
    for row, key in enumerate(batch.keys):
        scene_id, i, j = key.split(" ")
        scene, i, j = scenes[scene_id], int(i) - 1, int(j) - 1
        assert i != j
        assert torch.equal(batch.input_image[row], scene.image(i))
        assert torch.equal(batch.target_image[row], scene.image(j))
        assert torch.equal(batch.input_to_world[row], scene.camera(i).camera_to_world)
        assert torch.equal(batch.target_to_world[row], scene.camera(j).camera_to_world)
        torch.testing.assert_close(batch.fov_y_rad[row], scene.camera(i).fov_y_rad)
        assert torch.equal(batch.input_depth_z[row], scene.depth_z(i))
        own = scene.frames[i].metadata["zeronvs"]
        scale = float(batch.scene_scale[Representation.SIX_DOF_VIEWER][row])
        assert scale == pytest.approx(own["viewer_scale"], rel=1e-6)


def test_small_pictures_are_means_of_large_ones(folder):
    (large,) = batches(loader(folder, config=replace(CONFIG, size_px=256)), 1)
    (small,) = batches(loader(folder), 1)
    assert small.keys == large.keys
    mean = torch.nn.functional.avg_pool2d(large.input_image.float(), 8)
    assert (mean - small.input_image.float()).abs().max() <= 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 5])
def test_a_run_gone_on_with_sees_the_pairs_of_an_uninterrupted_one(
    workers, stop, folder, other_folder
):
    straight = batches(loader(folder, other_folder), 9)
    first = loader(folder, other_folder, workers=workers)
    assert_same(batches(first, stop), straight[:stop])
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(folder, other_folder, workers=workers)
    second.load_state_dict(state)
    assert_same(batches(second, 9 - stop), straight[stop:])


def test_iterating_again_continues(folder):
    straight = keys(batches(loader(folder), 6))
    ours = loader(folder)
    assert keys(batches(ours, 2)) + keys(batches(ours, 4)) == straight


def test_the_state_of_one_rank_serves_all(folder):
    straight = [batches(loader(folder, rank=rank, world_size=2), 5) for rank in range(2)]
    first = loader(folder, rank=0, world_size=2)
    batches(first, 3)
    second = loader(folder, rank=1, world_size=2)
    second.load_state_dict(first.state_dict())
    assert keys(batches(second, 2)) == keys(straight[1][3:])


def test_the_state_of_another_run_is_refused(folder, other_folder):
    state = loader(folder).state_dict()
    for changed in (
        loader(folder, other_folder),
        loader(folder, batch=5),
        loader(folder, rank=0, world_size=2),
        loader(folder, config=replace(CONFIG, seed=7)),
    ):
        with pytest.raises(InputError, match="another run"):
            changed.load_state_dict(state)
    with pytest.raises(InputError, match="no state"):
        loader(folder).load_state_dict({})


def test_seeds_decide_and_nothing_else_does(folder):
    torch.manual_seed(0)
    one = keys(batches(loader(folder), 4))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with_workers = loader(folder, workers=1)
    assert keys(batches(with_workers, 4)) == one
    assert torch.equal(torch.get_rng_state(), before)
    assert keys(batches(loader(folder, config=replace(CONFIG, seed=1)), 4)) != one


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, resample_shards=True)])
@pytest.mark.parametrize("workers", [0, 2])
def test_no_scene_is_seen_by_two_ranks(config, workers, folder):
    seen = [
        {
            key.split(" ")[0]
            for batch in batches(
                loader(folder, config=config, rank=rank, world_size=2, workers=workers), 8
            )
            for key in batch.keys
        }
        for rank in range(2)
    ]
    assert seen[0]
    assert seen[1]
    assert not seen[0] & seen[1]
    if not config.resample_shards:
        assert len(seen[0] | seen[1]) == 6


def test_with_fewer_scenes_than_ranks_no_pair_is_seen_by_two(tmp_path):
    made.write_shards(tmp_path, [made.made_scene("room/one", 5)])
    seen = [
        {key for batch in batches(loader(tmp_path, rank=r, world_size=3), 10) for key in batch.keys}
        for r in range(3)
    ]
    assert all(seen)
    for one, other in itertools.combinations(seen, 2):
        assert not one & other


def test_every_scene_comes_once_an_epoch(folder):
    config = replace(CONFIG, shuffle_buffer=1)
    (batch,) = batches(loader(folder, config=config, batch=6), 1)
    assert len({key.split(" ")[0] for key in batch.keys}) == 6


def test_the_mixture_has_the_shares_of_its_weights(folder, other_folder):
    tables = [
        (source_table([open_index(path) for path in sorted(f.glob("*.tar"))]), weight)
        for f, weight in ((folder, 3.0), (other_folder, 1.0))
    ]
    sampler = PairSampler(tables, PairSamplingConfig(shuffle_buffer=20), batch=50)
    drawn = [place.source for _ in range(80) for place in sampler.next_batch()]
    assert np.mean(drawn) == pytest.approx(0.25, abs=0.03)


def test_pairs_are_uniform_and_as_many_as_published(tmp_path):
    (frame,) = made.made_scene("room/a", 1).frames
    scenes = [
        ShardScene(f"room/{k}", tuple(replace(frame, name=f"frame{i:06d}") for i in range(k)))
        for k in (80, 39)
    ]
    (path,) = made.write_shards(tmp_path, scenes)
    table = source_table([open_index(path)])
    published = PairSampler([(table, 1.0)], PUBLISHED_LOADER, batch=100)
    places = [place for _ in range(60) for place in published.next_batch()]
    assert {table.frames[place.scene] for place in places} == {80}  # int(.025 * 39) is 0
    assert {place.draw for place in places} == {0, 1}  # int(.025 * 80) is 2
    inputs = np.bincount([place.input for place in places], minlength=80)
    targets = np.bincount([place.target for place in places], minlength=80)
    for counts in (inputs, targets):
        assert counts.min() > 35
        assert counts.max() < 130
    assert all(place.input != place.target for place in places)
    better = PairSampler([(table, 1.0)], PairSamplingConfig(), batch=100)
    short = [table.frames[p.scene] == 39 for _ in range(20) for p in better.next_batch()]
    assert np.mean(short) == pytest.approx(1 / 3, abs=0.05)


def test_pairs_by_overlap_are_in_the_given_range(tmp_path):
    (path,) = made.write_shards(tmp_path, [made.made_scene("room/orbit", 40)])
    table = source_table([open_index(path)])

    def overlaps(overlap):
        config = PairSamplingConfig(overlap=overlap, overlap_tries=64)
        places = PairSampler([(table, 1.0)], config, batch=60).next_batch()
        inputs, targets = np.array([(place.input, place.target) for place in places]).T
        return predict_overlap(table, 0, inputs, targets)

    found = overlaps((0.5, 0.8))
    assert ((found >= 0.5) & (found <= 0.8)).mean() > 0.95
    assert overlaps(None).min() < 0.1
    frames = np.arange(8)
    np.testing.assert_array_equal(predict_overlap(table, 0, frames, frames), 1.0)
    away = predict_overlap(table, 0, np.zeros(4, np.int64), np.array([1, 3, 6, 10]))
    assert (np.diff(away) < 0).all()


def test_a_truncated_shard_is_counted_and_the_rest_is_read(folder, tmp_path):
    for path in sorted(folder.glob("*.tar")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = tmp_path / "made-000001.tar"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2 + 2000])
    (tmp_path / "noise.tar").write_bytes(b"noise" * 500)
    told: list[ShardDamage] = []
    ours = loader(tmp_path, on_damage=told.append)
    assert {damage.shard.name for damage in told} == {"made-000001.tar", "noise.tar"}
    assert ours.damaged == len(told) == 2
    seen = {key.split(" ")[0] for batch in batches(ours, 10) for key in batch.keys}
    assert len(seen) == 5
    assert "room/scene003" not in seen


def break_pictures(path, frames=None):
    """Put zeros in the middle of pictures; what tells their size stays."""
    index, content = open_index(path), bytearray(path.read_bytes())
    for start, size in index.image_span[frames]:
        content[start + size // 3 : start + size - 20] = bytes(size - 20 - size // 3)
    path.write_bytes(content)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_is_replaced_by_another_pair(workers, tmp_path):
    scenes = [made.made_scene(f"room/scene{k}", image_format="png") for k in range(4)]
    paths = made.write_shards(tmp_path, scenes)
    break_pictures(paths[0], [1])
    told: list[ShardDamage] = []
    ours = loader(tmp_path, on_damage=told.append, workers=workers)
    found = batches(ours, 12)
    assert ours.damaged == len(told) > 0
    assert {damage.where for damage in told} == {"room/scene0/frame000002"}
    seen = {tuple(key.split(" ")) for batch in found for key in batch.keys}
    assert not any(scene == "room/scene0" and "2" in frames for scene, *frames in seen)
    assert keys(batches(loader(tmp_path), 12)) == keys(found)


def test_a_source_without_a_readable_pair_is_an_error(tmp_path):
    (path,) = made.write_shards(tmp_path, [made.made_scene("room/a", image_format="png")])
    break_pictures(path, slice(None))
    with pytest.raises(HealthError, match="check the shards"):
        batches(loader(tmp_path), 1)


def test_scales_are_returned_for_the_given_representations(folder):
    every = (Representation.SIX_DOF_AGG, Representation.SIX_DOF_VIEWER)
    without_depth = {
        Representation.THREE_DOF,
        Representation.SIX_DOF,
        Representation.SIX_DOF_NORM,
    }
    (batch,) = batches(loader(folder, config=replace(CONFIG, representations=every)), 1)
    assert set(batch.scene_scale) == {*without_depth, *every}
    (batch,) = batches(loader(folder, config=replace(CONFIG, representations=())), 1)
    assert set(batch.scene_scale) == without_depth
    assert set(batch.to("cpu").scene_scale) == set(batch.scene_scale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overlap": (0.9, 0.1)}, "overlap"),
        ({"pairs_per_frame": -1.0}, "pairs_per_frame"),
        ({"least_pairs_per_scene": 0}, "too few frames"),
        ({"representations": (Representation.SIX_DOF_METRIC,)}, "metric"),
    ],
)
def test_settings_out_of_range_are_refused(change, message, folder):
    with pytest.raises(InputError, match=message):
        loader(folder, config=replace(CONFIG, **change))


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no shards"):
        loader(tmp_path)
