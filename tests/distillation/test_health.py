"""What goes wrong is found, named and answered with a remedy; what is well is left alone."""

import math
from dataclasses import replace

import pytest
import torch
from sphere_world import ring_cameras, sphere_views

from zeronvs._core.errors import HealthError
from zeronvs._core.random import seeded_generator
from zeronvs.distillation import health
from zeronvs.scene.field import RadianceField
from zeronvs.scene.field_scene import FieldScene


def names(findings):
    return [(finding.check, finding.severity) for finding in findings]


def scene_of_density(tiny_config, bias):
    field_config = replace(tiny_config.field_config, blob_strength=0.0, density_bias=bias)
    return FieldScene(field_config, tiny_config.render_config, generator=seeded_generator(0))


def test_a_step_of_numbers_passes_and_the_third_of_others_is_an_error_that_names_its_first_term():
    assert health.check_step({"rgb": 1.0, "sds": 0.0}, 7, 5) == []
    broken = {"rgb": 1.0, "sds": math.nan, "field gradient": math.inf}
    for skipped, severity in ((0, "warn"), (1, "warn"), (2, "error")):
        findings = health.check_step(broken, 7, skipped)
        assert names(findings) == [("finite step", severity)]
    with pytest.raises(
        HealthError, match=r"^sds became nan at step 7, after 2 skipped.*resume the run"
    ):
        health.raise_errors(findings)


def test_weights_that_are_not_finite_are_found_by_name():
    module = torch.nn.Linear(2, 2)
    assert health.check_weights(module, 3) == []
    with torch.no_grad():
        module.bias[0] = math.inf
    assert "bias" in health.check_weights(module, 3)[0].message


def test_images_of_something_pass():
    images = sphere_views(ring_cameras([0.0, 1.0, 2.0], size_px=8)).image
    assert health.check_images(images, "the video") == []


@pytest.mark.parametrize(
    ("value", "kind"), [(0.0, "black"), (0.5, "of one colour"), (math.nan, "NaN")]
)
def test_one_bad_image_warns_and_many_are_an_error(value, kind):
    images = sphere_views(ring_cameras([0.0, 1.0, 2.0, 3.0], size_px=8)).image
    images[0] = value
    severity = "error" if kind == "NaN" else "warn"
    assert names(health.check_images(images, "the video")) == [(f"images: {kind}", severity)]
    images[:3] = value
    findings = health.check_images(images, "the video")
    assert names(findings) == [(f"images: {kind}", "error")]
    with pytest.raises(HealthError, match="3 of 4 images of the video"):
        health.raise_errors(findings)


def test_a_model_that_ignores_the_camera_is_detected(pipe, input_view):
    condition = pipe.encode(input_view.batched(), 0.7)
    assert health.check_camera_conditioning(pipe, condition, ring_cameras([0.5, -0.5])) == []
    same = ring_cameras([0.5, 0.5])
    assert names(health.check_camera_conditioning(pipe, condition, same)) == [
        ("camera conditioning", "error")
    ]


def test_a_zero_gradient_is_found():
    assert health.check_sds_gradient(1e-9, 1) == health.check_sds_gradient(math.nan, 1) == []
    findings = health.check_sds_gradient(0.0, 1)
    assert names(findings) == [("sds gradient", "error")]


def test_an_empty_scene_is_an_error(tiny_config):
    scene = scene_of_density(tiny_config, -30.0)
    findings = health.check_scene(scene, ring_cameras([0.0, 2.0]))
    assert names(findings) == [("empty scene", "error")]


def test_cameras_inside_dense_content_are_found_and_cameras_in_the_open_are_not(tiny_config):
    cameras = ring_cameras([0.0, 2.0])
    dense = scene_of_density(tiny_config, 10.0)
    assert health.cameras_inside(scene_of_density(tiny_config, -10.0), cameras) == 0.0
    assert health.cameras_inside(dense, cameras) == 1.0
    assert ("cameras inside", "warn") in names(health.check_scene(dense, cameras))


def scene_with_even_fog(tiny_config, light_left: float) -> FieldScene:
    """Return a scene of one density, of which `light_left` passes to the near plane."""
    density = -math.log(light_left) / tiny_config.render_config.near
    scene = scene_of_density(tiny_config, math.log(math.expm1(density)))
    torch.nn.init.zeros_(scene.field.density_head.weights[-1])
    return scene


@pytest.mark.parametrize(("light_left", "inside"), [(0.53, 0.0), (0.47, 1.0)])
def test_a_camera_is_inside_where_less_than_half_of_the_light_reaches_its_near_plane(
    tiny_config, light_left, inside
):
    scene = scene_with_even_fog(tiny_config, light_left)
    assert health.cameras_inside(scene, ring_cameras([0.0, 2.0])) == inside


class FogBeside(torch.nn.Module, RadianceField):
    """Dense wherever y is above a bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def density(self, points):
        return 100.0 * (points[..., 1] > self.bound).float()


@pytest.mark.parametrize(("bound", "inside"), [(0.01, 0.0), (-0.01, 1.0)])
def test_a_camera_is_inside_where_most_of_its_rays_are_blocked(tiny_config, bound, inside):
    scene = scene_with_even_fog(tiny_config, 0.9)
    scene.field = FogBeside(bound)  # beside one column of rays of three, or two of them
    assert health.cameras_inside(scene, ring_cameras([0.0])) == inside


def test_a_thin_scene_is_a_warning_and_a_solid_one_is_none(tiny_config):
    far = replace(tiny_config.render_config, far=1.0)
    config = replace(tiny_config, render_config=far)
    cameras = ring_cameras([0.0])
    found = {
        light: names(health.check_scene(scene_with_even_fog(config, light), cameras))
        for light in (0.98, 0.8, 0.45)
    }
    # Between 0.5 and 1 the scene absorbs 1 - light_left.
    assert found[0.98] == [("empty scene", "error")]
    assert found[0.8] == [("empty scene", "warn")]
    assert ("empty scene", "warn") not in found[0.45]
