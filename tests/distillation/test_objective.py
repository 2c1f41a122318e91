"""The objective of a step: the conditions of score distillation, and where its gradient goes.

The denoiser here predicts a constant that names the view it was conditioned on, so that an anchor
or a gate that is not connected changes the gradient.
"""

import math
from dataclasses import replace

import pytest
import torch
from sphere_world import ELEVATION_RAD, ring_cameras, sphere_views
from tiny_pipelines import tiny_released

from zeronvs._core.random import seeded_generator
from zeronvs.cameras.view import View
from zeronvs.diffusion.condition import CameraCondition, Condition
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.anchors import AnchorConfig, GateDepth, nearest_view
from zeronvs.distillation.config import DistillConfig, RenderStage
from zeronvs.distillation.losses import LossWeights, normal_smoothness_loss
from zeronvs.distillation.objective import KnownViews, Objective, latents_of_views
from zeronvs.distillation.supervision import SupervisedViews
from zeronvs.distillation.viewpoints import ViewpointConfig
from zeronvs.scene.field import HashGridField
from zeronvs.scene.field_scene import FieldRendering, FieldScene

SIZE, VIEWS = 16, 8


class MarkedPipe(ZeroNVSPipeline):
    """A model that predicts as noise the scene scale of the view it is conditioned on."""

    def to_latent(self, image, generator=None):
        return torch.nn.functional.interpolate(image, (8, 8), mode="area")

    def prepare(self, condition, cameras, warped=None):
        self.prepared = (condition.scene_scale, cameras.camera_to_world)
        concat = torch.zeros(len(condition), 1, 8, 8)
        return CameraCondition(condition.scene_scale[:, None, None], concat)

    def predict_noise(self, noisy_latent, timestep, camera_condition, guidance_scale):
        return camera_condition.tokens[..., None].expand_as(noisy_latent).clone()


class FlatScene(FieldScene):
    """A scene whose renders are leaves of the graph: the gradient that reaches them is read."""

    depth_of_all = 1.0
    opacity_of_all = 1.0

    def render(self, camera, **settings) -> FieldRendering:
        size = (len(camera), *camera.image_size_px)
        self.rgb = torch.full((size[0], 3, *size[1:]), 0.5, requires_grad=True)
        zero, depth_z = torch.zeros(()), torch.full(size, self.depth_of_all)
        return FieldRendering(
            rgb=self.rgb,
            opacity=torch.full(size, self.opacity_of_all),
            depth_z=depth_z,
            accumulated_distance=self.opacity_of_all * depth_z,
            normal=None,
            interlevel_loss=zero,
            distortion_loss=zero,
            orientation_loss=zero,
        )


