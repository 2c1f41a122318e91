"""The view-conditioned denoiser: its conditioning on a view and on cameras, and its predictions."""

from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from zeronvs._core.errors import InputError
from zeronvs._core.precision import full_precision, scene_precision, unet_precision
from zeronvs._core.random import sent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.embedding import Representation, embed_cameras
from zeronvs.cameras.view import View, resize_image
from zeronvs.diffusion.autoencoder import Autoencoder, LatentSpace, drawn, latent_space
from zeronvs.diffusion.condition import CameraCondition, Condition, clip_pixels, fit_view
from zeronvs.diffusion.conditioning_kind import ConditioningKind, Warped, conditioning_kind
from zeronvs.diffusion.projection import CameraProjection
from zeronvs.protocols import GeometryEstimator


class ViewDenoiser(DiffusionPipeline):
    """The components of the pipeline, put together; `ZeroNVSPipeline` adds sampling and loading.

    `conditioning` holds everything that differs between kinds of model. Input and warped latents
    are modes of the autoencoder's posterior and are NOT multiplied by its scaling factor; noisy
    latents are in the scaled space (published code, ddpm.py, `get_input`).
    """

    model_cpu_offload_seq = "image_encoder->cc_projection->unet->vae"

    def __init__(
        self,
        vae: Autoencoder,
        image_encoder: CLIPVisionModelWithProjection,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler,
        cc_projection: CameraProjection,
    ) -> None:
        """Put the components together.

        Args:
            vae: Images in [-1, 1] to latents and back.
            scheduler: Noise schedule, kind of prediction and DDIM spacing.
            cc_projection: Image embedding and pose to a token; its configuration names the camera
                representation and the kind of conditioning.

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
        )
        self.vae: Autoencoder
        self.image_encoder: CLIPVisionModelWithProjection
        self.unet: UNet2DConditionModel
        self.scheduler: DDIMScheduler
        self.cc_projection: CameraProjection
        self._check_components()

    def _check_components(self) -> None:
        channels = self.unet.config["out_channels"]
        if self._latent.channels != channels:
            raise InputError(
                f"the denoiser has {channels} output channels; the autoencoder's latents have "
                f"{self._latent.channels}."
            )
        _ = self.conditioning
        if self.scheduler.config["prediction_type"] not in {"epsilon", "v_prediction", "sample"}:
            raise InputError(
                f'the scheduler predicts "{self.scheduler.config["prediction_type"]}"; '
                'only "epsilon", "v_prediction" and "sample" are known.'
            )
        Representation(self.cc_projection.config["representation"])

    @property
    def image_size_px(self) -> int:
        """Side of the square images that the model takes and makes, in pixels."""
        return int(self.unet.config["sample_size"]) * self._latent.pixels_per_cell

    @property
    def alphas_cumprod(self) -> Float[Tensor, " t"]:
        """The noise schedule: signal variance alpha_bar at each training timestep."""
        return sent(self.scheduler.alphas_cumprod, self._execution_device)

    @property
    def conditioning(self) -> ConditioningKind:
        """Kind of conditioning on the input view, which defines channels and sampling defaults."""
        return conditioning_kind(
            self.cc_projection.config.get("conditioning"),
            in_channels=self.unet.config["in_channels"],
            latent=self._latent,
            latent_size=self.unet.config["sample_size"],
            predicts_clean=self.scheduler.config["prediction_type"] == "sample",
        )

    @property
    def _latent(self) -> LatentSpace:
        return latent_space(self.vae)

    @property
    def _pixel_dtype(self) -> torch.dtype:
        """The precision of encoding and decoding."""
        return torch.float32 if self._latent.is_exact else self.vae.dtype

    @torch.no_grad()
    @full_precision()
    def encode(
        self,
        view: View,
        scene_scale: float | Float[Tensor, " b"],
        geometry_estimator: GeometryEstimator | None = None,
    ) -> Condition:
        """Encode a batch of input views, once for all target cameras.

        Args:
            view: b views (or one, without a batch axis); cut to their central squares and resized
                to the model's size.
            scene_scale: Scene units per model unit (the paper's q), > 0.
            geometry_estimator: Estimates the depth of views that lack it, where it is needed.

        Raises:
            InputError: The scene scale is not positive, or depth is needed and missing.
        """
        view = fit_view(view.batched(), self.image_size_px).to(self._execution_device)
        scale = torch.as_tensor(scene_scale, dtype=torch.float32, device=self._execution_device)
        scale = scale.expand(len(view))
        if not bool((scale > 0).all() and scale.isfinite().all()):
            raise InputError(f"the scene scale is {scale.tolist()}; it must be above 0.")
        clip_size_px: Any = self.image_encoder.config.image_size
        pixels = clip_pixels(view.image, clip_size_px)
        embedding = self.image_encoder(pixels.to(self.image_encoder.dtype)).image_embeds.float()
        if self.conditioning.needs_depth and view.depth_z is None:
            if geometry_estimator is None:
                raise InputError(
                    "this model warps the input view along its depth, which is missing. Give a "
                    "View with depth_z, or a geometry_estimator such as "
                    "zeronvs.depth.builtin.load_builtin_depth()."
                )
            geometry = geometry_estimator.estimate(view.image)
            view = View(view.image, view.camera, geometry.scaled_depth(scale))
        return Condition(embedding, self._latent_mode(view.image), view, scale)

    def _latent_mode(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        return self._posterior(image).mode().float()

    def _posterior(self, image: Float[Tensor, "b 3 H W"]) -> Any:
        signed = (image * 2.0 - 1.0).to(self._pixel_dtype)
        return self.vae.encode(signed).latent_dist  # pyright: ignore[reportAttributeAccessIssue]

    @full_precision()
    def prepare(
        self, condition: Condition, cameras: Camera, warped: Warped | None = None
    ) -> CameraCondition:
        """Return the conditioning on target cameras; gradients reach `cc_projection` only.

        The field of view in the embedding is the target camera's. The paper gives input and target
        the same one, so this differs only on paths that zoom.

        Args:
            condition: 1 or n input views.
            cameras: n target cameras in the world of the input camera, of any image size.
            warped: For kinds that warp, replaces the warped input view, e.g. by a warp of several
                views.
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
        target = cameras.resized(self.image_size_px, self.image_size_px)
        with torch.no_grad():
            kind = self.conditioning
            known = kind.warped(condition, target, warped)
            concat = kind.concat_channels(condition, self._latent_mode, known)
        return CameraCondition(tokens, concat, known)

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
        alpha_bar = self.alphas_cumprod[timestep][:, None, None, None]
        if self.scheduler.config["prediction_type"] == "sample":
            return (noisy_latent - alpha_bar.sqrt() * output) / (1.0 - alpha_bar).sqrt().clamp_min(
                1e-4
            )
        # v = sqrt(a) eps - sqrt(1 - a) x_0 (arXiv:2202.00512), solved for eps with x_t known.
        return alpha_bar.sqrt() * output + (1.0 - alpha_bar).sqrt() * noisy_latent

    @unet_precision()
    def _predict(
        self,
        noisy_latent: Float[Tensor, "n c h w"],
        timestep: Int[Tensor, " n"],
        camera_condition: CameraCondition,
        guidance_scale: float,
    ) -> Float[Tensor, "n c h w"]:
        if guidance_scale == 1.0:
            return self.predict(noisy_latent, timestep, camera_condition)
        null = camera_condition.null()
        both = CameraCondition(
            torch.cat([null.tokens, camera_condition.tokens]),
            torch.cat([null.concat, camera_condition.concat]),
        )
        output = self.predict(noisy_latent.repeat(2, 1, 1, 1), timestep.repeat(2), both)
        unguided, guided = output.chunk(2)
        return unguided + guidance_scale * (guided - unguided)

    def predict(
        self,
        noisy_latent: Float[Tensor, "n c h w"],
        timestep: Int[Tensor, " n"],
        camera_condition: CameraCondition,
    ) -> Float[Tensor, "n c h w"]:
        """Return the network's prediction, of the scheduler's prediction type, without guidance."""
        dtype = self.unet.dtype
        inputs = torch.cat([noisy_latent, camera_condition.concat], dim=1).to(dtype)
        tokens = camera_condition.tokens.to(dtype)
        output = self.unet(inputs, timestep, encoder_hidden_states=tokens).sample
        return self.conditioning.prediction(output.to(noisy_latent.dtype), camera_condition)

    @scene_precision()
    def to_latent(
        self,
        image: Float[Tensor, "n 3 H W"],
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Return scaled latents of images in [0, 1] of any size; differentiable.

        Args:
            generator: One, or one per image: draws from the autoencoder's posterior, as training
                does; None takes the mode.
        """
        posterior = self._posterior(resize_image(image, (self.image_size_px, self.image_size_px)))
        latent = posterior.mode() if generator is None else drawn(posterior, generator)
        return latent.float() * self.vae.config["scaling_factor"]

    @scene_precision()
    def to_image(self, latent: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Return the images in [0, 1] of scaled latents."""
        unscaled = (latent / self.vae.config["scaling_factor"]).to(self._pixel_dtype)
        decoded: Any = self.vae.decode(unscaled)
        return (decoded.sample.float() * 0.5 + 0.5).clamp(0.0, 1.0)
