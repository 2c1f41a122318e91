"""Iterative dataset update: sampled views are replaced by renderings that the model has denoised.

A view of the scene as it is now is given noise and denoised in a few steps, conditioned on a known
view nearby. The result agrees with the scene up to details that the model improves, and becomes the
target that the scene is fitted to, so that views come to agree with each other
(Instruct-NeRF2NeRF, arXiv:2303.12789).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.cameras.poses import rotation_angle_rad
from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.sampling import Start
from zeronvs.distillation.anchors import quantized
from zeronvs.distillation.noise_levels import PiecewiseLinear
from zeronvs.distillation.supervision import SupervisedViews, step_generator
from zeronvs.distillation.surround import LEAST_KNOWN, aligned_disparity
from zeronvs.protocols import GeometryEstimator, Rendering, Scene

_GREY = (0.5, 0.5, 0.5)
_FALLING_NOISE = PiecewiseLinear(((400, 0.7), (1200, 0.2)))
_FALLING_WEIGHT = PiecewiseLinear(((0, 1.0), (600, 0.2)))


@dataclass(frozen=True, kw_only=True)
class RefreshConfig:
    """Settings of the iterative dataset update; step numbers refer to a run of 1,200 steps."""

    from_step: int = 400
    """First step before which a view is replaced."""
    every: int = 8
    """Steps from one view to the next; they take turns, nearest to the photo first."""
    noise_level: PiecewiseLinear = _FALLING_NOISE
    """Noise given to a rendering, as a fraction of the training timesteps."""
    num_inference_steps: int = 10
    """DDIM steps from that noise to a clean view."""
    guidance_scale: float = 3.5
    """Classifier-free guidance; 1 = none."""
    first_weight: PiecewiseLinear = _FALLING_WEIGHT
    """Factor on the weight of views that have not been replaced yet."""

    def is_due(self, step: int) -> bool:
        """Whether a view is replaced before `step` (from 0)."""
        return step >= self.from_step and (step - self.from_step) % self.every == 0

    def compressed(self, factor: float) -> "RefreshConfig":
        """Return the same settings with the step numbers of all schedules multiplied by a factor.

        The distance between two views stays: a shorter run replaces fewer.
        """
        return replace(
            self,
            from_step=round(self.from_step * factor),
            noise_level=self.noise_level.compressed(factor),
            first_weight=self.first_weight.compressed(factor),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Refresher:
    """Replaces supervised views, one at a time."""

    pipe: ZeroNVSPipeline
    config: RefreshConfig
    seed: int
    input_view: View
    """The photo, one view."""
    scene_scale: float
    """Scene units per model unit."""
    geometry_estimator: GeometryEstimator | None = None
    """Predicts the depth of new views; None: a new view keeps the depth of that before."""

    @torch.no_grad()
    def refreshed(self, scene: Scene, supervised: SupervisedViews, step: int) -> SupervisedViews:
        """Return the views with the one whose turn it is replaced."""
        views = supervised.views
        row = (step - self.config.from_step) // self.config.every % len(views)
        camera = views.camera[[row]]
        rendering = scene.render(camera, background=torch.tensor(_GREY))
        level = self.config.noise_level(step)
        draw = step_generator(self.seed, step, "refresh")
        image = self.pipe.sample(
            self.pipe.encode(self._nearest(views, row), self.scene_scale, self.geometry_estimator),
            camera,
            [int(torch.randint(2**62, (), generator=draw))],
            # So many over the whole schedule that those below the level are as many as wanted.
            num_inference_steps=round(self.config.num_inference_steps / level),
            guidance_scale=self.config.guidance_scale,
            eta=0.0,
            start=Start(latent=self.pipe.to_latent(rendering.rgb), noise_level=level),
        )
        target = View(quantized(image), camera, self._depth(image, rendering, supervised, row))
        return supervised.replaced(row, target)

    def _nearest(self, views: View, row: int) -> View:
        """Return the photo or the view, other than that of the row, that is nearest to it.

        Of two at the same angle the first: the photo, or the one on its side.
        """
        photo = self.input_view.center_square().resized(*views.camera.image_size_px)
        known = [photo.batched(), *(views[[k]] for k in range(len(views)) if k != row)]
        poses = torch.cat([view.camera.camera_to_world for view in known])
        target = views.camera.camera_to_world[[row]].expand_as(poses)
        return known[int(rotation_angle_rad(poses, target).round(decimals=3).argmin())]

    def _depth(
        self,
        image: Float[Tensor, "1 3 h w"],
        rendering: Rendering,
        supervised: SupervisedViews,
        row: int,
    ) -> Float[Tensor, "1 h w"] | None:
        """Return the depth of a new view: estimated, aligned to the rendering, known where it was.

        It stays as it was where the rendering is too thin to align to.
        """
        before = supervised.views.depth_z
        solid = rendering.opacity > 0.5
        if before is None or self.geometry_estimator is None or solid.float().mean() < LEAST_KNOWN:
            return None if before is None else before[[row]]
        relative = self.geometry_estimator.estimate(image).scaled_depth(1.0)
        disparity = aligned_disparity(relative, rendering.depth_z, solid)
        farthest = float(rendering.depth_z[solid].amax())
        depth_z = 1.0 / disparity.clamp(min(1.0 / farthest, 5.0), 5.0)
        if supervised.confidence is None:
            return depth_z
        return torch.where(supervised.confidence[[row]] < 1.0, depth_z, before[[row]])
