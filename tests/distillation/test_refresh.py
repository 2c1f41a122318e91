"""Iterative dataset update: views that contradict each other come to show one scene."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from possible_worlds import (
    SIZE,
    PossibleWorlds,
    WorldDepth,
    distance_to_one_world,
    possible_worlds,
    world_views,
)
from sphere_world import ELEVATION_RAD, ring_cameras, sphere_views

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.distillation.checkpoint import FILE_NAME, load_checkpoint
from zeronvs.distillation.config import DistillConfig, RenderStage
from zeronvs.distillation.loop import distill
from zeronvs.distillation.losses import LossWeights
from zeronvs.distillation.noise_levels import constant
from zeronvs.distillation.objective import Objective
from zeronvs.distillation.refresh import RefreshConfig, Refresher
from zeronvs.distillation.supervision import SupervisedViews
from zeronvs.distillation.surround import surround_azimuths_rad
from zeronvs.protocols import Rendering
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig

COUNT = 5
CAMERAS = ring_cameras(surround_azimuths_rad(COUNT), SIZE)
PHOTO = sphere_views(ring_cameras([0.0], SIZE))[0]
CONFIG = RefreshConfig(from_step=4, every=2, guidance_scale=1.0)


class MeanOfWorlds:
    """A scene that looks as a fit to contradicting views does: the mean of two worlds."""

    device = torch.device("cpu")
    opacity = 1.0

    def render(self, camera: Camera, *, background=None) -> Rendering:
        views = world_views(camera)
        assert views.depth_z is not None
        image = 0.7 * views.image[3] + 0.3 * views.image[8]
        opacity = torch.full_like(views.depth_z[0], self.opacity)
        return Rendering(rgb=image, opacity=opacity, depth_z=views.depth_z[0])

    def save(self, path: Path) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def worlds() -> PossibleWorlds:
    return possible_worlds()


def contradicting() -> SupervisedViews:
    """Return views of five worlds, with depth 2 everywhere, half of it known."""
    views = world_views(CAMERAS)
    image = torch.stack([views.image[2 * k, k] for k in range(COUNT)])
    confidence = torch.full((COUNT, SIZE, SIZE), 0.5)
    confidence[..., : SIZE // 2] = 1.0
    depth_z = torch.full((COUNT, SIZE, SIZE), 2.0)
    return SupervisedViews(View(image, CAMERAS, depth_z), torch.ones(COUNT), confidence)


def refresher(worlds: PossibleWorlds, **settings) -> Refresher:
    arguments = {
        "pipe": worlds,
        "config": CONFIG,
        "seed": 3,
        "input_view": PHOTO,
        "scene_scale": 0.7,
        "geometry_estimator": WorldDepth(CAMERAS),
    }
    return Refresher(**(arguments | settings))


def test_views_are_replaced_from_a_step_on_at_even_distances():
    assert [step for step in range(10) if CONFIG.is_due(step)] == [4, 6, 8]
    half = RefreshConfig().compressed(0.5)
    assert (half.from_step, half.every) == (200, 8)
    assert [half.noise_level(step) for step in (0, 200, 400, 600)] == pytest.approx(
        [0.7, 0.7, 0.45, 0.2]
    )
    assert [half.first_weight(step) for step in (0, 150, 300, 600)] == pytest.approx(
        [1.0, 0.6, 0.2, 0.2]
    )


def test_the_views_take_turns_and_the_others_stay(worlds):
    before = contradicting()
    for step, row in ((4, 0), (6, 1), (12, 4), (14, 0)):
        after = refresher(worlds).refreshed(MeanOfWorlds(), before, step)
        changed = (after.views.image - before.views.image).abs().amax((1, 2, 3)) > 0.02
        assert changed.tolist() == [k == row for k in range(COUNT)]
        assert after.replaced_since is not None
        assert after.replaced_since.tolist() == [k == row for k in range(COUNT)]
        assert after.weight is before.weight
        assert torch.equal(after.views.camera.camera_to_world, CAMERAS.camera_to_world)


def test_a_replaced_view_is_one_possible_view_and_near_what_the_scene_shows(worlds):
    """The rendering is a mean of worlds; the model knows that there is no such scene."""
    row = 4
    after = refresher(worlds).refreshed(MeanOfWorlds(), contradicting(), 12)
    rendered = View(MeanOfWorlds().render(CAMERAS[[row]]).rgb, CAMERAS[[row]])
    assert distance_to_one_world(after.views[[row]]) < 0.2 * distance_to_one_world(rendered)


def test_a_view_is_conditioned_on_the_nearest_other_one_as_it_is_now(worlds, monkeypatch):
    given = []
    original = PossibleWorlds.encode

    def encode(self, view, *rest):
        given.append(view)
        return original(self, view, *rest)

    monkeypatch.setattr(PossibleWorlds, "encode", encode)
    before = contradicting()
    for row, nearest in ((0, None), (2, 0), (3, 1), (4, 2)):  # of two as near: the photo's side
        refresher(worlds).refreshed(MeanOfWorlds(), before, 4 + 2 * row)
        expected = PHOTO.image if nearest is None else before.views.image[nearest]
        torch.testing.assert_close(given[-1].image[0], expected)


def test_noise_falls_and_the_number_of_steps_stays(worlds, monkeypatch):
    calls = []
    original = PossibleWorlds.predict

    def predict(self, noisy_latent, timestep, condition):
        calls.append(int(timestep[0]))
        return original(self, noisy_latent, timestep, condition)

    monkeypatch.setattr(PossibleWorlds, "predict", predict)
    for step, highest in ((400, 700), (800, 450), (1200, 200)):
        calls.clear()
        config = RefreshConfig(guidance_scale=1.0)
        refresher(worlds, config=config).refreshed(MeanOfWorlds(), contradicting(), step)
        assert 9 <= len(calls) <= 11
        assert 0.85 * highest <= calls[0] <= highest


def test_new_content_gets_depth_aligned_to_the_scene_and_known_depth_stays(worlds):
    before = contradicting()
    after = refresher(worlds).refreshed(MeanOfWorlds(), before, 4)
    truth = sphere_views(CAMERAS).depth_z
    assert after.views.depth_z is not None
    assert truth is not None
    new = after.views.depth_z[0, :, SIZE // 2 :]
    assert float((new / truth[0, :, SIZE // 2 :]).log().abs().median()) < 0.02
    assert bool((after.views.depth_z[0, :, : SIZE // 2] == 2.0).all())
    assert bool((after.views.depth_z[1:] == 2.0).all())
    thin = MeanOfWorlds()
    thin.opacity = 0.2
    kept = refresher(worlds).refreshed(thin, before, 4)
    assert bool((kept.views.depth_z == 2.0).all())


def tiny_config(**settings) -> DistillConfig:
    """Return a fit of a small field to views and photo."""
    grid = HashGridConfig(levels=6, log2_table_size=13, base_resolution=16, growth=1.5)
    weights = LossWeights(sds=0.0, normal_smoothness=0.0, orientation=0.0, distortion=1.0)
    arguments = {
        "steps": 72,
        "stages": (RenderStage(from_step=0, sds_views=1, sds_size_px=8, reference_size_px=SIZE),),
        "weights": replace(weights, supervised_depth=600.0, free_space=200.0),
        "reference_rays": 128,
        "supervised_rays": 384,
        "field_learning_rate": constant(2e-2),
        "proposal_learning_rate": constant(2e-2),
        "field_config": replace(FieldConfig.small(), grid=grid),
        "proposal_config": ProposalConfig.small(),
        "render_config": replace(RenderConfig.small(), proposal_samples=16, final_samples=16),
    }
    return DistillConfig(**(arguments | settings))


def fitted(worlds, folder: Path, config: DistillConfig, **settings) -> FieldScene:
    truth = sphere_views(CAMERAS).depth_z
    assert truth is not None
    first = contradicting()
    supervised = replace(first, views=first.views.with_depth(truth), confidence=None)
    arguments = {"run_dir": folder, "seed": 1, "device": "cpu", "supervised": supervised}
    arguments |= {"geometry_estimator": WorldDepth(CAMERAS)} | settings
    return distill(worlds, PHOTO, ELEVATION_RAD, 0.7, config, **arguments)


def test_views_that_contradict_each_other_agree_after_some_rounds_with_the_scene(worlds, tmp_path):
    refresh = RefreshConfig(guidance_scale=1.0, every=2).compressed(40 / 1200)
    fitted(worlds, tmp_path, tiny_config(steps=40, refresh=refresh))
    state = load_checkpoint(tmp_path / FILE_NAME).tensors
    assert bool(state["views.replaced"].all())
    targets = View(state["views.image"], CAMERAS)
    assert distance_to_one_world(targets) < 0.5 * distance_to_one_world(contradicting().views)


def test_a_run_that_refreshes_and_is_resumed_ends_with_the_same_weights(worlds, tmp_path):
    config = tiny_config(steps=8, refresh=CONFIG, log_every=1)

    def stop(event):
        if event.stage == "fit the scene" and event.step == 7:
            raise KeyboardInterrupt

    whole = fitted(worlds, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        fitted(worlds, tmp_path / "parts", config, progress=stop)
    parts = fitted(worlds, tmp_path / "parts", config, resume=True)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)


def test_first_samples_lose_their_weight_and_replaced_ones_keep_theirs():
    refresh = RefreshConfig()
    config = tiny_config(refresh=refresh)
    first = replace(contradicting(), confidence=None)
    replaced = replace(first, replaced_since=torch.ones(COUNT, dtype=torch.bool))

    def colour_loss(supervised: SupervisedViews, config: DistillConfig, step: int) -> float:
        scene = FieldScene(config.field_config, config.render_config, config.proposal_config)
        torch.manual_seed(0)
        for weight in scene.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        objective = Objective(
            scene=scene,
            config=config,
            seed=0,
            input_view=PHOTO,
            elevation_rad=ELEVATION_RAD,
            supervised=supervised,
        )
        with torch.no_grad():
            terms = {
                name: float(term) for part in objective.parts(step) for name, term in part.items()
            }
        return terms["supervised"]

    plain = tiny_config()
    for step, factor in ((0, 1.0), (300, 0.6), (600, 0.2), (1000, 0.2)):
        whole = colour_loss(first, plain, step)
        assert colour_loss(first, config, step) == pytest.approx(factor * whole, rel=1e-4)
        assert colour_loss(replaced, config, step) == pytest.approx(whole, rel=1e-4)
