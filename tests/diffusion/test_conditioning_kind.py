"""The kind of conditioning: named in the configuration, checked against the denoiser."""

import json

import pytest
from diffusers import DDIMScheduler
from tiny_pipelines import tiny_image_encoder, tiny_released, tiny_unet, tiny_warp

from zeronvs._core.errors import InputError
from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder, TinyAutoencoder
from zeronvs.diffusion.conditioning_kind import ConcatInput, ConcatWarp
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.projection import CameraProjection


def test_without_a_name_the_channels_decide():
    assert isinstance(tiny_released().conditioning, ConcatInput)
    assert isinstance(tiny_warp().conditioning, ConcatWarp)


@pytest.mark.parametrize("name", ["concat", "cross", ""])
def test_a_name_that_does_not_fit_the_denoiser_is_refused_in_one_line(name):
    projection = CameraProjection(12, 19, 12, conditioning=name)
    with pytest.raises(InputError, match=r"conditioning|input channels") as caught:
        ZeroNVSPipeline(
            PixelShuffleAutoencoder(2),
            tiny_image_encoder(),
            tiny_unet(40, 12),
            DDIMScheduler(),
            projection,
        )
    assert "\n" not in str(caught.value)


def test_the_shipped_model_names_its_kind():
    pipe = ZeroNVSPipeline.from_pretrained("builtin")
    assert pipe.cc_projection.config["conditioning"] == "warp"
    assert isinstance(pipe.conditioning, ConcatWarp)
    assert isinstance(pipe.vae, TinyAutoencoder)
    assert pipe.image_size_px == 256
    assert pipe.scheduler.config["prediction_type"] == "v_prediction"


def test_a_folder_that_still_lists_a_depth_estimator_can_be_read(tmp_path):
    tiny_warp().save_pretrained(tmp_path)
    index_path = tmp_path / "model_index.json"
    index = json.loads(index_path.read_text())
    index_path.write_text(
        json.dumps(index | {"depth_estimator": ["zeronvs.depth.builtin", "DepthNet"]})
    )
    assert ZeroNVSPipeline.from_pretrained(tmp_path).conditioning.needs_depth


def test_score_distillation_weighs_each_latent_number_as_published():
    published = ConcatInput(
        latent=tiny_released().conditioning.latent, latent_size=32, predicts_clean=False
    )
    assert published.sds_weight(0.1) == 0.1
    warp = tiny_warp().conditioning  # 12 channels of 8x8
    assert warp.sds_weight(0.1) == pytest.approx(0.1 * (4 * 32 * 32) / (12 * 8 * 8))
    assert warp.sds_guidance_scale == 1.0
    assert warp.sampling_defaults == (8, 1.0, 0.0)
    residual = tiny_warp(prediction_type="sample").conditioning
    assert residual.sampling_defaults == (2, 1.0, 0.0)
    assert published.sds_guidance_scale is None
    assert published.sampling_defaults == (50, 3.0, 1.0)
