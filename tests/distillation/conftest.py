"""Tiny diffusion models of both kinds, and a scene whose every view is known."""

import pytest
import torch
from sphere_world import ring_cameras, sphere_views
from tiny_pipelines import tiny_released, tiny_warp

from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.anchors import AnchorConfig
from zeronvs.distillation.config import DistillConfig, RenderStage
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig


def ready(pipe: ZeroNVSPipeline) -> ZeroNVSPipeline:
    with torch.no_grad():  # a fresh projection passes the image on and drops the camera
        for weight in pipe.cc_projection.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.3)
    return pipe


@pytest.fixture(scope="session")
def pipe() -> ZeroNVSPipeline:
    """Return a tiny model of the released kind."""
    return ready(tiny_released(seed=7))


@pytest.fixture(scope="session")
def warp_pipe() -> ZeroNVSPipeline:
    """Return a tiny model of the warp kind."""
    return ready(tiny_warp(seed=8))


@pytest.fixture(scope="session")
def input_view() -> View:
    return sphere_views(ring_cameras([0.0]))[0]


@pytest.fixture(scope="session")
def tiny_config() -> DistillConfig:
    """Return the published recipe with everything tiny: 4 steps, 8-pixel renders, 2 anchors."""
    grid = HashGridConfig(levels=3, log2_table_size=10, base_resolution=8, growth=1.6)
    return DistillConfig(
        steps=4,
        stages=(
            RenderStage(from_step=0, sds_views=2, sds_size_px=8, reference_size_px=8),
            RenderStage(from_step=2, sds_views=1, sds_size_px=12, reference_size_px=12),
        ),
        anchors=AnchorConfig(num_inference_steps=2),
        field_config=FieldConfig(grid=grid, hidden_width=8),
        proposal_config=ProposalConfig(grid=grid, hidden_width=8),
        render_config=RenderConfig(far=50.0, proposal_samples=12, final_samples=12),
        log_every=1,
    )
