"""Views around a scene from a model that does not warp its input: each switch makes them agree."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from possible_worlds import SIZE, WorldDepth, distance_to_one_world, possible_worlds
from sphere_world import ring_cameras, sphere_views
from tiny_pipelines import FixedGeometry, tiny_released

from zeronvs.cameras.poses import rotation_angle_rad
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.anchors import draw_by_nearness
from zeronvs.distillation.supervision import SupervisedViews
from zeronvs.distillation.surround import (
    SurroundConfig,
    free_orbit,
    sample_surround,
    surround_azimuths_rad,
)

INDEPENDENT = SurroundConfig(
    count=5, max_depth=10.0, num_inference_steps=8, guidance_scale=1.0, new_trust=0.5
)


@pytest.fixture(scope="module")
def worlds():
    return possible_worlds()


def sampled(worlds, config: SurroundConfig, folder: Path, seed: int = 0) -> SupervisedViews:
    view = sphere_views(ring_cameras([0.0], SIZE))[0]
    cameras = free_orbit(view, torch.tensor(surround_azimuths_rad(config.count)), config)
    return sample_surround(
        worlds,
        view,
        1.0,
        config,
        geometry_estimator=WorldDepth(cameras),
        seed=seed,
        folder=folder,
    )


@pytest.fixture
def calls(monkeypatch) -> list[dict[str, Any]]:
    """Return the seeds and settings of each sample that is drawn from here on."""
    kept, original = [], ZeroNVSPipeline.sample

    def sample(self, condition, cameras, seeds, **settings):
        kept.append({"seeds": seeds, **settings})
        return original(self, condition, cameras, seeds, **settings)

    monkeypatch.setattr(ZeroNVSPipeline, "sample", sample)
    return kept


def disagreement(worlds, config: SurroundConfig, folder: Path, seeds: int = 3) -> float:
    """Return how far views are from those of one possible scene, the mean of some runs."""
    runs = [sampled(worlds, config, folder / str(k), seed=k).views for k in range(seeds)]
    return sum(map(distance_to_one_world, runs)) / seeds


@pytest.fixture(scope="module")
def independent(worlds, tmp_path_factory) -> float:
    return disagreement(worlds, INDEPENDENT, tmp_path_factory.mktemp("independent"))


def test_views_sampled_from_the_photo_alone_show_different_scenes(independent):
    assert independent > 0.05


@pytest.mark.parametrize(
    "switch",
    [{"nearness_rad": 0.5}, {"start_level": 0.8}, {"nearness_rad": 0.5, "start_level": 0.8}],
    ids=["stochastic conditioning", "warped start", "both"],
)
def test_views_that_know_of_each_other_show_one_scene(worlds, independent, tmp_path, switch):
    together = disagreement(worlds, replace(INDEPENDENT, **switch), tmp_path)
    assert together < 0.6 * independent


def test_a_view_starts_from_the_known_surfaces_and_the_latents_that_they_cover(
    worlds, calls, tmp_path
):
    config = replace(INDEPENDENT, count=7, start_level=0.8, known_share=0.4)
    result = sampled(worlds, config, tmp_path)
    start = calls[0]["start"]
    assert (start.noise_level, start.known_share) == (0.8, 0.4)
    known = result.confidence[0] == 1.0  # pixels of the first view, at 45 degrees
    covered = known.unflatten(0, (SIZE // 2, 2)).unflatten(2, (SIZE // 2, 2)).all(3).all(1)
    assert 0.2 < float(covered.float().mean()) < float(known.float().mean())
    assert torch.equal(start.known[0, 0] > 0, covered)
    truth = sphere_views(result.views.camera[[0]]).image
    error = (worlds.to_image(start.latent) - truth).abs().mean(1)[0]
    assert float(error[known].median()) < 0.02
    sampled(worlds, replace(config, start_level=None), tmp_path / "noise")
    assert [call["start"] for call in calls[7:]] == [None] * 7


def test_each_step_is_conditioned_on_the_photo_or_a_finished_view(worlds, calls, tmp_path):
    sampled(worlds, replace(INDEPENDENT, nearness_rad=0.5, num_inference_steps=40), tmp_path)
    drawn = [set(call["chosen"].flatten().tolist()) for call in calls]
    assert drawn[0] == {0}  # the photo alone is known
    assert drawn[1] == {0, 1}
    assert all(max(views) <= k for k, views in enumerate(drawn))
    near = calls[2]["chosen"].flatten().bincount(minlength=3)  # at 120 degrees: photo, 60, -60
    assert int(near[1]) > int(near[0]) > int(near[2])
    calls.clear()
    sampled(worlds, INDEPENDENT, tmp_path / "alone")
    assert [call["chosen"] for call in calls] == [None] * 5


def test_the_first_view_has_depth_that_fits_the_known_surfaces(worlds, tmp_path):
    result = sampled(worlds, replace(INDEPENDENT, start_level=0.8), tmp_path)
    truth = sphere_views(result.views.camera).depth_z
    assert result.views.depth_z is not None
    assert truth is not None
    error = (result.views.depth_z / truth)[0].log().abs()
    assert float(error.median()) < 0.05
    assert result.confidence is not None
    assert {0.5, 1.0} == set(result.confidence.unique().tolist())


def test_without_depth_views_are_sampled_all_the_same(tmp_path):
    view = sphere_views(ring_cameras([0.0], SIZE))[0].with_depth(None)
    config = SurroundConfig(count=2, num_inference_steps=2, nearness_rad=0.5, start_level=0.8)
    result = sample_surround(
        tiny_released(),
        view,
        1.0,
        config,
        geometry_estimator=FixedGeometry(),
        seed=1,
        folder=tmp_path,
    )
    assert result.views.depth_z is None
    assert result.views.image.isfinite().all()
    assert float(result.confidence.amax()) == config.new_trust


def test_trust_falls_with_the_angle_to_the_photo_down_to_the_least(worlds, tmp_path):
    config = replace(INDEPENDENT, num_inference_steps=1, least_trust=0.3)
    result = sampled(worlds, config, tmp_path)
    photo = ring_cameras([0.0], SIZE)
    angle_rad = rotation_angle_rad(
        result.views.camera.camera_to_world, photo.camera_to_world.expand(5, 4, 4)
    )
    assert result.weight is not None
    assert result.weight.tolist() == pytest.approx([0.75, 0.75, 0.3, 0.3, 0.3])
    order = angle_rad.argsort()
    assert bool((result.weight[order].diff() <= 1e-6).all())
    all_alike = sampled(worlds, replace(config, least_trust=1.0), tmp_path / "alike")
    assert all_alike.weight is not None
    assert all_alike.weight.tolist() == [1.0] * 5


def test_views_share_their_noise_where_that_is_wanted(calls, tmp_path):
    view = sphere_views(ring_cameras([0.0], 16))[0]
    for shared in (False, True):
        config = replace(INDEPENDENT, count=3, num_inference_steps=1, shared_noise=shared)
        folder = tmp_path / str(shared)
        sample_surround(tiny_released(), view, 1.0, config, seed=5, folder=folder)
    seeds = [call["seeds"] for call in calls]
    assert seeds == [[5000], [5001], [5002], [5000], [5000], [5000]]


def test_near_views_are_drawn_more_often_by_the_ratio_of_the_exponentials():
    angle_rad = torch.tensor([0.2, 0.7, math.pi])
    generator = torch.Generator().manual_seed(0)
    drawn = draw_by_nearness(angle_rad, 0.5, 20_000, generator).bincount(minlength=3) / 20_000
    assert float(drawn[1] / drawn[0]) == pytest.approx(math.exp(-1.0), abs=0.02)
    assert float(drawn[2]) < 0.01