def sds_gradient_of_pixels(
    *,
    probability: float = 1.0,
    depth_z: float = 5.0,
    opacity: float = 1.0,
    gate_depth: GateDepth = "accumulated",
    weight: float = 0.1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the pixel gradient of one step, the markers used, and the nearest known view."""
    cameras = ring_cameras([0.0, 2 * math.pi / 3, 4 * math.pi / 3], SIZE)
    condition = Condition(
        torch.zeros(3, 12),
        torch.zeros(3, 4, 8, 8),
        View(torch.zeros(3, 3, SIZE, SIZE), cameras),
        torch.tensor([1.0, 2.0, 3.0]),  # the photo, two anchors
    )
    pipe = MarkedPipe(**tiny_released().components)
    scene = FlatScene.small()
    scene.depth_of_all, scene.opacity_of_all = depth_z, opacity
    stage = RenderStage(from_step=0, sds_views=VIEWS, sds_size_px=SIZE, reference_size_px=8)
    off = {"normal_smoothness": 0.0, "orientation": 0.0, "interlevel": 0.0, "opaque": 0.0}
    objective = Objective(
        scene=scene,
        config=DistillConfig(
            stages=(stage,),
            weights=LossWeights(rgb=0.0, sds=weight, distortion=0.0, **off),
            anchors=AnchorConfig(probability=probability, gate_depth=gate_depth),
            viewpoints=ViewpointConfig(progressive_until_step=0),
        ),
        seed=3,
        input_view=sphere_views(ring_cameras([0.0], SIZE))[0],
        elevation_rad=ELEVATION_RAD,
        pipe=pipe,
        known=KnownViews(condition, cameras.camera_to_world),
    )
    sum(sum(terms.values()) for terms in objective.parts(0)).backward()
    markers, poses = pipe.prepared
    assert scene.rgb.grad is not None
    return scene.rgb.grad, markers, nearest_view(poses, cameras.camera_to_world)


def test_views_are_conditioned_on_their_nearest_anchor_with_the_given_probability():
    _, markers, nearest = sds_gradient_of_pixels(probability=1.0)
    assert set(nearest.tolist()) == {0, 1, 2}
    assert markers.tolist() == (nearest + 1.0).tolist()
    _, markers, _ = sds_gradient_of_pixels(probability=0.0)
    assert markers.tolist() == [1.0] * VIEWS


def test_the_prediction_of_the_chosen_condition_reaches_the_pixels():
    by_anchor, _, nearest = sds_gradient_of_pixels(probability=1.0)
    by_photo, _, _ = sds_gradient_of_pixels(probability=0.0)
    difference = by_anchor - by_photo  # the noise is the same: only the predictions differ
    assert torch.equal(difference[nearest == 0], torch.zeros_like(difference[nearest == 0]))
    first, second = difference[nearest == 1], difference[nearest == 2]
    assert bool((first > 0).all())
    assert bool((second > 0).all())


def test_near_pixels_of_views_close_to_an_anchor_get_no_gradient():
    near, _, nearest = sds_gradient_of_pixels(depth_z=0.5)
    assert bool((near[nearest != 0] == 0).all())
    assert bool((near[nearest == 0] != 0).all())
    far, _, nearest = sds_gradient_of_pixels(depth_z=1.5)
    assert bool((far[nearest != 0] != 0).all())


def test_the_published_gate_is_shut_for_transparent_pixels_and_that_of_surfaces_open():
    for gate_depth, is_open in (("accumulated", False), ("surface", True)):
        gradient, _, nearest = sds_gradient_of_pixels(
            depth_z=5.0, opacity=0.15, gate_depth=gate_depth
        )
        assert bool((gradient[nearest == 0] != 0).all())
        assert bool((gradient[nearest != 0] != 0).any()) is is_open


def test_views_encoded_one_at_a_time_have_the_gradients_of_a_batch():
    pipe, image = tiny_released(), torch.rand(3, 3, SIZE, SIZE, requires_grad=True)
    encoded = []
    hook = pipe.vae.encoder.register_forward_hook(lambda _, images, output: encoded.append(images))
    latent = latents_of_views(pipe, image, seeded_generator(5))
    (gradient,) = torch.autograd.grad(latent.square().sum(), image)
    assert [len(images[0]) for images in encoded] == [1] * 6  # each again in the backward pass
    hook.remove()
    seeds = torch.randint(2**62, (3,), generator=seeded_generator(5)).tolist()
    batch = pipe.to_latent(image, [seeded_generator(seed) for seed in seeds])
    (expected,) = torch.autograd.grad(batch.square().sum(), image)
    torch.testing.assert_close(latent, batch, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)
    assert not torch.equal(latent[0], latents_of_views(pipe, image, seeded_generator(6))[0])


def test_the_gradient_grows_with_its_weight():
    once, _, _ = sds_gradient_of_pixels(weight=0.1)
    twice, _, _ = sds_gradient_of_pixels(weight=0.2)
    torch.testing.assert_close(twice, 2 * once)


@pytest.fixture
def fitted(tiny_config: DistillConfig):
    """Return a function from loss weights to the terms of step 0 of a small objective."""

    def terms(**weights: float) -> dict[str, float]:
        off = dict.fromkeys(vars(LossWeights()), 0.0)
        config = replace(
            tiny_config,
            weights=LossWeights(**(off | weights)),
            reference_rays=64,
            supervised_rays=64,
        )
        views = sphere_views(ring_cameras([1.0, 2.0], 12))
        objective = Objective(
            scene=FieldScene(config.field_config, config.render_config, config.proposal_config),
            config=config,
            seed=0,
            input_view=sphere_views(ring_cameras([0.0], 12))[0],
            elevation_rad=ELEVATION_RAD,
            supervised=SupervisedViews(views),
        )
        torch.manual_seed(0)
        return {
            name: float(value.detach())
            for part in objective.parts(0)
            for name, value in part.items()
        }

    return terms


def test_each_term_is_on_only_by_its_weight(fitted):
    assert fitted() == {}
    assert set(fitted(rgb=1.0)) == {"rgb"}
    assert set(fitted(supervised_rgb=1.0)) == {"supervised"}
    assert set(fitted(rgb=1.0, supervised_depth=1.0)) == {"rgb", "rgb depth"}
    assert set(fitted(rgb=1.0, free_space=1.0)) == {"rgb", "rgb free space"}
    assert set(fitted(rgb=1.0, interlevel=1.0)) == {"rgb", "rgb interlevel"}
    assert set(fitted(rgb=1.0, distortion=1.0)) == {"rgb", "rgb distortion"}
    assert set(fitted(rgb=1.0, opaque=1.0)) == {"rgb", "rgb opaque"}
    everything = {"supervised", "supervised free space", "clearance"}
    assert set(fitted(supervised_rgb=1.0, free_space=1.0)) == everything


@pytest.mark.parametrize(
    "name", ["rgb", "supervised_rgb", "supervised_depth", "free_space", "interlevel", "distortion"]
)
def test_each_term_is_proportional_to_its_weight(fitted, name: str):
    base = {"rgb": 1.0, "supervised_rgb": 1.0}
    once, thrice = fitted(**(base | {name: 1.0})), fitted(**(base | {name: 3.0}))
    changed = {term for term in thrice if not math.isclose(once[term], thrice[term], rel_tol=1e-9)}
    expected = {
        "rgb": {"rgb"},
        "supervised_rgb": {"supervised"},
        "supervised_depth": {"rgb depth", "supervised depth"},
        "free_space": {"rgb free space", "supervised free space", "clearance"},
        "interlevel": {"rgb interlevel", "supervised interlevel"},
        "distortion": {"rgb distortion", "supervised distortion"},
    }[name]
    assert changed == expected
    for term in changed:
        assert thrice[term] == pytest.approx(3 * once[term], rel=1e-5)


class RecordingScene(FieldScene):
    """A scene that remembers the pose, the image size and the normals of whole renderings."""

    def render(self, camera, **settings) -> FieldRendering:
        self.camera = camera
        self.rendering = super().render(camera, **settings)
        return self.rendering


def of_the_photo(config: DistillConfig, seed: int = 0, **weights: float) -> Objective:
    """Return an objective that renders the photo alone."""
    off = dict.fromkeys(vars(LossWeights()), 0.0)
    config = replace(config, weights=LossWeights(**(off | {"rgb": 1.0} | weights)))
    return Objective(
        scene=RecordingScene(config.field_config, config.render_config, config.proposal_config),
        config=config,
        seed=seed,
        input_view=sphere_views(ring_cameras([0.0], 12))[0],
        elevation_rad=ELEVATION_RAD,
    )


def photo_pose(objective: Objective, step: int) -> torch.Tensor:
    list(objective.parts(step))
    return objective.scene.camera.camera_to_world[0]


def test_the_camera_of_the_photo_is_displaced_once_per_stage(tiny_config: DistillConfig):
    objective = of_the_photo(tiny_config)  # the second stage begins at step 2
    poses = [photo_pose(objective, step) for step in range(4)]
    assert torch.equal(poses[0], poses[1])
    assert torch.equal(poses[2], poses[3])
    given = objective.input_view.camera.camera_to_world
    for pose in (poses[0], poses[2]):
        assert 0 < float((pose - given).norm()) < 0.02
    assert not torch.equal(poses[0], poses[2])
    assert not torch.equal(poses[0], photo_pose(of_the_photo(tiny_config, seed=1), 0))
    still = of_the_photo(replace(tiny_config, reference_ray_noise=0.0))
    torch.testing.assert_close(photo_pose(still, 0), given)


def test_random_rays_of_the_photo_are_displaced_as_the_whole_photo_is(tiny_config: DistillConfig):
    objective = of_the_photo(replace(tiny_config, reference_rays=2, reference_ray_noise=0.5))
    scene, seen = objective.scene, []
    render_rays = scene.render_rays

    def record(origins, *arguments, **settings):
        seen.append(origins)
        return render_rays(origins, *arguments, **settings)

    scene.render_rays = record
    for step in range(2):
        list(objective.parts(step))
    whole = photo_pose(of_the_photo(replace(tiny_config, reference_ray_noise=0.5)), 0)
    for origins in seen:
        torch.testing.assert_close(origins, whole[:3, 3].expand(2, 3))


def test_the_smoothness_of_a_step_is_that_of_its_normals_and_opacity(tiny_config: DistillConfig):
    objective = of_the_photo(tiny_config, normal_smoothness=8.0)
    (terms,) = objective.parts(0)
    rendering = objective.scene.rendering
    expected = 8.0 * normal_smoothness_loss(rendering.normal, rendering.opacity)
    assert terms["photo smoothness"] == expected > 0


class CountedField(HashGridField):
    """A field that remembers how many single points it was asked for."""

    def density(self, points):
        if points.ndim == 2:
            self.counts = [*getattr(self, "counts", []), len(points)]
        return super().density(points)


def test_free_space_before_new_cameras_is_measured_on_a_quarter_of_the_rays(
    tiny_config: DistillConfig,
):
    off = dict.fromkeys(vars(LossWeights()), 0.0)
    config = replace(
        tiny_config,
        weights=LossWeights(**(off | {"supervised_rgb": 1.0, "free_space": 1.0})),
        supervised_rays=64,
    )
    scene = FieldScene(config.field_config, config.render_config, config.proposal_config)
    scene.field = CountedField(config.field_config)
    objective = Objective(
        scene=scene,
        config=config,
        seed=0,
        input_view=sphere_views(ring_cameras([0.0], 12))[0],
        elevation_rad=ELEVATION_RAD,
        supervised=SupervisedViews(sphere_views(ring_cameras([1.0, 2.0], 12))),
    )
    list(objective.parts(0))
    assert scene.field.counts == [16]
