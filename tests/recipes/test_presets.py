"""The presets are data: published numbers, and the arithmetic that changes a recipe."""

import math
from dataclasses import replace

import pytest
from tiny_pipelines import tiny_released, tiny_warp

from zeronvs.diffusion.conditioning_kind import PUBLISHED_LATENT_NUMBERS
from zeronvs.distillation.anchors import AnchorConfig
from zeronvs.distillation.config import DistillConfig, RenderStage
from zeronvs.distillation.losses import LossWeights
from zeronvs.distillation.noise_levels import PiecewiseLinear
from zeronvs.distillation.refresh import RefreshConfig
from zeronvs.distillation.surround import SurroundConfig, surround_azimuths_rad
from zeronvs.recipes.presets import FAST, FIELD, PAPER, PRESETS, PREVIEW, OutputConfig
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig


def test_the_presets_go_by_their_names():
    assert PRESETS == {"preview": PREVIEW, "field": FIELD, "fast": FAST, "paper": PAPER}


def test_the_paper_has_the_published_optimization():
    """Paper B.2; published zero123_scene.yaml."""
    distill = PAPER.distill
    assert PAPER.surround is None
    assert distill.steps == 4000
    assert distill.stages == (
        RenderStage(from_step=0, sds_views=6, sds_size_px=128, reference_size_px=128),
        RenderStage(from_step=2000, sds_views=1, sds_size_px=256, reference_size_px=256),
    )
    for rate in (distill.field_learning_rate, distill.proposal_learning_rate):
        assert {rate(step) for step in (0, 2000, 3999)} == {5e-3}
    assert distill.reference_rays is None
    assert distill.reference_ray_noise == 2e-3
    assert distill.random_background
    assert distill.background == (0.5, 0.5, 0.5)
    assert distill.mixed_precision


def test_the_paper_has_the_published_losses():
    weights = PAPER.distill.weights
    published = {"sds": 0.1, "rgb": 1500.0, "normal_smoothness": 8.0, "orientation": 5.0}
    assert {name: getattr(weights, name) for name in published} == published
    # Neither opacity, nor depth, nor distortion is supervised in the released configurations.
    for name in ("opaque", "distortion", "supervised_depth", "free_space"):
        assert getattr(weights, name) == 0.0, name
    assert weights.interlevel == 1.0


def test_the_paper_has_the_published_guidance_and_noise():
    distill = PAPER.distill
    assert distill.guidance_scale == 9.5
    assert distill.uses_sds
    levels = distill.noise_levels
    assert [levels.lowest(step) for step in (0, 1000, 4000)] == [0.75, 0.02, 0.02]
    assert [levels.highest(step) for step in (0, 1000, 2500, 4000)] == [0.98, 0.98, 0.025, 0.025]
    assert levels.anisotropic_delay_steps == 1000.0


def test_the_paper_has_the_published_anchors():
    anchors = PAPER.distill.anchors
    assert anchors == AnchorConfig(
        count=2,
        num_inference_steps=500,
        guidance_scale=3.0,
        eta=1.0,
        probability=0.5,
        depth_threshold=1.0,
        gate_depth="accumulated",
    )


def test_the_paper_has_the_published_field_and_renderer():
    distill = PAPER.distill
    grid = distill.field_config.grid
    assert (grid.levels, grid.features_per_level, grid.log2_table_size) == (16, 2, 19)
    assert (grid.base_resolution, grid.growth) == (16, 1.4473)
    assert (distill.field_config.hidden_width, distill.field_config.hidden_layers) == (32, 2)
    assert (distill.field_config.blob_strength, distill.field_config.blob_radius) == (5.0, 0.5)
    assert (distill.field_config.radius, distill.field_config.density_bias) == (2.0, 0.0)
    proposal = distill.proposal_config
    assert (proposal.grid.levels, proposal.grid.features_per_level) == (5, 2)
    assert (proposal.grid.log2_table_size, proposal.grid.growth) == (17, 1.68)
    assert (proposal.hidden_width, proposal.radius, proposal.contracted) == (64, 2.0, False)
    render = distill.render_config
    assert (render.near, render.far) == (0.5, 1000.0)
    assert (render.proposal_samples, render.final_samples) == (64, 64)


def test_the_paper_has_the_published_viewpoints():
    viewpoints = PAPER.distill.viewpoints
    assert viewpoints.azimuth_range_rad == (-math.pi, math.pi)
    assert viewpoints.distance_range == (0.8, 1.8)
    assert viewpoints.progressive_until_step == 1000
    assert viewpoints.sphere_probability == 0.5
    assert viewpoints.sphere_sampling == "published"
    low, high = viewpoints.elevation_range_rad  # zero123_scene.yaml; launch_inference.sh keeps it
    assert (math.degrees(low), math.degrees(high)) == pytest.approx((5.0, 80.0))


