"""A story of `fast` that looks at pixels: the photograph is kept, and what is behind is no grey.

The model is an ideal one of twelve scenes that look alike in the photograph (`possible_worlds`).
"""

import math
from dataclasses import replace
from pathlib import Path

import torch
from possible_worlds import SIZE, WorldDepth, distance_to_one_world, possible_worlds, world_views
from sphere_world import ring_cameras, sphere_views

from zeronvs.cameras.view import View
from zeronvs.distillation.noise_levels import constant
from zeronvs.distillation.surround import surround_azimuths_rad
from zeronvs.recipes.presets import FAST, Recipe
from zeronvs.recipes.reconstruct import reconstruct
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig

COUNT = 4
CAMERAS = ring_cameras(surround_azimuths_rad(COUNT), SIZE)


def tiny_fast() -> Recipe:
    """Return `fast` with every part of it at tiny size."""
    assert FAST.surround is not None
    assert FAST.distill.refresh is not None
    distill = FAST.distill.with_steps(90)
    grid = HashGridConfig(levels=6, log2_table_size=14, base_resolution=16, growth=1.5)
    distill = replace(
        distill,
        field_config=replace(FieldConfig.small(), grid=grid),
        proposal_config=ProposalConfig.small(),
        render_config=replace(RenderConfig.small(), proposal_samples=24, final_samples=24),
        stages=(replace(distill.stages[0], reference_size_px=SIZE),),
        reference_rays=192,
        supervised_rays=384,
        refresh=replace(distill.refresh, every=6, num_inference_steps=4, guidance_scale=1.0),
        field_learning_rate=constant(2e-2),
        proposal_learning_rate=constant(2e-2),
    )
    surround = replace(FAST.surround, count=COUNT, num_inference_steps=10, guidance_scale=1.0)
    return Recipe(distill=distill, surround=surround)


def test_the_photograph_is_kept_and_all_round_is_one_possible_scene(tmp_path: Path):
    photo = sphere_views(ring_cameras([0.0], SIZE))[0]
    scene = reconstruct(
        photo,
        possible_worlds(),
        tiny_fast(),
        scene_scale=0.7,
        geometry_estimator=WorldDepth(CAMERAS),
        run_dir=tmp_path,
        seed=1,
    )
    with torch.no_grad():
        front = scene.render(ring_cameras([0.0], SIZE), background=torch.full((3,), 0.5))
        around = scene.render(CAMERAS, background=torch.full((3,), 0.5))
    psnr = -10 * math.log10(float((front.rgb[0] - photo.image).square().mean()))
    truth = world_views(CAMERAS)
    spread = float(truth.image.std((3, 4)).mean())
    assert psnr > 20
    assert float(around.opacity.mean((1, 2)).amin()) > 0.9
    # As colourful as the scenes are: neither one colour nor noise.
    assert 0.5 * spread < float(around.rgb.std((2, 3)).mean(1).amin())
    assert distance_to_one_world(View(around.rgb, CAMERAS)) < 0.1
