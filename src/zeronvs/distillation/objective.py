"""Training objective of one distillation step: reference view, supervised views, SDS.

A step yields its parts in sequence, so that the caller can backpropagate each part and free its
graph before the next is rendered ("accumulate" in the published configs).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zeronvs._core.random import seeded_generator, sent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.diffusion.condition import Condition, join_conditions
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.anchors import anchor_gate, choose_conditions, nearest_view
from zeronvs.distillation.config import DistillConfig, RenderStage
from zeronvs.distillation.losses import (
    clearance_loss,
    depth_error,
    free_space_loss,
    normal_smoothness_loss,
    opaque_loss,
    robust_error,
)
from zeronvs.distillation.noise_levels import draw_timesteps
from zeronvs.distillation.sds import gate_gradient, sds_gradient, sds_loss
from zeronvs.distillation.supervision import (
    SupervisedViews,
    jittered,
    random_pixels,
    resized_view,
    step_generator,
)
from zeronvs.distillation.viewpoints import random_viewpoints
from zeronvs.protocols import GeometryEstimator
from zeronvs.scene.field_scene import FieldRendering, FieldScene
from zeronvs.scene.renderer import RayLosses, RayRendering

LossTerms = dict[str, Float[Tensor, ""]]
"""Weighted loss terms by name; their sum is what is minimised."""


def latents_of_views(
    pipe: ZeroNVSPipeline, image: Float[Tensor, "n 3 H W"], generator: torch.Generator
) -> Float[Tensor, "n c h w"]:
    """Return scaled latents of rendered views, differentiable, and drawn from their posteriors.

    The graph of a view (0.8 GB in the released autoencoder) is not kept but made again in the
    backward pass, one view after another.
    """

    def encode(view: Tensor, seed: int) -> Tensor:
        return pipe.to_latent(view, seeded_generator(seed))

    seeds = torch.randint(2**62, (len(image),), generator=generator).tolist()
    latents = [
        checkpoint(encode, view[None], seed, use_reentrant=False, preserve_rng_state=False)
        for view, seed in zip(image, seeds, strict=True)
    ]
    return torch.cat(latents)


@dataclass(frozen=True, eq=False)
class KnownViews:
    """Conditions of the diffusion model: the photo (first) and the anchors."""

    condition: Condition
    camera_to_world: Float[Tensor, "m 4 4"]

    @classmethod
    def encode(
        cls,
        pipe: ZeroNVSPipeline,
        input_view: View,
        anchors: View | None,
        scene_scale: float,
        geometry_estimator: GeometryEstimator | None = None,
    ) -> "KnownViews":
        """Encode the photo (one view) and the anchors (a batch).

        The estimator predicts the depth of views that lack it, where the model needs depth.
        """
        views = [input_view.batched()] + ([] if anchors is None else [anchors])
        condition = join_conditions(
            [pipe.encode(view, scene_scale, geometry_estimator) for view in views]
        )
        return cls(condition, torch.cat([view.camera.camera_to_world for view in views]))


@dataclass(frozen=True, eq=False, kw_only=True)
class Objective:
    """The loss of a scene at each step."""

    scene: FieldScene
    config: DistillConfig
    seed: int
    input_view: View
    """The photo, one view, at the scene's canonical camera."""
    elevation_rad: float
    supervised: SupervisedViews | None = None
    pipe: ZeroNVSPipeline | None = None
    """None where the recipe has no score distillation."""
    known: KnownViews | None = None

    def parts(self, step: int) -> Iterator[LossTerms]:
        """Yield the weighted loss terms of each render of `step` (from 0)."""
        weights = self.config.weights
        if weights.rgb > 0:
            whole = self.config.reference_rays is None
            yield self._photo(step) if whole else self._photo_rays(step)
        if self.supervised is not None and weights.supervised_rgb > 0:
            yield self._supervised_rays(step, self.supervised)
        if self.config.uses_sds:
            yield self._score_distillation(step)

    def _photo(self, step: int) -> LossTerms:
        """Return the loss of the whole photo."""
        weights, generator = self.config.weights, step_generator(self.seed, step, "photo")
        view = self._photo_views[self.config.stage(step)]
        rendering = self._render(view.camera.batched(), generator)
        terms = {"rgb": weights.rgb * (rendering.rgb[0] - view.image).square().mean()}
        if weights.supervised_depth > 0 and view.depth_z is not None:
            error = depth_error(rendering.depth_z[0].flatten(), view.depth_z.flatten())
            terms["depth"] = weights.supervised_depth * error.mean()
        return terms | self._regularizers(rendering, "photo")

    def _photo_rays(self, step: int) -> LossTerms:
        """Return the loss of random rays of the photo."""
        generator = step_generator(self.seed, step, "photo")
        count = self.config.reference_rays or 0
        views = SupervisedViews(self._photo_views[self.config.stage(step)].batched())
        return self._rays(views, count, self.config.weights.rgb, "rgb", generator)

    @cached_property
    def _photo_views(self) -> dict[RenderStage, View]:
        """The photo at the size of each stage, its camera displaced once for the stage."""
        views = {}
        for stage in self.config.stages:
            view = resized_view(self.input_view, stage.reference_size_px)
            generator = step_generator(self.seed, stage.from_step, "photo camera")
            camera = jittered(view.camera, self.config.reference_ray_noise, generator)
            views[stage] = View(view.image, camera, view.depth_z)
        return views

    @cached_property
    def _input_distance(self) -> float:
        """Distance of the photo's camera from the origin, scene units; read once from a GPU."""
        return float(self.input_view.camera.position.norm())

    @cached_property
    def _fov_y_rad(self) -> float:
        """The photo's field of view."""
        return float(self.input_view.camera.fov_y_rad)

    def _supervised_rays(self, step: int, supervised: SupervisedViews) -> LossTerms:
        """Return the loss of random rays of the supervised views."""
        generator = step_generator(self.seed, step, "supervised")
        if self.config.refresh is not None:
            supervised = supervised.with_first_weight(self.config.refresh.first_weight(step))
        weights, count = self.config.weights, self.config.supervised_rays
        terms = self._rays(supervised, count, weights.supervised_rgb, "supervised", generator)
        if weights.free_space > 0:
            rays = random_pixels(supervised, count // 4, generator)
            between_rad = 2.0 * math.pi / (len(supervised.views) + 1)
            lost = clearance_loss(
                self.scene.field, rays.origins, rays.directions, between_rad, generator
            )
            terms["clearance"] = weights.free_space * lost
        return terms

    def _rays(
        self,
        views: SupervisedViews,
        count: int,
        weight: float,
        name: str,
        generator: torch.Generator,
    ) -> LossTerms:
        """Return the loss of `count` random rays of some views."""
        config, weights = self.config, self.config.weights
        pixels = random_pixels(views, count, generator)
        rendering = self.scene.render_rays(
            pixels.origins,
            pixels.directions,
            background=self._background(count, generator),
            generator=generator,
            with_losses=self._ray_losses,
        )
        kind = "squared" if name == "rgb" else config.supervised_error
        error = robust_error(rendering.rgb - pixels.rgb, kind, config.supervised_knee)
        terms = {name: weight * (pixels.trust[:, None] * error).mean()}
        if weights.supervised_depth > 0 and views.views.depth_z is not None:
            depth_z = rendering.distance * pixels.z_per_unit_distance
            error = pixels.trust * depth_error(depth_z, pixels.depth_z)
            terms[f"{name} depth"] = weights.supervised_depth * error.mean()
        if weights.free_space > 0 and views.views.depth_z is not None:
            near = config.render_config.near
            margin = config.free_space_margin
            lost = free_space_loss(self.scene.field, pixels, near, generator, margin=margin)
            terms[f"{name} free space"] = weights.free_space * lost
        return terms | self._ray_regularizers(rendering, name)

    def _score_distillation(self, step: int) -> LossTerms:
        """Return the SDS loss of random views."""
        pipe, known, config = self.pipe, self.known, self.config
        if pipe is None or known is None:
            raise ValueError("score distillation needs a diffusion model and the encoded photo")
        stage, generator = config.stage(step), step_generator(self.seed, step, "sds")
        viewpoints = random_viewpoints(
            config.viewpoints,
            stage.sds_views,
            step,
            input_elevation_rad=self.elevation_rad,
            input_distance=self._input_distance,
            generator=generator,
        )
        cameras = viewpoints.cameras(self._fov_y_rad, (stage.sds_size_px, stage.sds_size_px))
        cameras = cameras.to(self.input_view.image.device)
        rendering = self._render(cameras, generator)

        nearest = nearest_view(cameras.camera_to_world, known.camera_to_world)
        accumulated = config.anchors.gate_depth == "accumulated"
        depth = rendering.accumulated_distance if accumulated else rendering.depth_z
        passes = anchor_gate(nearest, depth, config.anchors.depth_threshold)
        chosen = choose_conditions(nearest, config.anchors.probability, generator)
        timestep = draw_timesteps(
            config.noise_levels,
            step,
            viewpoints.azimuth_distance_rad,
            num_timesteps=len(pipe.alphas_cumprod),
            generator=generator,
        )
        latent = latents_of_views(pipe, gate_gradient(rendering.rgb, passes), generator)
        with torch.no_grad():
            camera_condition = pipe.prepare(known.condition[chosen], cameras)
        noise = sent(torch.randn(latent.shape, generator=generator), latent.device)
        gradient = sds_gradient(
            pipe,
            latent,
            sent(timestep, latent.device),
            noise,
            camera_condition,
            config.guidance_scale,
        )
        terms = {"sds": config.weights.sds * sds_loss(latent, gradient)}
        return terms | self._regularizers(rendering, "sds")

    def _render(self, cameras: Camera, generator: torch.Generator) -> FieldRendering:
        """Render whole images with stratified samples and the recipe's background."""
        return self.scene.render(
            cameras,
            background=self._background(len(cameras), generator),
            generator=generator,
            with_normals=self.config.weights.needs_normals,
            with_losses=self._ray_losses,
        )

    @property
    def _ray_losses(self) -> RayLosses:
        """Which losses of single rays are needed."""
        weights = self.config.weights
        return RayLosses(interlevel=weights.interlevel > 0, distortion=weights.distortion > 0)

    def _background(self, count: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
        """Return one background colour per image or ray."""
        if self.config.random_background:
            background = torch.rand((count, 3), generator=generator)
        else:
            background = torch.tensor(self.config.background).expand(count, 3)
        return sent(background, self.input_view.image.device)

    def _regularizers(self, rendering: FieldRendering, name: str) -> LossTerms:
        """Return the regularisers of whole images."""
        weights = self.config.weights
        terms = self._ray_regularizers(rendering, name)
        if weights.orientation > 0:
            terms[f"{name} orientation"] = weights.orientation * rendering.orientation_loss
        if weights.normal_smoothness > 0 and rendering.normal is not None:
            smoothness = normal_smoothness_loss(rendering.normal, rendering.opacity)
            terms[f"{name} smoothness"] = weights.normal_smoothness * smoothness
        return terms

    def _ray_regularizers(self, rendering: FieldRendering | RayRendering, name: str) -> LossTerms:
        """Return the regularisers that are defined on single rays."""
        weights = self.config.weights
        terms = {}
        if weights.interlevel > 0:
            terms[f"{name} interlevel"] = weights.interlevel * rendering.interlevel_loss.mean()
        if weights.distortion > 0:
            terms[f"{name} distortion"] = weights.distortion * rendering.distortion_loss.mean()
        if weights.opaque > 0:
            terms[f"{name} opaque"] = weights.opaque * opaque_loss(rendering.opacity)
        return terms
