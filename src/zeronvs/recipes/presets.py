"""Recipes from a photograph to a scene. The presets are data; their numbers: docs/numbers.md."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.anchors import AnchorConfig
from zeronvs.distillation.config import DistillConfig, RenderStage
from zeronvs.distillation.losses import LossWeights
from zeronvs.distillation.noise_levels import PUBLISHED_STEPS, NoiseLevelConfig, PiecewiseLinear
from zeronvs.distillation.refresh import RefreshConfig
from zeronvs.distillation.surround import SurroundConfig
from zeronvs.distillation.viewpoints import ViewpointConfig
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.lift import LiftConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig

PresetName = Literal["preview", "field", "fast", "paper"]


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What is made of a finished scene."""

    size_px: int = 256
    """Longer side of the views and the video all the way round."""
    orbit_frames: int = 72
    """Frames of orbit.mp4 or around.mp4."""
    near_size_px: int = 256
    """Longer side of views.mp4, at most the photo's."""
    sway_frames: int = 48
    """Frames of views.mp4, which stays close to the photo."""
    splat_steps: int = 300
    """Gradient steps that make the splats look like the field."""
    mesh_resolution: int = 384
    """Cells along the longer side of the photo's part of the mesh."""


@dataclass(frozen=True, kw_only=True)
class LiftRecipe:
    """From a view with depth straight to splats: the photograph's own pixels, no diffusion."""

    lift: LiftConfig = field(default_factory=LiftConfig)
    outputs: OutputConfig = field(default_factory=OutputConfig)

    def identity(self) -> dict[str, Any]:
        """Return what two runs of one folder must agree on."""
        return {"lift": vars(self.lift), "outputs": vars(self.outputs)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """From a view to a radiance field: views sampled around and refreshed, score distillation."""

    distill: DistillConfig
    surround: SurroundConfig | None = None
    """Views sampled around the scene first, to which it is fitted; None: distillation alone."""
    outputs: OutputConfig = field(default_factory=OutputConfig)

    def identity(self) -> dict[str, Any]:
        """Return what two runs of one folder must agree on."""
        return {
            "recipe": self.distill.identity(),
            "sampled_views": vars(self.surround) if self.surround else None,
            "outputs": vars(self.outputs),
        }

    def with_settings(
        self,
        *,
        steps: int | None = None,
        anchors: int | None = None,
    ) -> "Recipe":
        """Return the recipe with some settings replaced; None keeps the recipe's own.

        Anchors condition score distillation: a number above 0 switches it on, at its published
        weight, where the recipe has none.

        Args:
            steps: Optimization steps; all other step numbers are scaled in proportion.
            anchors: Number of anchor views.
        """
        distill = self.distill if steps is None else self.distill.with_steps(steps)
        if anchors is not None:
            distill = replace(distill, anchors=replace(distill.anchors, count=anchors))
        if anchors and not distill.uses_sds:
            weights = replace(distill.weights, sds=LossWeights().sds)
            distill = replace(distill, weights=weights)
        return replace(self, distill=distill)

    def fitted_to(self, pipe: ZeroNVSPipeline, *, guidance_scale: float | None = None) -> "Recipe":
        """Return the recipe with score distillation scaled to a model; once per recipe.

        The loss is a sum over the latent, so its weight is kept per latent number. A kind of model
        with sampling defaults of its own samples the anchors with them.

        Args:
            pipe: The model.
            guidance_scale: Classifier-free guidance of score distillation and of refreshed views;
                None: the kind's own, else the recipe's.
        """
        kind, distill = pipe.conditioning, self.distill
        weights = replace(distill.weights, sds=kind.sds_weight(distill.weights.sds))
        distill = replace(distill, weights=weights)
        if kind.sds_guidance_scale is not None:
            anchors = replace(distill.anchors, **kind.sampling_defaults._asdict())
            distill = replace(distill, anchors=anchors, guidance_scale=kind.sds_guidance_scale)
        guidance = kind.sampling_defaults.guidance_scale
        if kind.sds_guidance_scale is not None and distill.refresh is not None:
            refresh = replace(distill.refresh, guidance_scale=guidance)
            distill = replace(distill, refresh=refresh)
        if guidance_scale is not None:
            refresh = distill.refresh and replace(distill.refresh, guidance_scale=guidance_scale)
            distill = replace(distill, guidance_scale=guidance_scale, refresh=refresh)
        return replace(self, distill=distill)


PREVIEW = LiftRecipe(
    outputs=OutputConfig(size_px=512, orbit_frames=60, near_size_px=1024, sway_frames=36)
)
"""For a laptop: the photograph's pixels on their surfaces, and what they hide continued."""

DRAFT = LiftRecipe(
    lift=LiftConfig(fill_side_px=192, surround_width_px=576, color_steps=3),
    outputs=OutputConfig(size_px=256, orbit_frames=36, near_size_px=384, sway_frames=24),
)
"""The preview in a third of the time."""

_NEAR_THE_PHOTO = ViewpointConfig(elevation_range_rad=None, sphere_sampling="uniform")
"""Elevations at which a model that has seen the photo alone is still reliable."""

FIELD_STEPS = 320

FIELD = Recipe(
    surround=SurroundConfig(),
    distill=DistillConfig(
        steps=FIELD_STEPS,
        stages=(RenderStage(from_step=0, sds_views=1, sds_size_px=64, reference_size_px=128),),
        weights=LossWeights(
            sds=0.0,
            normal_smoothness=0.0,
            orientation=0.0,
            distortion=1.0,
            supervised_depth=600.0,
            free_space=200.0,
        ),
        noise_levels=NoiseLevelConfig().compressed(FIELD_STEPS / PUBLISHED_STEPS),
        anchors=AnchorConfig(count=0, gate_depth="surface"),
        viewpoints=_NEAR_THE_PHOTO.compressed(FIELD_STEPS / PUBLISHED_STEPS),
        reference_rays=768,
        supervised_rays=2304,
        supervised_error="huber",
        field_learning_rate=PiecewiseLinear(((0, 2e-2), (200, 1e-2), (320, 1e-3))),
        proposal_learning_rate=PiecewiseLinear(((0, 2e-2), (200, 1e-2), (320, 1e-3))),
        field_config=FieldConfig.small(),
        proposal_config=ProposalConfig.small(),
        render_config=RenderConfig.small(),
    ),
    outputs=OutputConfig(
        size_px=160, orbit_frames=48, sway_frames=20, splat_steps=60, mesh_resolution=160
    ),
)
"""For a processor: a small field fitted to views sampled around the scene; --anchors distils it."""

FAST_STEPS = 1200

FAST = Recipe(
    surround=SurroundConfig(
        count=7,
        num_inference_steps=50,
        least_trust=0.1,
        nearness_rad=1.0,
        start_level=0.8,
    ),
    distill=DistillConfig(
        steps=FAST_STEPS,
        stages=(RenderStage(from_step=0, sds_views=2, sds_size_px=128, reference_size_px=256),),
        weights=LossWeights(
            sds=0.0,
            normal_smoothness=0.0,
            orientation=0.0,
            distortion=1.0,
            supervised_depth=600.0,
            free_space=200.0,
        ),
        noise_levels=NoiseLevelConfig().compressed(FAST_STEPS / PUBLISHED_STEPS),
        anchors=AnchorConfig(count=0, num_inference_steps=50, gate_depth="surface"),
        viewpoints=_NEAR_THE_PHOTO.compressed(FAST_STEPS / PUBLISHED_STEPS),
        reference_rays=2048,
        supervised_rays=8192,
        refresh=RefreshConfig(),
        field_learning_rate=PiecewiseLinear(((0, 1e-2), (600, 5e-3), (1200, 5e-4))),
        proposal_learning_rate=PiecewiseLinear(((0, 1e-2), (600, 5e-3), (1200, 5e-4))),
        proposal_config=ProposalConfig(contracted=True),
    ),
)
"""For one GPU: views sampled outwards, a short fit, then views refreshed from the scene in turn."""

PAPER = Recipe(distill=DistillConfig())
"""The published recipe: 4,000 steps of anchored score distillation (paper B.1, B.2)."""

PRESETS: dict[PresetName, LiftRecipe | Recipe] = {
    "preview": PREVIEW,
    "field": FIELD,
    "fast": FAST,
    "paper": PAPER,
}