@pytest.mark.parametrize("recipe", [FIELD, FAST])
def test_other_presets_look_at_the_scene_from_around_the_elevation_of_the_photo(recipe):
    viewpoints = recipe.distill.viewpoints
    assert viewpoints.elevation_range_rad is None
    assert viewpoints.sphere_sampling == "uniform"


def test_fast_samples_outwards_with_each_view_given_what_the_others_show():
    assert FAST.surround == SurroundConfig(
        count=7,
        num_inference_steps=50,
        guidance_scale=None,
        eta=None,
        new_trust=0.5,
        least_trust=0.1,
        shared_noise=False,
        nearness_rad=1.0,
        start_level=0.8,
        known_share=0.6,
    )
    azimuths_deg = [round(math.degrees(a)) for a in surround_azimuths_rad(7)]
    assert azimuths_deg == [45, -45, 90, -90, 135, -135, 180]


def test_fast_fits_a_field_and_then_refreshes_its_views_at_falling_noise():
    distill = FAST.distill
    assert distill.steps == 1200
    assert not distill.uses_sds
    assert distill.uses_model
    refresh = distill.refresh
    assert refresh is not None
    due = [step for step in range(distill.steps) if refresh.is_due(step)]
    assert (due[0], due[1], len(due)) == (400, 408, 100)
    assert [refresh.noise_level(step) for step in (0, 400, 800, 1200)] == pytest.approx(
        [0.7, 0.7, 0.45, 0.2]
    )
    assert [refresh.first_weight(step) for step in (0, 300, 600, 1200)] == pytest.approx(
        [1.0, 0.6, 0.2, 0.2]
    )
    assert (refresh.num_inference_steps, refresh.guidance_scale) == (10, 3.5)
    assert distill.weights == LossWeights(
        sds=0.0,
        rgb=1500.0,
        normal_smoothness=0.0,
        orientation=0.0,
        opaque=0.0,
        interlevel=1.0,
        distortion=1.0,
        supervised_rgb=1500.0,
        supervised_depth=600.0,
        free_space=200.0,
    )
    assert (distill.reference_rays, distill.supervised_rays) == (2048, 8192)
    assert distill.stages[0].reference_size_px == 256
    for rate in (distill.field_learning_rate, distill.proposal_learning_rate):
        assert [rate(step) for step in (0, 600, 1200)] == [1e-2, 5e-3, 5e-4]
    assert distill.field_config == FieldConfig()
    assert distill.proposal_config == ProposalConfig(contracted=True)
    assert distill.render_config == RenderConfig()


@pytest.mark.parametrize(
    ("recipe", "sampling_steps", "until_step"), [(FAST, 50, 300), (FIELD, 500, 80)]
)
def test_anchors_add_distillation_with_the_published_annealing_in_the_steps_of_the_preset(
    recipe, sampling_steps, until_step
):
    distill = recipe.with_settings(anchors=2).distill
    assert distill.uses_sds
    anchors = AnchorConfig(num_inference_steps=sampling_steps, gate_depth="surface")
    assert distill.anchors == anchors
    for step in (0, 1000, 2500, 4000):
        for name in ("lowest", "highest"):
            here = getattr(distill.noise_levels, name)(step * distill.steps / 4000)
            assert here == pytest.approx(getattr(PAPER.distill.noise_levels, name)(step))
    assert distill.viewpoints.progressive_until_step == until_step


def test_only_fast_refreshes_its_views():
    assert PAPER.distill.refresh is None
    assert FIELD.distill.refresh is None
    assert FIELD.surround == SurroundConfig()


def test_a_finished_scene_is_rendered_and_exported_at_these_sizes():
    assert PAPER.outputs == FAST.outputs == OutputConfig()
    assert OutputConfig() == OutputConfig(
        size_px=256, orbit_frames=72, sway_frames=48, splat_steps=300, mesh_resolution=384
    )


def test_fewer_steps_scale_every_step_number_and_no_value():
    half = PAPER.distill.with_steps(2000)
    assert half.steps == 2000
    assert [stage.from_step for stage in half.stages] == [0, 1000]
    assert [stage.sds_views for stage in half.stages] == [6, 1]
    assert half.viewpoints.progressive_until_step == 500
    assert half.noise_levels.anisotropic_delay_steps == 500.0
    for step in (0, 300, 900, 2500, 3999):
        assert half.noise_levels.lowest(step / 2) == pytest.approx(
            PAPER.distill.noise_levels.lowest(step)
        )
        assert half.noise_levels.highest(step / 2) == pytest.approx(
            PAPER.distill.noise_levels.highest(step)
        )
    assert half.weights == PAPER.distill.weights
    third = FAST.distill.with_steps(400)
    assert (third.refresh.from_step, third.refresh.every) == (133, 8)
    for step in (0, 200, 600, 1100, 1200):
        for rate in ("field_learning_rate", "proposal_learning_rate"):
            at_third = getattr(third, rate)(step / 3)
            assert at_third == pytest.approx(getattr(FAST.distill, rate)(step))
        assert third.refresh.noise_level(step / 3) == pytest.approx(
            FAST.distill.refresh.noise_level(step)
        )
    assert FAST.distill.with_steps(1200) == FAST.distill


