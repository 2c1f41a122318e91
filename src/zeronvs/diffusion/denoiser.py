"""The view-conditioned denoiser: what it is told of a view and of cameras, and what it answers."""

from typing import Any, NamedTuple

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.embedding import Representation, embed_cameras
from zeronvs.cameras.view import View, resize_image
from zeronvs.cameras.warp import forward_warp
from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
from zeronvs.diffusion.condition import (
    CameraCondition,
    Condition,
    clip_pixels,
    fit_view,
)
from zeronvs.diffusion.projection import CameraProjection

DepthEstimator = Any
"""Says the depth "b h w" of images "b 3 h w" in [0, 1] up to scale, with its 20% quantile at 1: a
`DepthNet` (by its method `estimate_depth`), or any callable."""

Warped = tuple[
    Float[Tensor, "n 3 H W"],  # what is known, as the targets see it, holes filled smoothly
    Float[Tensor, "n 1 H W"],  # 1 where something is known, else 0
]
"""Images at the model's size that take the place of the warped input view."""


class SamplingDefaults(NamedTuple):
    """How a model is sampled where nothing else is asked for."""

    num_inference_steps: int
    guidance_scale: float
    """1 = none."""
    eta: float
    """DDIM's, in [0, 1]."""


KNOWN_BORDER_PX = 3
"""Over so many pixels beside a hole, a sampled view passes into what is known."""