def test_settings_replace_only_what_is_given():
    assert FAST.with_settings() == FAST
    longer = FAST.with_settings(steps=3000)
    assert longer == replace(FAST, distill=FAST.distill.with_steps(3000))
    alone = PAPER.with_settings(anchors=0)
    assert alone.distill.anchors == replace(PAPER.distill.anchors, count=0)
    assert alone.distill.weights.sds == 0.1
    five = PAPER.with_settings(anchors=5, steps=400)
    assert (five.distill.anchors.count, five.distill.steps) == (5, 400)


def test_anchors_switch_distillation_on_at_its_published_weight_and_zero_anchors_do_not():
    off = replace(FAST, distill=replace(FAST.distill, weights=LossWeights(sds=0.0, rgb=7.0)))
    assert not off.distill.uses_sds
    on = off.with_settings(anchors=2).distill
    assert on.uses_sds
    assert on.weights == LossWeights(sds=0.1, rgb=7.0)
    assert not off.with_settings(anchors=0).distill.uses_sds
    kept = replace(FAST, distill=replace(FAST.distill, weights=LossWeights(sds=0.3)))
    assert kept.with_settings(anchors=2).distill.weights.sds == 0.3


def test_the_weight_of_distillation_falls_as_the_latent_grows():
    """The loss is a sum over the latent: a latent of more numbers needs a smaller weight."""
    pipe = tiny_warp(downscale=4)  # 48 channels of 8x8
    assert pipe.conditioning.latent.channels * pipe.conditioning.latent_size**2 == 3072
    fitted = PAPER.fitted_to(pipe).distill
    assert fitted.weights.sds == pytest.approx(0.1 * 4 * 32 * 32 / 3072)
    assert fitted.weights.sds > 0.1
    assert PUBLISHED_LATENT_NUMBERS == 4096
    small = PAPER.fitted_to(tiny_released()).distill  # 4 channels of 8x8
    assert small.weights.sds == pytest.approx(1.6)
    assert replace(small.weights, sds=0.1) == PAPER.distill.weights


def test_a_model_with_sampling_defaults_of_its_own_samples_the_anchors_with_them():
    fitted = PAPER.fitted_to(tiny_warp()).distill
    assert fitted.guidance_scale == 1.0
    assert fitted.anchors == replace(
        PAPER.distill.anchors, num_inference_steps=8, guidance_scale=1.0, eta=0.0
    )
    released = PAPER.fitted_to(tiny_released()).distill
    assert released.guidance_scale == 9.5
    assert released.anchors == PAPER.distill.anchors


def test_views_are_refreshed_with_the_guidance_that_the_kind_of_model_is_sampled_with():
    assert FAST.fitted_to(tiny_warp()).distill.refresh.guidance_scale == 1.0
    assert FAST.fitted_to(tiny_released()).distill.refresh.guidance_scale == 3.5
    given = FAST.fitted_to(tiny_released(), guidance_scale=5.0).distill
    assert given.refresh == replace(FAST.distill.refresh, guidance_scale=5.0)


@pytest.mark.parametrize("pipe", [tiny_released(), tiny_warp()], ids=["released", "warp"])
def test_a_given_guidance_is_that_of_distillation_and_not_of_the_anchors(pipe):
    fitted = PAPER.fitted_to(pipe, guidance_scale=4.0).distill
    assert fitted.guidance_scale == 4.0
    assert fitted.anchors == PAPER.fitted_to(pipe).distill.anchors


@pytest.mark.parametrize(
    ("changes", "uses"),
    [
        ({}, True),
        ({"weights": LossWeights(sds=0.0)}, False),
    ],
)
def test_a_recipe_evaluates_the_model_for_distillation_or_to_refresh_views(changes, uses):
    config = DistillConfig(**changes)
    assert config.uses_sds is uses
    assert config.uses_model is uses
    refreshing = replace(config, refresh=RefreshConfig())
    assert refreshing.uses_sds is uses
    assert refreshing.uses_model


def test_a_stage_lasts_until_the_next_begins():
    config = DistillConfig()
    assert [config.stage(step).sds_views for step in (0, 1999, 2000, 3999)] == [6, 6, 1, 1]


def test_how_often_a_run_logs_and_saves_is_no_part_of_its_identity():
    identity = DistillConfig().identity()
    assert DistillConfig(log_every=3, checkpoint_seconds=1.0).identity() == identity
    assert DistillConfig(guidance_scale=3.0).identity() != identity
    assert {"weights", "anchors", "field_config", "noise_levels"} <= set(identity)
    schedule = PiecewiseLinear(((0, 1.0), (10, 2.0)))
    assert DistillConfig(field_learning_rate=schedule).identity() != identity