class ViewDenoiser(DiffusionPipeline):
    """The components of the pipeline, put together; `ZeroNVSPipeline` adds sampling and loading.

    The denoiser is one of two kinds, told apart by its number of input channels:

    - released kind: [noisy latent, input latent], as ZeroNVS and Zero-1-to-3 were released;
    - warp kind: [noisy latent, input latent, latent of the input warped into the target camera
      along its depth, validity mask folded to the latent's size].

    Input and warped latents are modes of the autoencoder's posterior and are NOT multiplied by its
    scaling factor; noisy latents are in the scaled space (published code, ddpm.py, `get_input`).
    """

    model_cpu_offload_seq = "image_encoder->cc_projection->unet->vae"
    _optional_components = ["depth_estimator"]  # noqa: RUF012 (diffusers wants a plain list)

    def __init__(
        self,
        vae: AutoencoderKL | PixelShuffleAutoencoder,
        image_encoder: CLIPVisionModelWithProjection,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler,
        cc_projection: CameraProjection,
        depth_estimator: DepthEstimator | None = None,
    ) -> None:
        """Put the components together.

        Args:
            vae: Images in [-1, 1] to latents and back.
            image_encoder: CLIP image embedding.
            unet: The denoiser, of either kind.
            scheduler: Noise schedule, kind of prediction and DDIM spacing.
            cc_projection: Image embedding and pose to a token; knows its representation.
            depth_estimator: For the warp kind: depth of views that come without.

        Raises:
            InputError: The components do not fit together.
        """
        super().__init__()
        self.register_modules(
            vae=vae,
            image_encoder=image_encoder,
            unet=unet,
            scheduler=scheduler,
            cc_projection=cc_projection,
            depth_estimator=depth_estimator,
        )
        self.vae: AutoencoderKL | PixelShuffleAutoencoder
        self.image_encoder: CLIPVisionModelWithProjection
        self.unet: UNet2DConditionModel
        self.scheduler: DDIMScheduler
        self.cc_projection: CameraProjection
        self.depth_estimator: DepthEstimator | None
        self._check_components()

    def _check_components(self) -> None:
        channels = self.unet.config["out_channels"]
        if isinstance(self.vae, PixelShuffleAutoencoder):
            latent_channels = self.vae.latent_channels
        else:
            latent_channels = self.vae.config["latent_channels"]
        if latent_channels != channels:
            raise InputError(
                f"the denoiser makes {channels} channels; the autoencoder has {latent_channels}."
            )
        kinds = {2 * channels: "released", 3 * channels + self._pixels_per_cell**2: "warp"}
        if self.unet.config["in_channels"] not in kinds:
            raise InputError(
                f"the denoiser takes {self.unet.config['in_channels']} channels; with this "
                f"autoencoder it must take {' or '.join(map(str, kinds))}."
            )
        if self.scheduler.config["prediction_type"] not in {"epsilon", "v_prediction", "sample"}:
            raise InputError(
                f'the scheduler predicts "{self.scheduler.config["prediction_type"]}"; '
                'only "epsilon", "v_prediction" and "sample" are known.'
            )
        Representation(self.cc_projection.config["representation"])

    @property
    def image_size_px(self) -> int:
        """Side of the square images that the model takes and makes, in pixels."""
        return int(self.unet.config["sample_size"]) * self._pixels_per_cell

    @property
    def alphas_cumprod(self) -> Float[Tensor, " t"]:
        """The noise schedule: the share of signal variance at each training timestep."""
        return self.scheduler.alphas_cumprod.to(self._execution_device)

    @property
    def sampling_defaults(self) -> SamplingDefaults:
        """The published setting, or for the warp kind the one it was measured best with.

        The warp kind is sampled without guidance: its null condition lacks the warped input, so
        the difference that guidance would amplify is the picture itself (docs/log.md).
        """
        if self.warps_input:
            return SamplingDefaults(2, 1.0, 0.0)
        return SamplingDefaults(50, 3.0, 1.0)

    @property
    def warps_input(self) -> bool:
        """Whether the denoiser is of the warp kind, which needs the depth of the input view."""
        return self.unet.config["in_channels"] != 2 * self.unet.config["out_channels"]

    @property
    def _pixels_per_cell(self) -> int:
        if isinstance(self.vae, PixelShuffleAutoencoder):
            return self.vae.config["downscale"]
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def _pixel_dtype(self) -> torch.dtype:
        """The autoencoder's precision; folding pixels needs no arithmetic and stays exact."""
        return torch.float32 if isinstance(self.vae, PixelShuffleAutoencoder) else self.vae.dtype

    @torch.no_grad()
    def encode(self, view: View, scene_scale: float | Float[Tensor, " b"]) -> Condition:
        """Look at a batch of input views once.

        Args:
            view: b views (or one, without a batch axis); cut to their central squares and resized
                to the model's size.
            scene_scale: Scene units per model unit (the paper's q), > 0.

        Raises:
            InputError: The scene scale is not positive, or a depth is needed and there is none.
        """
        view = fit_view(view.batched(), self.image_size_px).to(self._execution_device)
        scale = torch.as_tensor(scene_scale, dtype=torch.float32, device=self._execution_device)
        scale = scale.expand(len(view))
        if not bool((scale > 0).all() and scale.isfinite().all()):
            raise InputError(f"the scene scale is {scale.tolist()}; it must be above 0.")
        clip_size_px: Any = self.image_encoder.config.image_size
        pixels = clip_pixels(view.image, clip_size_px)
        embedding = self.image_encoder(pixels.to(self.image_encoder.dtype)).image_embeds.float()
        if self.warps_input and view.depth_z is None:
            view = View(view.image, view.camera, self._estimate_depth(view.image, scale))
        return Condition(embedding, self._latent_mode(view.image), view, scale)

    def _estimate_depth(
        self, image: Float[Tensor, "b 3 h w"], scene_scale: Float[Tensor, " b"]
    ) -> Float[Tensor, "b h w"]:
        if self.depth_estimator is None:
            raise InputError(
                "this model warps the input view and needs its depth. Give a View with depth_z, "
                "or a pipeline with a depth_estimator."
            )
        estimate = getattr(self.depth_estimator, "estimate_depth", self.depth_estimator)
        return estimate(image).to(image) * scene_scale[:, None, None]

    def _latent_mode(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        return self._posterior(image).mode().float()

    def _posterior(self, image: Float[Tensor, "b 3 H W"]) -> Any:
        signed = (image * 2.0 - 1.0).to(self._pixel_dtype)
        return self.vae.encode(signed).latent_dist  # pyright: ignore[reportAttributeAccessIssue]

    def prepare(
        self, condition: Condition, cameras: Camera, warped: Warped | None = None
    ) -> CameraCondition:
        """Say to the denoiser which cameras are asked for; gradients reach `cc_projection` only.

        The field of view that the model is told is the target camera's; the paper gives input and
        target one field of view, so this differs only on paths that zoom.

        Args:
            condition: Of 1 or of n input views.
            cameras: n target cameras in the world of the input camera, of any image size.
            warped: For the warp kind, what is known of the targets, where more is known than the
                input view shows.
        """
        cameras = cameras.to(self._execution_device)
        count = len(cameras)
        if len(condition) not in {1, count}:
            raise ValueError(f"{len(condition)} conditions do not fit {count} cameras")
        if len(condition) != count:
            condition = condition[[0] * count]
        embedding = embed_cameras(
            Representation(self.cc_projection.config["representation"]),
            cameras.camera_to_world,
            condition.view.camera.camera_to_world,
            cameras.fov_y_rad,
            condition.scene_scale,
        )
        tokens = self.cc_projection(condition.image_embedding, embedding.float())
        return CameraCondition(tokens, self._concat_channels(condition, cameras, warped))

    @torch.no_grad()
    def _concat_channels(
        self, condition: Condition, cameras: Camera, warped: Warped | None
    ) -> Float[Tensor, "n k h w"]:
        if not self.warps_input:
            return condition.latent
        target = cameras.resized(self.image_size_px, self.image_size_px)
        image, validity = forward_warp(condition.view, target) if warped is None else warped
        mask = F.pixel_unshuffle(validity, self._pixels_per_cell)
        return torch.cat([condition.latent, self._latent_mode(image), mask], dim=1)

    def predict_noise(
        self,
        noisy_latent: Float[Tensor, "n c h w"],
        timestep: Int[Tensor, " n"],
        camera_condition: CameraCondition,
        guidance_scale: float,
    ) -> Float[Tensor, "n c h w"]:
        """Predict the noise in scaled noisy latents, with classifier-free guidance.

        Args:
            noisy_latent: Scaled latents with noise.
            timestep: From 0 to the last training timestep.
            camera_condition: From `prepare`.
            guidance_scale: eps_null + scale * (eps_condition - eps_null); 1 = no guidance.
        """
        output = self._predict(noisy_latent, timestep, camera_condition, guidance_scale)
        if self.scheduler.config["prediction_type"] == "epsilon":
            return output
        signal = self.alphas_cumprod[timestep][:, None, None, None]
        if self._predicts_clean:
            return (noisy_latent - signal.sqrt() * output) / (1.0 - signal).sqrt().clamp_min(1e-4)
        # v = sqrt(a) eps - sqrt(1 - a) x_0 (arXiv:2202.00512), with x_t put in for x_0.
        return signal.sqrt() * output + (1.0 - signal).sqrt() * noisy_latent

    def _predict(
        self,
        noisy_latent: Float[Tensor, "n c h w"],
        timestep: Int[Tensor, " n"],
        told: CameraCondition,
        guidance_scale: float,
    ) -> Float[Tensor, "n c h w"]:
        if guidance_scale == 1.0:
            return self.answer(noisy_latent, timestep, told)
        null = told.null()
        both = CameraCondition(
            torch.cat([null.tokens, told.tokens]), torch.cat([null.concat, told.concat])
        )
        output = self.answer(noisy_latent.repeat(2, 1, 1, 1), timestep.repeat(2), both)
        unguided, guided = output.chunk(2)
        return unguided + guidance_scale * (guided - unguided)

    def answer(
        self,
        noisy_latent: Float[Tensor, "n c h w"],
        timestep: Int[Tensor, " n"],
        told: CameraCondition,
    ) -> Float[Tensor, "n c h w"]:
        """Return what the network predicts, in the scheduler's kind of prediction, unguided.

        A network of the warp kind that predicts clean latents answers the difference to the warped
        input: what is known passes through untouched, and only what the warp lacks is learned.
        """
        dtype = self.unet.dtype
        inputs = torch.cat([noisy_latent, told.concat], dim=1).to(dtype)
        output = self.unet(inputs, timestep, encoder_hidden_states=told.tokens.to(dtype))
        output = output.sample.to(noisy_latent.dtype)
        if self.warps_input and self._predicts_clean:
            channels = noisy_latent.shape[1]
            output = output + self.vae.config["scaling_factor"] * told.concat[
                :, channels : 2 * channels
            ].to(output)
        return output

    def keep_known(
        self, image: Float[Tensor, "n 3 H W"], told: CameraCondition
    ) -> Float[Tensor, "n 3 H W"]:
        """Put what the warped input knows back into samples, softly at the borders of holes.

        A sampled view carries a little noise everywhere; where the input says what is seen, the
        input is the better answer (docs/log.md). Only for networks that answer the difference to
        the warped input, in pixels; samples of others are returned as they are.
        """
        answers_difference = self.warps_input and self._predicts_clean
        if not (answers_difference and isinstance(self.vae, PixelShuffleAutoencoder)):
            return image
        channels = self.vae.latent_channels
        warped = told.concat[:, channels : 2 * channels] * self.vae.config["scaling_factor"]
        known = self.known(told)
        reach = KNOWN_BORDER_PX
        around = F.pad(known, (reach, reach, reach, reach), value=1.0)
        weight = known * F.avg_pool2d(around, 2 * reach + 1, stride=1)
        return torch.lerp(image, self.to_image(warped), weight)

    def known(self, told: CameraCondition) -> Float[Tensor, "n 1 H W"]:
        """Return 1 where the warped input shows something, else 0; only for the warp kind."""
        mask = told.concat[:, 2 * self.unet.config["out_channels"] :]
        return F.pixel_shuffle(mask, self._pixels_per_cell)

    @property
    def _predicts_clean(self) -> bool:
        return self.scheduler.config["prediction_type"] == "sample"

    def to_latent(
        self, image: Float[Tensor, "n 3 H W"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "n c h w"]:
        """Return scaled latents of images in [0, 1] of any size; differentiable.

        Args:
            image: RGB.
            generator: Draws from the autoencoder's posterior as training does; the mode if None.
        """
        posterior = self._posterior(resize_image(image, (self.image_size_px, self.image_size_px)))
        latent = posterior.mode() if generator is None else posterior.sample(generator)
        return latent.float() * self.vae.config["scaling_factor"]

    def to_image(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Return the images in [0, 1] of scaled latents."""
        unscaled = (latent / self.vae.config["scaling_factor"]).to(self._pixel_dtype)
        decoded: Any = self.vae.decode(unscaled)
        return (decoded.sample.float() * 0.5 + 0.5).clamp(0.0, 1.0)
